import { z } from 'zod';
import { about, bytes, ms } from './common.ts';

export const snapshot = z.strictObject({
  /** Two keep both ends busy; more would take connections and memory, and the sinks take one batch at a time anyway. */
  workers: z
    .number()
    .int()
    .min(1)
    .max(32)
    .default(2)
    .meta(about('Parallel readers of the first copy, and tables that later snapshots read at once.')),
  /**
   * Each chunk costs a transaction, a watermark and a saved cursor, and the sink a look at all that it holds of the table.
   * A row group of DuckDB has 122,880 rows: whole ones go to the file at once, without the log and its checkpoints.
   * Some more, since rows that change while a chunk is read are left out of it.
   */
  chunkRows: z
    .number()
    .int()
    .min(1)
    .default(131_072)
    .meta(
      about(
        'Most rows of one chunk of an incremental snapshot; where they make row groups, the last one may have one more.',
      ),
    ),
  /** A few chunks are in memory at once: one that is read, one that waits for its place, one that is applied. */
  chunkBytesMax: bytes
    .default(16 * 1024 * 1024)
    .meta(about('Bytes that a chunk aims at; twice as much is never passed by more than one row.')),
  /** About 100 bytes each. */
  notedKeysMax: z
    .number()
    .int()
    .min(1)
    .default(200_000)
    .meta(about('Keys, changed while a table is read, that are remembered; past it chunks are read again.')),
  /** Nothing is held up unasked. */
  rowsPerSecondMax: z
    .number()
    .int()
    .min(1)
    .optional()
    .meta(about('Most rows a second that an incremental snapshot reads, per table; no limit when left out.')),
  /** One small query of the catalog. */
  tablesIntervalMs: ms
    .default(5000)
    .meta(about('How often to look for tables that came, went, or are published in another way.')),
});
