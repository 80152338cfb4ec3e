import { WaltideError } from '../errors.ts';
import { ChangeEvent, type Transaction } from '../event/change-event.ts';
import type { Column, Relation } from '../event/relation.ts';
import { relationName } from '../event/relation.ts';
import { type RowTexts, rowOfTexts } from '../event/row-text.ts';
import { retryId } from './dead-letter.ts';
import type { DeadLetter } from './table.ts';

type Value = RowTexts[string] | undefined;

/**
 * The event that applies a letter once more: its row as a snapshot would bring it, under the table's columns of now (`now`;
 * null = as they were), at the letter's own position. What an update left out comes from the letters that it superseded
 * (`earlier`, newest first). Throws SINK_REJECTED, naming what to do, where values are missing that nobody here has.
 */
export function reviveLetter(letter: DeadLetter, earlier: readonly DeadLetter[], now: Relation | null): ChangeEvent {
  const relation = now ?? letter.relation;
  const transaction: Transaction = {
    xid: letter.xid,
    commitLsn: letter.position.commitLsn,
    commitTimeUs: BigInt(letter.committedAt.getTime()) * 1000n,
    snapshot: { id: retryId(letter.id, letter.forced), kind: 'partial', sinks: [letter.sink] },
    origin: null,
  };
  const { seq } = letter.position;
  const row = (side: 'before' | 'after'): ReturnType<typeof rowOfTexts> | null =>
    letter[side] && rowOfTexts(relation, valuesOf(letter, earlier, relation, side));
  if (letter.op === 'd') return new ChangeEvent('d', transaction, seq, seq, 0n, relation, row('before'), null);
  return new ChangeEvent('r', transaction, seq, seq, 0n, relation, null, row('after'));
}

function valuesOf(
  letter: DeadLetter,
  earlier: readonly DeadLetter[],
  relation: Relation,
  side: 'before' | 'after',
): Value[] {
  return relation.columns.map((column, index) => {
    const own = heldBy(letter, side, column);
    const value = own ?? (own === undefined ? firstOf(earlier, column) : null);
    if (value !== undefined && !(value !== null && typeof value === 'object' && 'bytes' in value)) return value;
    // Of an old row, what names it is enough.
    if (side === 'before' && relation.key.length > 0 && !relation.key.includes(index)) return null;
    if (letter.forced && value === undefined && !knows(letter.relation, column)) return null;
    throw missing(letter, column, value !== undefined);
  });
}

function firstOf(earlier: readonly DeadLetter[], column: Column): Value {
  for (const letter of earlier) {
    const value = heldBy(letter, 'after', column);
    if (value !== undefined) return value;
  }
  return undefined;
}

/** The value of the same column, which may have had another name. Under FULL the old row has what the new one leaves out. */
function heldBy(letter: DeadLetter, side: 'before' | 'after', column: Column): Value {
  const known = knows(letter.relation, column);
  if (!known) return undefined;
  const value = letter[side]?.[known.name];
  if (value !== undefined || side === 'before' || letter.relation.replicaIdentity !== 'f') return value;
  return letter.before?.[known.name];
}

function knows({ columns }: Relation, { attnum, name }: Column): Column | undefined {
  const numbered = attnum !== undefined && columns.every((column) => column.attnum !== undefined);
  return columns.find((column) => (numbered ? column.attnum === attnum : column.name === name));
}

function missing(letter: DeadLetter, column: Column, tooLong: boolean): WaltideError {
  const why = tooLong
    ? `the letter has only the length of column "${column.name}"`
    : knows(letter.relation, column)
      ? `the change left out the unchanged value of column "${column.name}"`
      : `column "${column.name}" came after the letter`;
  return new WaltideError(
    'SINK_REJECTED',
    `letter ${letter.id} of ${relationName(letter)} cannot be applied as it is: ${why}`,
    `Read the row anew: waltide snapshot start ${relationName(letter)} --sink ${letter.sink} --where "…".`,
  );
}
