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
}

/** Prefix of the transactional messages that mark a place in the stream: there a snapshot's rows are woven in. */
export const WATERMARK_PREFIX = 'waltide.watermark';
