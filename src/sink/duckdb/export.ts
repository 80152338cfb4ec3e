import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import duckdb, { type Connection } from '@duckdb/node-bindings';
import type { DuckdbSinkConfig } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import { formatLsn } from '../../event/lsn.ts';
import { relationName } from '../../event/relation.ts';
import { failpoint } from '../../failpoint.ts';
import type { Log } from '../../log.ts';
import { fileError, syncTree } from '../durable-files.ts';
import { ExportFolder, pathPart } from '../export-folder.ts';
import type { Sink } from '../sink.ts';
import type { Exported, ExportedTable, ExportRequest, UpkeepWatch } from '../upkeep.ts';
import { isOutOfMemory, storeError } from './database.ts';
import { chooseTables, type HeldTable, readContents, type StoreContents } from './held-tables.ts';
import { foldName, quoteName, quoteText } from './names.ts';
import { onStore } from './on-store.ts';
import { readOnly } from './query.ts';
import { readRows } from './state.ts';

/** Of one table. More would be as many small files, and as many buffers. */
const PARTITIONS_MAX = 10_000;
/** Of the memory: that much of a row group is gathered by each thread before it is written. */
const ROW_GROUP_SHARE = 1 / 12;

/**
 * Writes tables as Parquet, all from one state of the store: from a copy of the file while `live` is applied to, so that neither
 * waits for the other; from the file itself where nobody has it open. Readers see the whole export or none of it.
 */
export function exportTables(
  config: DuckdbSinkConfig,
  live: Sink | null,
  request: ExportRequest,
  { log, watch }: { readonly log: Log; readonly watch: UpkeepWatch },
): Promise<Exported> {
  return onStore(config, live, watch.signal, async (file) => {
    const connection = await file.connect();
    try {
      const contents = await readContents(connection, { ...file, sink: config.name });
      const tables = chooseTables(request.tables, contents.tables);
      if (tables.length === 0)
        throw new WaltideError('USAGE', 'the sink holds no table yet', 'Fill it with `waltide run` first.');
      for (const table of tables) checkPartition(table, request);
      const folder = await ExportFolder.begin(request.to, contents.owner, log);
      try {
        const written: ExportedTable[] = [];
        // The condition is whoever asks' own SQL.
        await file.confine(folder.path);
        await readOnly(connection, watch.signal, async () => {
          for (const table of tables) {
            await checkStatement(connection, table, request);
            written.push(await writeTable(connection, table, folder.path, request, file.memoryBytes));
            watch.note(sum(written, ({ rows }) => rows));
            failpoint('during-export');
          }
        }).catch((error: unknown) => {
          watch.signal.throwIfAborted();
          throw exportError(error, request.to);
        });
        const manifest = manifestOf(contents, written, request);
        return { path: await folder.publish(manifest, request.keep), manifest };
      } finally {
        await folder.discard();
      }
    } finally {
      duckdb.disconnect_sync(connection);
    }
  });
}

function manifestOf(contents: StoreContents, tables: readonly ExportedTable[], request: ExportRequest) {
  const { compression, rowGroupSize, partitionBy, where } = request;
  return {
    format: 'waltide-export',
    version: 1,
    owner: contents.owner,
    lsn: formatLsn(contents.lsn),
    exportedAt: new Date().toISOString(),
    compression,
    rowGroupSize,
    partitionBy,
    where,
    rows: sum(tables, ({ rows }) => rows),
    bytes: sum(tables, ({ bytes }) => bytes),
    tables,
  } as const;
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}

function checkPartition(table: HeldTable, { partitionBy }: ExportRequest): void {
  const known = new Set(table.columns.map(foldName));
  const missing = partitionBy.find((column) => !known.has(foldName(column)));
  if (missing !== undefined)
    throw new WaltideError(
      'USAGE',
      `${relationName(table)} has no column "${missing}" to be partitioned by`,
      'Name the tables that have it.',
    );
  if (partitionBy.length > 0 && partitionBy.length === table.columns.length)
    throw new WaltideError(
      'USAGE',
      `${relationName(table)} has no columns beside those that it is to be partitioned by`,
      'Partition by fewer columns.',
    );
}

function selectOf({ name }: HeldTable, where: string | null): string {
  return where === null ? `SELECT * FROM ${name}` : `SELECT * FROM ${name} WHERE (\n${where}\n)`;
}

/** What is put into COPY is one SELECT by itself: a condition cannot end it and begin something else. */
async function checkStatement(
  connection: Connection,
  table: HeldTable,
  { where, partitionBy }: ExportRequest,
): Promise<void> {
  const sql = selectOf(table, where);
  const wrong = (why: string, cause?: unknown): WaltideError =>
    new WaltideError(
      'USAGE',
      `--where, on ${relationName(table)}: ${why}`,
      'Give one condition of DuckDB, on columns that each of the tables has.',
      { cause },
    );
  if (where !== null) {
    try {
      const { extracted_statements: statements, statement_count: count } = await duckdb.extract_statements(
        connection,
        sql,
      );
      if (count !== 1) throw wrong('it is not one condition');
      const prepared = await duckdb.prepare_extracted_statement(connection, statements, 0);
      const type = duckdb.prepared_statement_type(prepared);
      duckdb.destroy_prepare_sync(prepared);
      if (type !== duckdb.StatementType.SELECT) throw wrong('it is not a condition');
    } catch (error) {
      throw error instanceof WaltideError ? error : wrong(messageOf(error).split('\n', 1)[0]!, error);
    }
  }
  if (partitionBy.length === 0) return;
  const columns = partitionBy.map(quoteName).join(', ');
  const [[partitions] = [0n]] = await readRows(
    connection,
    `SELECT count(*) FROM (SELECT DISTINCT ${columns} FROM (\n${sql}\n) LIMIT ${PARTITIONS_MAX + 1})`,
  );
  if (Number(partitions) > PARTITIONS_MAX)
    throw new WaltideError(
      'USAGE',
      `${relationName(table)} would be in more than ${PARTITIONS_MAX} partitions`,
      'Partition by columns with fewer values.',
    );
}

async function writeTable(
  connection: Connection,
  table: HeldTable,
  folder: string,
  request: ExportRequest,
  memoryBytes: number,
): Promise<ExportedTable> {
  const { schema, notFollowed } = table;
  const path = `${pathPart(schema)}/${pathPart(table.table)}`;
  const directory = join(folder, ...path.split('/'));
  await mkdir(directory, { recursive: true });
  const select = selectOf(table, request.where);
  // Of no rows there are no partitions; a reader finds the columns all the same.
  const [[any] = [false]] = await readRows(connection, `SELECT EXISTS (\n${select}\n)`);
  const partitioned = request.partitionBy.length > 0 && any === true;
  const options = [
    'FORMAT parquet',
    `COMPRESSION ${request.compression}`,
    `ROW_GROUP_SIZE ${request.rowGroupSize}`,
    // Whichever is reached first: long rows in groups of a million would take gigabytes.
    `ROW_GROUP_SIZE_BYTES '${Math.round(memoryBytes * ROW_GROUP_SHARE)}B'`,
    ...(partitioned
      ? [
          `PARTITION_BY (${request.partitionBy.map(quoteName).join(', ')})`,
          'WRITE_PARTITION_COLUMNS true',
          'OVERWRITE_OR_IGNORE true',
        ]
      : []),
  ];
  const target = partitioned ? directory : join(directory, 'data.parquet');
  const [[rows] = [0n]] = await readRows(
    connection,
    `COPY (\n${select}\n) TO ${quoteText(target)} (${options.join(', ')})`,
  );
  const files = await syncTree(directory);
  return {
    schema,
    table: table.table,
    rows: Number(rows),
    bytes: sum(files, ({ bytes }) => bytes),
    files: files.map((file) => `${path}/${file.path}`),
    notFollowed,
  };
}

function exportError(error: unknown, to: string): WaltideError {
  if (error instanceof WaltideError) return error;
  if ((error as NodeJS.ErrnoException).syscall) return fileError(`writing to ${to}`, error);
  const failure = storeError(`exporting to ${to}`, error);
  if (failure.code === 'SINK_FULL')
    return new WaltideError('SINK_FULL', failure.message, 'Free space there; the last export is still whole.', {
      cause: error,
    });
  if (isOutOfMemory(error))
    return new WaltideError(
      'SINK',
      failure.message,
      "Raise the sink's memoryLimit, or give a smaller row group size or fewer partitions.",
      { cause: error },
    );
  return failure;
}
