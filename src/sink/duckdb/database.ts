import { closeSync, openSync } from 'node:fs';
import { mkdir, readdir, realpath, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import duckdb, { type Connection, type Database } from '@duckdb/node-bindings';
import { messageOf, WaltideError } from '../../errors.ts';
import { quoteText } from './names.ts';

export interface DatabaseOptions {
  readonly path: string;
  readonly memoryLimit: string;
  readonly threads: number;
  /** For a file that nothing of a user's comes near before `confine`: it may touch other files, and use all of `memoryLimit`, or more. */
  readonly exports?: { readonly bytesMin: number };
  readonly s3: boolean;
}

/** POSIX locks do not hold between two openers of one process, so those are told apart here. */
const openPaths = new Set<string>();

/** One open DuckDB file, with the one connection that writes to it. */
export class DuckdbFile {
  readonly path: string;
  readonly connection: Connection;
  /** The catalog's name in SQL, made from the file's name by DuckDB. */
  readonly catalog: string;
  /** What DuckDB counts at most, in general. */
  readonly memoryBytes: number;
  readonly #database: Database;
  readonly #memoryLimit: string;
  #readFd: number | null = null;
  #holds = 0;
  #allowedBytes: number;
  #tidies: keyof typeof VACUUM_TASKS = 'little';
  #threads: number;

  private constructor(
    path: string,
    { memoryLimit, threads }: DatabaseOptions,
    memoryBytes: number,
    database: Database,
    connection: Connection,
    catalog: string,
  ) {
    this.path = path;
    this.#memoryLimit = memoryLimit;
    this.#threads = threads;
    this.memoryBytes = memoryBytes;
    this.#allowedBytes = memoryBytes;
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
      // What the log holds may be more than the narrower limit can checkpoint; then every commit would end in giving up.
      await duckdb.query(connection, 'CHECKPOINT');
      if (options.s3) await loadS3(connection, path);
      // Last, since afterwards no file but this one can be touched: neither by us nor by a user's query.
      if (!options.exports) await duckdb.query(connection, 'SET GLOBAL enable_external_access = false');
      const limit = options.exports
        ? Math.max(options.exports.bytesMin, countedBytes(options.memoryLimit, true))
        : countedBytes(options.memoryLimit, false);
      await duckdb.query(connection, `SET GLOBAL TimeZone = 'UTC'; SET GLOBAL memory_limit = '${limit}B'`);
      const result = await duckdb.query(connection, 'SELECT current_database()');
      const chunk = await duckdb.fetch_chunk(result);
      const catalog = new TextDecoder().decode(firstText(chunk!));
      return new DuckdbFile(path, options, limit, database, connection, catalog);
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

  /**
   * From now on no file can be touched but this one and those below `directory`, and no setting changed: what a user's
   * condition names cannot be read. Rejects like any statement.
   */
  async confine(directory: string): Promise<void> {
    await duckdb.query(
      this.connection,
      `SET GLOBAL allowed_directories = [${quoteText(directory)}]; SET GLOBAL enable_external_access = false;
       SET GLOBAL lock_configuration = true`,
    );
  }

  /**
   * Lets DuckDB count up to all of the configured limit and `moreBytes` beyond, or (null) only the usual half. Rejects like any
   * statement.
   */
  async allowMemory(moreBytes: number | null): Promise<void> {
    const bytes = countedBytes(this.#memoryLimit, moreBytes !== null) + (moreBytes ?? 0);
    if (bytes === this.#allowedBytes) return;
    this.#allowedBytes = bytes;
    await duckdb.query(this.connection, `SET GLOBAL memory_limit = '${bytes}B'`);
  }

  /**
   * How much checkpoints may tidy up: everything stands still while one merges row groups. `much` for who has asked for that;
   * `nothing` while chunks are loaded, each of which lies between a few changed rows, so that all of them would be written again.
   */
  async tidy(how: 'much' | 'little' | 'nothing'): Promise<void> {
    if (how === this.#tidies) return;
    this.#tidies = how;
    await duckdb.query(this.connection, `SET GLOBAL max_vacuum_tasks = ${VACUUM_TASKS[how]}`);
  }

  /** How many threads DuckDB has, the caller's among them. Those that go end first what they are at. */
  async useThreads(threads: number): Promise<void> {
    if (threads === this.#threads) return;
    await duckdb.query(this.connection, `SET GLOBAL threads = ${threads}`);
    this.#threads = threads;
  }

  /**
   * To read the file itself. Open until the file is closed: the first descriptor that a process closes takes the locks of
   * all others along, DuckDB's own too.
   */
  get readFd(): number {
    this.#readFd ??= openSync(this.path, 'r');
    return this.#readFd;
  }

  /** Until it is released as often, commits are only appended to the log. Rejects like any statement. */
  async holdCheckpoints(hold: boolean): Promise<void> {
    this.#holds += hold ? 1 : -1;
    if (this.#holds !== (hold ? 1 : 0)) return;
    const bytes = hold ? 2 ** 60 : checkpointBytes(countedBytes(this.#memoryLimit, false));
    await duckdb.query(this.connection, `SET GLOBAL checkpoint_threshold = '${bytes}B'`);
  }

  close(): void {
    duckdb.disconnect_sync(this.connection);
    duckdb.close_sync(this.#database);
    if (this.#readFd !== null) closeSync(this.#readFd);
    openPaths.delete(this.path);
  }
}

/** What DuckDB counts is half of what it takes: allocators keep freed memory, and buffers of a load are not counted. */
const COUNTED = 0.5;
const COUNTED_BYTES_MIN = 64 * 2 ** 20;
const OPENING_BYTES_MIN = 2 ** 30;

/** Of a table in one checkpoint; each writes up to four row groups again. 100 is DuckDB's default. */
const VACUUM_TASKS = { much: 100, little: 1, nothing: 0 } as const;

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  K: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  KI: 2 ** 10,
  MI: 2 ** 20,
  GI: 2 ** 30,
  TI: 2 ** 40,
};

/** Bytes of a size such as `256MB` or `1.5GiB`, as the configuration's schema lets through. */
function sizeBytes(size: string): number {
  const match = /^([\d.]+)\s*([KMGT]?I?)B$/i.exec(size);
  return match ? Number(match[1]) * (UNITS[match[2]!.toUpperCase()] ?? 1) : 0;
}

function countedBytes(memoryLimit: string, all: boolean): number {
  return Math.round(Math.max(COUNTED_BYTES_MIN, sizeBytes(memoryLimit) * (all ? 1 : COUNTED)));
}

/** Rows stay in memory until a checkpoint, so its interval is part of the memory, too. 16 MB is DuckDB's default. */
function checkpointBytes(counted: number): number {
  return Math.round(Math.max(16 * 2 ** 20, counted / 8));
}

function configOf(options: DatabaseOptions, path: string): duckdb.Config {
  const config = duckdb.create_config();
  const counted = countedBytes(options.memoryLimit, false);
  const settings = {
    // Opening replays what was not checkpointed, which must never fail for want of memory; narrowed right afterwards.
    memory_limit: `${Math.max(sizeBytes(options.memoryLimit), OPENING_BYTES_MIN)}B`,
    threads: String(options.threads),
    temp_directory: `${path}.tmp`,
    // Rows of a table have no order; keeping one costs memory.
    preserve_insertion_order: 'false',
    checkpoint_threshold: `${checkpointBytes(counted)}B`,
    max_vacuum_tasks: String(VACUUM_TASKS.little),
    // Freed memory goes back to the system soon, in the background, not when the next 128 MB are needed.
    allocator_background_threads: 'true',
    allocator_flush_threshold: '4MB',
    allocator_bulk_deallocation_flush_threshold: '4MB',
    // Nothing is fetched from the net because a query happens to name a function.
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
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

/** Loads what reads and writes s3://, and allows that alone beside the file. */
async function loadS3(connection: Connection, path: string): Promise<void> {
  try {
    await duckdb.query(connection, "LOAD httpfs; SET GLOBAL allowed_directories = ['s3://']");
  } catch (error) {
    throw new WaltideError(
      'SINK_INVALID',
      `${path}: s3 is true, and DuckDB's extension httpfs cannot be loaded: ${firstLine(duckdbMessage(error))}`,
      "Install it once, where there is a network: `INSTALL httpfs` in DuckDB's own command line, of the same version and as the same user; or set s3: false.",
      { cause: error },
    );
  }
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
  const message = duckdbMessage(error);
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
  return BLAMES_DATA.test(duckdbMessage(error)) && !isFatal(error);
}

/** True where DuckDB refuses everything from now on until the file is opened again. */
export function isFatal(error: unknown): boolean {
  return /^(FATAL|INTERNAL) Error|has been invalidated|Connection.* (closed|disconnected)/i.test(duckdbMessage(error));
}

/** True where rows are marked by another transaction, or by one that was given up. */
export function isConflict(error: unknown): boolean {
  return /^(TransactionContext|Transaction) Error: .*Conflict on/i.test(duckdbMessage(error));
}

/** True where a COMMIT did its work, and only the checkpoint after it failed, with which DuckDB gives up. */
export function isCommitted(error: unknown): boolean {
  return /COMMIT succeeded and is durable/i.test(duckdbMessage(error));
}

/** True where a statement needed more than the memory limit. */
export function isOutOfMemory(error: unknown): boolean {
  return (
    /^Out of Memory Error|could not allocate block|failed to pin block/i.test(duckdbMessage(error)) && !isFatal(error)
  );
}

/** SINK_FULL or SINK, which may both pass by themselves; INTERNAL for a fault of this program. */
export function storeError(doing: string, error: unknown): WaltideError {
  if (error instanceof WaltideError) return error;
  const text = duckdbMessage(error);
  const message = `${doing}: ${firstLine(text)}`;
  if (error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError) {
    return new WaltideError('INTERNAL', message, 'Please report this with the log.', { cause: error });
  }
  if (/No space left|disk full|max_temp_directory_size|Could not write all bytes|ENOSPC/i.test(text)) {
    const help = 'Free space on the disk of the DuckDB file; nothing is lost meanwhile.';
    return new WaltideError('SINK_FULL', message, help, { cause: error });
  }
  const help = isOutOfMemory(error)
    ? "Raise the sink's memoryLimit: a row or a batch needs more than that."
    : 'Look at the disk and the memory limit of the DuckDB sink if this goes on.';
  return new WaltideError('SINK', message, help, { cause: error });
}

/** DuckDB's message. Where its C API throws, that is JSON. */
function duckdbMessage(error: unknown): string {
  const message = messageOf(error);
  if (!message.startsWith('{"exception_type"')) return message;
  try {
    const { exception_type: type, exception_message: text } = JSON.parse(message) as Record<string, string>;
    return `${type} Error: ${text}`;
  } catch {
    return message;
  }
}

export function firstLine(message: string): string {
  return message.split('\n', 1)[0]!;
}
