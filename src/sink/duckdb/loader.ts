import { randomInt } from 'node:crypto';
import duckdb, { type Connection, type DataChunk } from '@duckdb/node-bindings';
import type { Load } from './chunk.ts';
import { Shares, type Taker } from './shares.ts';

/** Taken by no one else: a query that names it is refused unless it also knows the number of a running load. */
const FUNCTION = '_waltide_rows';

/** One stores a chunk while the next one is filled for the other. */
const THREADS_MAX = 2;
/** A load of one chunk gives the second thread nothing but an empty one. */
const SMALL_ROWS = duckdb.vector_size();

interface Running {
  readonly shares: Shares;
  readonly threads: number;
  failure: unknown;
}

/**
 * Rows as a table function, so that DuckDB pulls them chunk by chunk from its own thread while it inserts or joins:
 * JavaScript only fills one chunk of 2,048 rows at a time, and other work of the process runs between two. The function is
 * the database's: loads may run on several of its connections at once.
 */
export class Loader {
  readonly #connection: Connection;
  readonly #rowBytesMax: number;
  readonly #loads: Map<bigint, Running>;
  readonly #threads: number;

  /** `among`: a loader of another connection to the same file. Beside its loads, those of this one take a single thread. */
  constructor(connection: Connection, rowBytesMax: number, among: Loader | null = null) {
    this.#connection = connection;
    this.#rowBytesMax = rowBytesMax;
    this.#threads = among ? 1 : THREADS_MAX;
    this.#loads = among ? among.#loads : new Map();
    if (!among) register(connection, this.#loads);
  }

  /** For another connection to the same file, whose loads leave the first one's a share of the threads. */
  on(connection: Connection): Loader {
    return new Loader(connection, this.#rowBytesMax, this);
  }

  /**
   * Runs one statement that reads the load as `from` (columns c0, c1, …, in the load's order) and returns its result.
   * Rejects with the ValueError or RejectedError of the value that could not be loaded, else with DuckDB's error.
   */
  async run(load: Load, statement: (from: string) => string): Promise<duckdb.Result> {
    const token = BigInt(randomInt(2 ** 47));
    const shares = new Shares(load, this.#rowBytesMax);
    const threads = shares.rows > SMALL_ROWS ? this.#threads : 1;
    const running: Running = { shares, threads, failure: null };
    this.#loads.set(token, running);
    try {
      return await duckdb.query(this.#connection, statement(`${FUNCTION}(${token})`));
    } catch (error) {
      throw running.failure ?? error;
    } finally {
      this.#loads.delete(token);
    }
  }
}

function register(connection: Connection, loads: ReadonlyMap<bigint, Running>): void {
  const f = duckdb.create_table_function();
  duckdb.table_function_set_name(f, FUNCTION);
  duckdb.table_function_add_parameter(f, duckdb.create_logical_type(duckdb.Type.BIGINT));
  duckdb.table_function_set_bind(f, (info) => {
    const running = loads.get(duckdb.get_int64(duckdb.bind_get_parameter(info, 0)));
    if (!running) return duckdb.bind_set_error(info, `${FUNCTION} is for Waltide itself`);
    const { shares } = running;
    for (const { name, type } of shares.columns()) duckdb.bind_add_result_column(info, name, type);
    duckdb.bind_set_cardinality(info, shares.rows, true);
    duckdb.bind_set_bind_data(info, running);
  });
  duckdb.table_function_set_init(f, (info) => {
    const { shares, threads } = duckdb.init_get_bind_data(info) as Running;
    duckdb.init_set_max_threads(info, threads);
    shares.rewind();
  });
  duckdb.table_function_set_local_init(f, (info) => {
    duckdb.init_set_init_data(info, (duckdb.init_get_bind_data(info) as Running).shares.taker());
  });
  duckdb.table_function_set_function(f, (info, output: DataChunk) => {
    try {
      (duckdb.function_get_local_init_data(info) as Taker).next(output);
    } catch (error) {
      (duckdb.function_get_bind_data(info) as Running).failure ??= error;
      duckdb.function_set_error(info, 'a value could not be loaded');
    }
  });
  duckdb.register_table_function(connection, f);
}
