import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { formatPosition } from '../event/position.ts';
import { rereadLetters } from './reread.ts';
import { type DeadLetter, discardLetters, type LetterFilter, listLetters, requestRetry } from './table.ts';

/** Rows that are read anew at once. */
const REREAD_MAX = 500;

export interface AskedRetry {
  /** Letters that the processes which hold their sinks are to apply. */
  readonly asked: readonly number[];
  /** Letters of what never came into the log, whose rows are read anew. */
  readonly reread: readonly number[];
}

/**
 * Asks for letters to be applied again. Where ids are named, all or nothing: throws NOT_FOUND for one that is not there, and
 * DEAD_LETTER for one that is not open, unless forced.
 */
export async function askRetry(
  client: pg.Client,
  slot: string,
  filter: LetterFilter,
  force: boolean,
): Promise<AskedRetry> {
  for (const letter of filter.ids ? await named(client, slot, filter.ids) : [])
    if (letter.state !== 'open' && (!force || letter.state === 'superseded' || letter.state === 'retrying'))
      throw closedError(letter, true);
  const lost = { ...filter, states: ['open'], sink: '*' } as const;
  const ofLog = filter.sink === undefined || filter.sink === '*';
  const letters = ofLog ? await listLetters(client, slot, lost, { max: REREAD_MAX }) : [];
  const reread = letters.length > 0 ? await rereadLetters(client, slot, letters) : [];
  return { asked: await requestRetry(client, slot, filter, force), reread };
}

/** Gives letters up. Where ids are named, all or nothing, as `askRetry`. Resolves with their ids. */
export async function askDiscard(
  client: pg.Client,
  slot: string,
  filter: LetterFilter,
  reason: string,
): Promise<number[]> {
  for (const letter of filter.ids ? await named(client, slot, filter.ids) : [])
    if (letter.state !== 'open' && letter.state !== 'retrying') throw closedError(letter, false);
  return discardLetters(client, slot, filter, reason);
}

export async function oneLetter(client: pg.Client, slot: string, id: number): Promise<DeadLetter> {
  return (await named(client, slot, [id]))[0]!;
}

async function named(client: pg.Client, slot: string, ids: readonly number[]): Promise<DeadLetter[]> {
  const found = await listLetters(client, slot, { ids }, { max: Math.max(1, ids.length) });
  const gone = ids.filter((id) => !found.some((letter) => letter.id === id));
  if (gone.length === 0) return found;
  throw new WaltideError('NOT_FOUND', `there is no dead letter ${gone.join(', ')}`, 'See `waltide dead-letter list`.');
}

function closedError({ id, state, supersededBy, closedBy }: DeadLetter, retry: boolean): WaltideError {
  const why = {
    open: '',
    retrying: 'it is being retried',
    retried: 'it was applied already',
    resolved: `a later change of the row was applied${closedBy ? ` (${formatPosition(closedBy)})` : ''}`,
    superseded: `a later change of the row was refused, too: letter ${supersededBy}`,
    discarded: 'it was discarded',
  }[state];
  const forcing = retry ? 'To force it makes the row as the letter has it.' : 'Nothing is left to be given up.';
  const newer = `${retry ? 'Retry' : 'See'} letter ${supersededBy}, which has the row as it is now.`;
  const help = state === 'superseded' ? newer : forcing;
  return new WaltideError('DEAD_LETTER', `letter ${id} is ${state}: ${why}`, help);
}
