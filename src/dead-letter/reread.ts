import pg from 'pg';
import { WaltideError } from '../errors.ts';
import { relationName } from '../event/relation.ts';
import { requestSnapshot } from '../postgres/snapshots.ts';
import type { DeadLetter } from './table.ts';

/**
 * Retries letters of changes that never came into the log: their rows are read anew by a partial snapshot, which goes the way
 * of every change, to every sink. Resolves with the ids of letters whose rows are asked for. Throws USAGE, with nothing asked for,
 * where a row cannot be named or a snapshot of the table is under way.
 */
export async function rereadLetters(
  client: pg.Client,
  slot: string,
  letters: readonly DeadLetter[],
): Promise<number[]> {
  const tables = new Map<number, DeadLetter[]>();
  for (const letter of letters) tables.set(letter.tableOid, [...(tables.get(letter.tableOid) ?? []), letter]);
  const asked: number[] = [];
  await client.query('BEGIN');
  try {
    for (const [oid, some] of tables) {
      const [first] = some;
      const table = { oid, schema: first!.schema, table: first!.table };
      const request = {
        slot,
        table,
        kind: 'partial',
        where: whereOf(some),
        reason: 'dead letters are retried',
      } as const;
      if ((await requestSnapshot(client, request)) === null)
        throw new WaltideError(
          'USAGE',
          `a snapshot of ${relationName(table)} is under way already`,
          'See `waltide snapshot list`; retry when it has ended.',
        );
      asked.push(...some.map(({ id }) => id));
    }
    await client.query(
      `UPDATE waltide.dead_letters SET state = 'retried', attempts = attempts + 1, updated_at = now(), closed_at = now(),
         closed_reason = 'its row was read anew' WHERE id = ANY ($1)`,
      [asked],
    );
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    throw error;
  }
  return asked;
}

/** The rows of these letters, all of one table, as a condition. */
function whereOf(letters: readonly DeadLetter[]): string {
  const { relation, id } = letters[0]!;
  if (relation.key.length === 0)
    throw new WaltideError(
      'USAGE',
      `letter ${id}: table ${relationName(relation)} has no key by which its row could be read anew`,
      `Read the whole table anew: waltide snapshot start ${relationName(relation)}.`,
    );
  const columns = relation.key.map((index) => pg.escapeIdentifier(relation.columns[index]!.name));
  const rows = letters.map(
    ({ row }) => `(${(JSON.parse(row) as string[]).map((text) => pg.escapeLiteral(text)).join(', ')})`,
  );
  return `(${columns.join(', ')}) IN (${rows.join(', ')})`;
}
