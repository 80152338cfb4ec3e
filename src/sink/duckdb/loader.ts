import { randomInt } from 'node:crypto';
import duckdb, { type Connection, type DataChunk } from '@duckdb/node-bindings';
import type { Load } from './chunk.ts';
import { Shares, type Taker } from './shares.ts';

/** Taken by no one else: a query that names it is refused unless it also knows the number of a running load. */
const FUNCTION = '_waltide_rows';

/** One stores a chunk while the next one is filled for the other. */
const THREADS_MAX = 2;

/**
 * Rows as a table function, so that DuckDB pulls them chunk by chunk from its own thread while it inserts or joins:
 * JavaScript only fills one chunk of 2,048 rows at a time, and other work of the process runs between two.
 */
export class Loader {
  readonly #connection: Connection;
  readonly #rowBytesMax: number;
  readonly #loads = new Map<bigint, Shares>();
  #failure: unknown = null;

  constructor(connection: Connection, rowBytesMax: number) {
    this.#connection = connection;
    this.#rowBytesMax = rowBytesMax;
    this.#register();
  }

  /**
   * Runs one statement that reads the load as `from` (columns c0, c1, …, in the load's order) and returns its result.
   * Rejects with the ValueError or RejectedError of the value that could not be loaded, else with DuckDB's error.
   */
  async run(load: Load, statement: (from: string) => string): Promise<duckdb.Result> {
    const token = BigInt(randomInt(2 ** 47));
    this.#loads.set(token, new Shares(load, this.#rowBytesMax));
    this.#failure = null;
    try {
      return await duckdb.query(this.#connection, statement(`${FUNCTION}(${token})`));
    } catch (error) {
      throw this.#failure ?? error;
    } finally {
      this.#loads.delete(token);
    }
  }

  #register(): void {
    const f = duckdb.create_table_function();
    duckdb.table_function_set_name(f, FUNCTION);
    duckdb.table_function_add_parameter(f, duckdb.create_logical_type(duckdb.Type.BIGINT));
    duckdb.table_function_set_bind(f, (info) => {
      const shares = this.#loads.get(duckdb.get_int64(duckdb.bind_get_parameter(info, 0)));
      if (!shares) return duckdb.bind_set_error(info, `${FUNCTION} is for Waltide itself`);
      for (const { name, type } of shares.columns()) duckdb.bind_add_result_column(info, name, type);
      duckdb.bind_set_cardinality(info, shares.rows, true);
      duckdb.bind_set_bind_data(info, shares);
    });
    duckdb.table_function_set_init(f, (info) => {
      duckdb.init_set_max_threads(info, THREADS_MAX);
      (duckdb.init_get_bind_data(info) as Shares).rewind();
    });
    duckdb.table_function_set_local_init(f, (info) => {
      duckdb.init_set_init_data(info, (duckdb.init_get_bind_data(info) as Shares).taker());
    });
    duckdb.table_function_set_function(f, (info, output: DataChunk) => {
      try {
        (duckdb.function_get_local_init_data(info) as Taker).next(output);
      } catch (error) {
        this.#failure ??= error;
        duckdb.function_set_error(info, 'a value could not be loaded');
      }
    });
    duckdb.register_table_function(this.#connection, f);
  }
}
