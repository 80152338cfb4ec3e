import { mkdir, readdir, realpath, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import duckdb, { type Connection, type Database } from '@duckdb/node-bindings';
import { messageOf, WaltideError } from '../../errors.ts';

export interface DatabaseOptions {
  readonly path: string;
  readonly memoryLimit: string;
  readonly threads: number;
}

/** POSIX locks do not hold between two openers of one process, so those are told apart here. */
const openPaths = new Set<string>();

/** One open DuckDB file, with the one connection that writes to it. */
export class DuckdbFile {
  readonly path: string;
  readonly connection: Connection;
  /** The catalog's name in SQL, made from the file's name by DuckDB. */
  readonly catalog: string;
  readonly #database: Database;

  private constructor(path: string, database: Database, connection: Connection, catalog: string) {
    this.path = path;
    this.#database = database;
    this.connection = connection;
    this.catalog = catalog;
  }

  /** Opens or creates the file, and its directory. Throws SINK_LOCKED, SINK_INVALID, SINK_FULL or SINK. */
  static async open(options: DatabaseOptions): Promise<DuckdbFile> {
    const path = await absolute(options.path);
    if (openPaths.has(path)) throw lockedError(path, `this process (${process.pid})`);
    openPaths.add(path);
    let database: Database | null = null;
    let connection: Connection | null = null;
    try {
      database = await duckdb.open(path, configOf(options, path));
      connection = await duckdb.connect(database);
      await removeSpill(path);
      // Last, since afterwards no file but this one can be touched: neither by us nor by a user's query.
      await duckdb.query(connection, `SET GLOBAL TimeZone = 'UTC'; SET GLOBAL enable_external_access = false`);
      const result = await duckdb.query(connection, 'SELECT current_database()');
      const chunk = await duckdb.fetch_chunk(result);
      const catalog = new TextDecoder().decode(firstText(chunk!));
      return new DuckdbFile(path, database, connection, catalog);
    } catch (error) {
      if (connection) duckdb.disconnect_sync(connection);
      if (database) duckdb.close_sync(database);
      openPaths.delete(path);
      throw openError(path, error);
    }
  }

  /** A further connection, for queries. The caller disconnects it. */
  connect(): Promise<Connection> {
    return duckdb.connect(this.#database);
  }

  close(): void {
    duckdb.disconnect_sync(this.connection);
    duckdb.close_sync(this.#database);
    openPaths.delete(this.path);
  }
}

function configOf(options: DatabaseOptions, path: string): duckdb.Config {
  const config = duckdb.create_config();
  const settings = {
    memory_limit: options.memoryLimit,
    threads: String(options.threads),
    temp_directory: `${path}.tmp`,
    // Rows of a table have no order; keeping one costs memory.
    preserve_insertion_order: 'false',
    // The default of 16 MB would checkpoint after nearly every batch and write each row twice within a second.
    checkpoint_threshold: '128MB',
    // Nothing is fetched from the net because a query happens to name a function.
    autoinstall_known_extensions: 'false',
  };
  for (const [name, value] of Object.entries(settings)) duckdb.set_config(config, name, value);
  return config;
}

function firstText(chunk: duckdb.DataChunk): Uint8Array {
  const data = duckdb.vector_get_data(duckdb.data_chunk_get_vector(chunk, 0), 16);
  const length = new DataView(data.buffer, data.byteOffset, 16).getUint32(0, true);
  if (length <= 12) return data.slice(4, 4 + length);
  return duckdb.get_data_from_pointer(data.buffer as ArrayBuffer, data.byteOffset + 8, length);
}

/** The path with its directory's links resolved, so that one file has one name. Creates the directory. */
async function absolute(path: string): Promise<string> {
  const full = resolve(path);
  try {
    await mkdir(dirname(full), { recursive: true });
    return await realpath(full).catch(async () => join(await realpath(dirname(full)), basename(full)));
  } catch (error) {
    throw new WaltideError(
      'SINK_INVALID',
      `the directory of ${full} cannot be created: ${messageOf(error)}`,
      'Give the sink a path in a directory that can be written.',
      {
        cause: error,
      },
    );
  }
}

/** A killed process leaves its spilled blocks behind. The lock is ours by now, so nobody uses them. */
async function removeSpill(path: string): Promise<void> {
  const directory = `${path}.tmp`;
  const names = await readdir(directory).catch(() => []);
  for (const name of names) if (name.startsWith('duckdb_temp_')) await rm(join(directory, name), { force: true });
}

function lockedError(path: string, holder: string, cause?: unknown): WaltideError {
  return new WaltideError(
    'SINK_LOCKED',
    `the DuckDB file ${path} is locked by ${holder}`,
    'Only one process can open a DuckDB file: close the other one, or query through `waltide query` while Waltide runs.',
    { cause },
  );
}

function openError(path: string, error: unknown): WaltideError {
  if (error instanceof WaltideError) return error;
  const message = messageOf(error);
  if (/Could not set lock|Conflicting lock|being used by another process/i.test(message)) {
    const pid = /PID (\d+)/.exec(message);
    return lockedError(path, pid ? `process ${pid[1]}` : 'another process', error);
  }
  if (
    /not a valid DuckDB database|Is a directory|Permission denied|newer version|storage version|Could not read|corrupt|Serialization Error/i.test(
      message,
    )
  ) {
    return new WaltideError(
      'SINK_INVALID',
      `${path} cannot be opened as a DuckDB file: ${firstLine(message)}`,
      'Give the sink another path, or move that file away.',
      {
        cause: error,
      },
    );
  }
  return storeError(`opening ${path}`, error);
}

/** Where a message of DuckDB blames one statement's data or names rather than the store. */
const BLAMES_DATA =
  /^(Conversion|Constraint|Out of Range|Binder|Catalog|Parser|Not implemented|Not Implemented|Invalid Input|Mismatch Type|Invalid type|Dependency|Syntax|Object Size|Serialization|Value Out Of Range) Error/i;

/** True where retrying the same statement gives the same error: the table's data or definition is at fault. */
export function blamesData(error: unknown): boolean {
  return BLAMES_DATA.test(messageOf(error)) && !isFatal(error);
}

/** True where DuckDB refuses everything from now on until the file is opened again. */
export function isFatal(error: unknown): boolean {
  return /^(FATAL|INTERNAL) Error|has been invalidated|Connection.* (closed|disconnected)/i.test(messageOf(error));
}

/** SINK_FULL or SINK: both may pass by themselves. */
export function storeError(doing: string, error: unknown): WaltideError {
  if (error instanceof WaltideError) return error;
  const message = firstLine(messageOf(error));
  if (/No space left|disk full|max_temp_directory_size|Could not write all bytes|ENOSPC/i.test(messageOf(error))) {
    return new WaltideError(
      'SINK_FULL',
      `${doing}: ${message}`,
      'Free space on the disk of the DuckDB file; nothing is lost meanwhile.',
      { cause: error },
    );
  }
  return new WaltideError(
    'SINK',
    `${doing}: ${message}`,
    'Look at the disk and the memory limit of the DuckDB sink if this goes on.',
    { cause: error },
  );
}

function firstLine(message: string): string {
  return message.split('\n', 1)[0]!;
}
