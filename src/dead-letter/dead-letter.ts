import type { ErrorCode } from '../errors.ts';
import type { ChangeEvent, Op, Transaction } from '../event/change-event.ts';
import type { Offset } from '../event/offset.ts';
import type { Position } from '../event/position.ts';
import type { Relation } from '../event/relation.ts';
import { rowJson } from '../event/row-text.ts';

/** The sink of letters that every sink lacks, since they never came into the log. */
export const EVERY_SINK = '*';

/** A change that was refused, with values of its own: it may outlive its batch. */
export interface NewLetter {
  readonly position: Position;
  readonly transaction: Pick<Transaction, 'xid' | 'commitTimeUs'>;
  readonly relation: Relation;
  readonly row: string; // What names it: see `rowName`.
  readonly op: Op;
  readonly before: string | null; // RowTexts as JSON.
  readonly after: string | null;
  readonly code: ErrorCode;
  readonly reason: string;
}

/** What is at `position` closes the letters of these rows: it brings them whole, takes them away, or is `refused` itself. */
export interface Settled {
  readonly table: number; // OID.
  readonly row: string | null; // Null for every row of the table.
  readonly position: Position;
  readonly refused: boolean;
}

/** A row that a sink lacks, or holds as it was before. */
export type OpenLetter = Pick<Settled, 'table'> & { readonly row: string };

/** The letters of one sink: what it must make durable before its offset passes a change that it could not take. */
export interface Letters {
  readonly perTableMax: number; // With more open ones, a table is set aside as a whole.
  /** Resolves = durable. A letter that is there already, since its change came again, has one attempt more. */
  save(aside: readonly NewLetter[], settled: readonly Settled[]): Promise<void>;
  open(): Promise<OpenLetter[]>;
  /** The sink begins after `offsets`: what lies beyond comes again, so that its letters are as they were there. */
  takeBack(offsets: readonly Offset[]): Promise<void>;
}

export function letterOf(
  event: ChangeEvent,
  row: string,
  reason: string,
  code: ErrorCode = 'SINK_REJECTED',
): NewLetter {
  const { position, transaction, relation, op, before, after } = event;
  const texts = { before: before && rowJson(before), after: after && rowJson(after) };
  return { position, transaction, relation: relation!, row, op, ...texts, code, reason };
}

/** A retried letter comes to its sink as a row of a snapshot with such an id. */
const RETRY = 'letter-';
export const retryId = (id: number, forced: boolean): string => `${RETRY}${forced ? 'forced-' : ''}${id}`;
/** Null for what was streamed or copied. `forced`: also where a later change of the row is in the sink. */
export function retryOf({ transaction: { snapshot } }: ChangeEvent): { readonly forced: boolean } | null {
  return snapshot?.id.startsWith(RETRY) ? { forced: snapshot.id.startsWith(`${RETRY}forced-`) } : null;
}
