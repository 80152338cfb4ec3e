import type pg from 'pg';
import type { Lsn } from '../event/lsn.ts';
import type { ReplicaIdentity } from '../event/relation.ts';
import { queryError } from '../postgres/connection.ts';
import { walPosition } from '../postgres/slot.ts';

/**
 * The key as the catalog has it now, and whether it is as old as what the slot still streams. It is where it came with its
 * table (attribute -1 is written then and never again), or where its rows are older than the slot's catalog_xmin: those
 * transactions had ended before the place that the slot is acknowledged to. Rows of a key are written anew by whatever changes it.
 */
const KEY = `
SELECT a.attname AS name,
  i.xmin = born.xmin AND a.xmin = born.xmin
    OR LEAST(pg_catalog.age(i.xmin), pg_catalog.age(a.xmin)) > pg_catalog.age(s.catalog_xmin) AS settled
FROM pg_catalog.pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_catalog.pg_attribute born ON born.attrelid = i.indrelid AND born.attnum = -1
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $2
WHERE i.indrelid = $1 AND k.position <= i.indnkeyatts AND i.indimmediate AND i.indisprimary
ORDER BY a.attnum`;

/** What tells rows apart. `from`: in transactions that commit beyond it the key counts; null where it counts already. */
export interface SettledKey {
  readonly names: readonly string[];
  readonly from: Lsn | null;
}

/**
 * The primary key, for identities under which pgoutput does not say (FULL and NOTHING), by what is true at the stream's
 * point: rows that a key tells apart now may have been alike there. `told` is what the capture trigger told last. Names are in
 * the order of the table's columns.
 */
export async function settledKey(
  client: pg.Client,
  oid: number,
  slot: string,
  told: readonly string[] | null,
): Promise<SettledKey> {
  try {
    const { rows } = await client.query<{ name: string; settled: boolean | null }>(KEY, [oid, slot]);
    const names = rows.map(({ name }) => name);
    const counts = rows.every(({ settled }) => settled === true) || JSON.stringify(names) === JSON.stringify(told);
    // Whoever writes to a table and whoever alters it wait for each other, so the order of their commits is theirs.
    return { names, from: counts ? null : (await walPosition(client)).inserted };
  } catch (error) {
    throw queryError(error, 'reading the key of a table');
  }
}

/** The identities for which `settledKey` is asked. */
export function needsSettledKey(identity: ReplicaIdentity): boolean {
  return identity === 'f' || identity === 'n';
}
