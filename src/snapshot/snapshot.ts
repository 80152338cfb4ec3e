/** How far a snapshot of one table is, for people: progress bars, logs, status, metrics. */
export interface SnapshotProgress {
  readonly table: string;
  readonly kind: 'initial' | 'incremental' | 'partial';
  readonly state: 'running' | 'paused' | 'completed' | 'cancelled' | 'failed';
  readonly rows: number;
  readonly bytes: number;
  /** The planner's guess; 0 when it has none. */
  readonly estimatedRows: number;
  /** True once it has ended, in whichever way. */
  readonly done: boolean;
  /** Why, where it has failed. */
  readonly error?: string;
}

/** How long the rest takes at this rate; null where there is no estimate, no rate yet, or the table has outgrown its estimate. */
export function secondsLeft(
  { rows, estimatedRows }: Pick<SnapshotProgress, 'rows' | 'estimatedRows'>,
  rowsPerSecond: number,
): number | null {
  return rowsPerSecond > 0 && estimatedRows > rows ? Math.ceil((estimatedRows - rows) / rowsPerSecond) : null;
}

/** What a record says of it, with how far it is by now. */
export function progressOf(
  record: Pick<SnapshotProgress, 'kind'> & { readonly schema: string; readonly table: string },
  state: SnapshotProgress['state'],
  { rows, bytes, estimatedRows }: Pick<SnapshotProgress, 'rows' | 'bytes' | 'estimatedRows'>,
): SnapshotProgress {
  const { schema, table, kind } = record;
  const done = state !== 'running' && state !== 'paused';
  return { table: `${schema}.${table}`, kind, state, rows, bytes, estimatedRows, done };
}

/** Prefix of the transactional messages that mark a place in the stream: there a snapshot's rows are woven in. */
export const WATERMARK_PREFIX = 'waltide.watermark';
