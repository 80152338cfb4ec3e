import duckdb, { type Connection } from '@duckdb/node-bindings';
import { copyTable, quoteName } from './names.ts';
import { alterTableSql, createTableSql, type SinkColumn } from './schema.ts';

/** Names of one table, none of them quoted. */
export interface TableName {
  readonly catalog: string;
  readonly schema: string;
  readonly table: string;
}

export function sqlName({ catalog, schema, table }: TableName): string {
  return [catalog, schema, table].map(quoteName).join('.');
}

/**
 * Creates, alters, renames and drops tables inside the writing transaction. DuckDB (1.5) refuses at COMMIT what altered
 * a table after stored rows of it were deleted, and loses those deletes when it reads its log again after a crash if the
 * table was renamed; what was inserted, and deletes that come later, are safe. So the table is copied first, then.
 */
export class Layout {
  readonly #connection: Connection;
  /** Tables, by SQL name, whose stored rows this transaction has deleted from. */
  readonly #deleted = new Set<string>();
  /** Tables that this transaction has made: none of their rows is stored yet. */
  readonly #made = new Set<string>();

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** A new transaction begins. */
  begin(): void {
    this.#deleted.clear();
    this.#made.clear();
  }

  /** To be told before rows are deleted or updated. */
  deletes(name: string): void {
    if (!this.#made.has(name)) this.#deleted.add(name);
  }

  async create(name: TableName, columns: readonly SinkColumn[]): Promise<void> {
    await this.#run(`CREATE SCHEMA IF NOT EXISTS ${quoteName(name.catalog)}.${quoteName(name.schema)}`);
    await this.#run(createTableSql(sqlName(name), columns));
    this.#made.add(sqlName(name));
  }

  async drop(name: TableName): Promise<void> {
    await this.#run(`DROP TABLE IF EXISTS ${sqlName(name)}`);
    this.#deleted.delete(sqlName(name));
    this.#made.delete(sqlName(name));
  }

  /** From one set of columns to another, which came of it by `evolve`. */
  async alter(name: TableName, before: readonly SinkColumn[], after: readonly SinkColumn[]): Promise<void> {
    await this.change(name, alterTableSql(sqlName(name), before, after));
  }

  /** Statements that change the table's columns. */
  async change(name: TableName, statements: readonly string[]): Promise<void> {
    if (statements.length > 0) await this.#settle(name);
    for (const statement of statements) await this.#run(statement);
  }

  /** To another schema, which DuckDB does not do by itself; or to a name that it does not tell apart. */
  async move(from: TableName, to: TableName, columns: readonly SinkColumn[]): Promise<void> {
    if (sqlName(from) === sqlName(to)) return;
    if (from.schema !== to.schema) {
      const names = columns.map((column) => quoteName(column.name)).join(', ');
      await this.create(to, columns);
      await this.#run(`INSERT INTO ${sqlName(to)} (${names}) SELECT ${names} FROM ${sqlName(from)}`);
      await this.drop(from);
      return;
    }
    const between = { ...from, table: copyTable(from.table) };
    if (from.table.toLowerCase() === to.table.toLowerCase()) await this.rename(from, between.table);
    await this.rename(from.table.toLowerCase() === to.table.toLowerCase() ? between : from, to.table);
  }

  /** Within one schema: DuckDB moves no table to another. */
  async rename(name: TableName, table: string): Promise<void> {
    await this.#settle(name);
    const from = sqlName(name);
    await this.#run(`ALTER TABLE ${from} RENAME TO ${quoteName(table)}`);
    if (this.#made.delete(from)) this.#made.add(sqlName({ ...name, table }));
  }

  /** Makes it a table without deleted rows. */
  async #settle(name: TableName): Promise<void> {
    const from = sqlName(name);
    if (!this.#deleted.has(from)) return;
    const copy = { ...name, table: copyTable(name.table) };
    await this.#run(`CREATE OR REPLACE TABLE ${sqlName(copy)} AS SELECT * FROM ${from}`);
    await this.drop(name);
    await this.#run(`ALTER TABLE ${sqlName(copy)} RENAME TO ${quoteName(name.table)}`);
    this.#made.add(from);
  }

  async #run(sql: string): Promise<void> {
    await duckdb.query(this.#connection, sql);
  }
}
