import type { Config } from '../config/schema.ts';
import type { Log } from '../log.ts';

/** Values by column, as JSON has them; bigint, Date and bytes are welcome. What is left out stays as it is in the table. */
export type PullRow = Readonly<Record<string, unknown>>;

/** Written in one transaction with its cursor: wholly, or not at all. */
export interface PullPage {
  readonly rows?: readonly PullRow[];
  /** Keys of rows that are no more; removed before `rows` are written. */
  readonly deletes?: readonly PullRow[];
  /** Where to go on once this page is written: any JSON. It comes back as `cursor`, also after a crash. */
  readonly cursor: unknown;
  /** Up to where this is, for people: `latest` of the run. */
  readonly latest?: string | Date;
}

export interface PullContext {
  readonly config: Config;
  readonly log: Log;
  /** Aborts when the run is cancelled or the process ends. */
  readonly signal: AbortSignal;
}

/** What a module of a `pull` schedule exports: pages from `cursor` on, null the first time. A page may come twice. */
export type Pull = (cursor: unknown, context: PullContext) => AsyncIterable<PullPage>;
