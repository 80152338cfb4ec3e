import { z } from 'zod';
import { about, bytes, ms, name, path } from './common.ts';
import { strategy } from './strategy.ts';

/** Each defaults to what the strategy stands for: config/strategy.ts. */
const batch = z.strictObject({
  rowsMax: z.number().int().positive().optional().meta(about('Most rows applied in one transaction of the sink.')),
  bytesMax: bytes.optional().meta(about('Most bytes applied in one transaction of the sink.')),
  lingerMs: z
    .number()
    .int()
    .nonnegative()
    .optional()
    .meta(about('How long to wait for more before a small batch is applied.')),
});

const breaker = z.strictObject({
  /** With the pauses between them, eight attempts take some 25 s: longer than a failover, or a restart. */
  failuresMax: z
    .number()
    .int()
    .min(1)
    .default(8)
    .meta(about('Failures in a row after which the sink is left alone for a while.')),
  openMs: ms.default(30_000).meta(about('How long it is left alone before one attempt tells whether it is back.')),
});

const duckdb = z.strictObject({
  name: name.meta(about('Unique; offsets are saved under it.')),
  type: z.literal('duckdb').meta(about('duckdb: one DuckDB database file.')),
  path: z.string().min(1).meta(path('The database file; created when absent.')),
  /**
   * Keeps the whole process under 400 MB while millions of rows pass; beyond it DuckDB spills to disk. Large random
   * updates of large tables like several times as much.
   */
  memoryLimit: z
    .string()
    .regex(/^\d+(\.\d+)?\s*([KMGTkmgt][iI]?[bB]|[bB])$/, 'must be a size such as 512MB')
    .default('160MB')
    .meta(
      about(
        'Memory for DuckDB: what it counts, and about as much that it does not. A batch that cannot be applied otherwise gets up to four times that, with a line in the log.',
      ),
    ),
  threads: z.number().int().min(1).default(2).meta(about("DuckDB's threads; one while a table is read again.")),
  /** Nothing outside of the file is reached because a query names it. */
  s3: z
    .boolean()
    .default(false)
    .meta(
      about(
        "Load DuckDB's extension httpfs, which must be installed, and let s3:// be read and written; nothing is ever fetched by itself.",
      ),
    ),
  /** Text keeps every value and every row; the type of one column is the smallest of the three losses. */
  onUnrepresentable: z
    .enum(['text', 'dead-letter', 'null'])
    .default('text')
    .meta(
      about(
        "A value that the column's DuckDB type cannot hold: text turns the column to VARCHAR, dead-letter sets the row aside, null stores NULL.",
      ),
    ),
  /** Storing a row takes about eight times its length; twice this is 2 GB. */
  rowBytesMax: bytes
    .max(536_870_912)
    .default(134_217_728)
    .meta(about('Longest row to store, in bytes of its text (two per byte of bytea); a longer one is set aside.')),
  /** Kafka deals with each table by itself, and so goes on with the others where one is slow. In-process they come in order anyway. */
  consistency: z
    .enum(['table', 'transaction'])
    .default('table')
    .meta(
      about(
        'Through Kafka, transaction puts whole source transactions together again: a reader never sees half of one.',
      ),
    ),
  /** A sink that follows is what people expect of a copy; whoever wants to look first has pause-table. */
  schemaChanges: z
    .enum(['evolve', 'pause-table', 'ignore-drops'])
    .default('evolve')
    .meta(
      about(
        'evolve follows the source; ignore-drops keeps columns and tables that it drops; pause-table stops the table.',
      ),
    ),
  /** A table dropped by mistake is worth more than a tidy file. */
  droppedTables: z
    .enum(['keep', 'drop'])
    .default('keep')
    .meta(about('What becomes of the rows of a table that the source drops, under schemaChanges: evolve.')),
  /** DuckDB keeps what is not committed in its file and on spill; deletes take memory, about 20 bytes per row. */
  transactionBytesMax: bytes
    .default(4 * 1024 ** 3)
    .meta(
      about('A source transaction is one transaction here; of one larger than this, readers see parts as they come.'),
    ),
  strategy: strategy
    .optional()
    .meta(about('How changes are gathered before they are applied; default: as `strategy` of all.')),
  batch: batch.prefault({}).meta(about('Parts of it by number, where the strategy does not suit.')),
  breaker: breaker.prefault({}).meta(about('When a sink that fails again and again is left alone.')),
});

export const sink = z.discriminatedUnion('type', [duckdb]);
