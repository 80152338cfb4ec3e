import duckdb from '@duckdb/node-bindings';
import { RejectedError } from '../../errors.ts';
import type { CopiedRows } from '../../event/copied-rows.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import { encodeTuple, Row } from '../../event/row.ts';
import type { Compacted, CompactedBag, Merge, Stored } from '../compact.ts';
import { type Load, type LoadColumn, LoadError } from './chunk.ts';
import { keyNames } from './chunk-settle.ts';
import { Layout } from './layout.ts';
import type { Loader } from './loader.ts';
import { foldName, quoteName } from './names.ts';
import { type SinkColumn, targetOfColumn } from './schema.ts';

/**
 * A value that its column cannot hold as it is. The column must be altered, or the row left out, before the rows can be
 * loaded: see `DeliveryWriter.adapt`.
 */
export class MisfitError extends Error {
  readonly relation: Relation;
  readonly column: string;
  /** What an ENUM lacks; null where anything else is wrong. */
  readonly label: string | null;
  /** False where not even VARCHAR holds it. */
  readonly fitsText: boolean;

  constructor(relation: Relation, column: string, cause: LoadError) {
    super(cause.message, { cause });
    this.name = 'MisfitError';
    this.relation = relation;
    this.column = column;
    this.label = cause.label;
    this.fitsText = cause.fitsText;
  }
}

/** Completed rows wait here while the rows they came from are deleted. Temporary, so a failed transaction leaves nothing. */
const STAGED = 'temp.main."_waltide_merge"';

/** DuckDB's MAX_ROW_ID: the row ids of what a transaction has inserted begin here until it is committed. */
const UNCOMMITTED = 36_028_797_018_960_000n;

/** What one run of events is applied to: the table's SQL name, and the sink's column for each of the relation's. */
export interface RunTarget {
  readonly name: string;
  readonly relation: Relation;
  readonly stored: Stored;
  /** Null where the column has been dropped and added again later in the same delivery. */
  readonly columns: readonly (SinkColumn | null)[];
}

/** Finds each column of a relation among those of the sink as they will be after the whole delivery. */
export function runTarget(
  name: string,
  { relation, stored }: { readonly relation: Relation; readonly stored: Stored },
  atRun: readonly SinkColumn[],
  final: readonly SinkColumn[],
): RunTarget {
  const columns = relation.columns.map((column) => {
    const index = atRun.findIndex((candidate) => foldName(candidate.name) === foldName(column.name));
    const last = final[index]!;
    return last.generation === atRun[index]!.generation ? last : null;
  });
  return { name, relation, stored, columns };
}

/** Runs the statements of one run of one table. Everything happens in the caller's transaction. */
export class TableWriter {
  readonly #connection: duckdb.Connection;
  readonly #loader: Loader;
  readonly #layout: Layout;

  constructor(connection: duckdb.Connection, loader: Loader, layout: Layout) {
    this.#connection = connection;
    this.#loader = loader;
    this.#layout = layout;
  }

  /** The same on another connection, for a transaction that alters no table. */
  on(connection: duckdb.Connection): TableWriter {
    return new TableWriter(connection, this.#loader.on(connection), new Layout(connection));
  }

  async applyKeyed(target: RunTarget, changes: Compacted): Promise<void> {
    if (changes.truncate) await this.#truncate(target);
    await this.#checkMoved(target, changes);
    if (changes.merges.length > 0) await this.#stageMerges(target, changes.merges);
    if (changes.deletes.length > 0) await this.#deleteKeys(target, changes.deletes);
    await this.#insert(target, changes.inserts);
    if (changes.merges.length > 0) {
      await duckdb.query(
        this.#connection,
        `INSERT INTO ${target.name} (${columnList(target)}) SELECT * FROM ${STAGED}; DROP TABLE ${STAGED}`,
      );
    }
  }

  async applyBag(target: RunTarget, changes: CompactedBag): Promise<void> {
    if (changes.truncate) await this.#truncate(target);
    if (changes.deletes.length > 0) await this.#deleteWhole(target, changes);
    await this.#insert(target, changes.inserts);
  }

  async #truncate(target: RunTarget): Promise<void> {
    this.#layout.deletes(target.name);
    await duckdb.query(this.#connection, `DELETE FROM ${target.name}`);
  }

  /** Every row gets `text`, in PostgreSQL's form, as its value of `column`. */
  async fill(name: string, relation: Relation, column: SinkColumn, text: string): Promise<void> {
    const { name: only, type, modifier } = column;
    const narrow = { ...relation, columns: [{ name: only, type, modifier }], key: [] };
    const row = new Row(narrow, encodeTuple([text]), 0);
    const load: Load = { parts: [[row]], columns: [{ part: 0, column: 0, target: targetOfColumn(column) }] };
    this.#layout.deletes(name);
    await this.#run(
      { name, relation: narrow, stored: 'exact', columns: [column] },
      load,
      (from) => `UPDATE ${name} SET ${quoteName(only)} = k.c0 FROM ${from} AS k`,
    );
  }

  /** Each row has a key of its own, or none. */
  async insertCopied(target: RunTarget, rows: readonly CopiedRows[], replaces: boolean): Promise<void> {
    if (replaces && target.relation.key.length > 0) await this.#deleteKeys(target, rows);
    await this.#insert(target, rows);
  }

  /**
   * Makes table `noted` of the keys of what this transaction has inserted that were there before: see `chunk-settle.ts`. Resolves with
   * how many there are; rejects where it has not inserted `inserted` rows, as its row ids tell.
   */
  async noteFound({ name, relation, columns }: RunTarget, noted: string, inserted: number): Promise<number> {
    const own = await duckdb.query(this.#connection, `SELECT count(*) FROM ${name} WHERE rowid >= ${UNCOMMITTED}`);
    if ((await changedRows(own)) !== inserted) throw new Error('rows of a transaction are not known by their row ids');
    const names = keyNames(relation);
    const keys = relation.key.map((column, i) => `${quoteName(columns[column]!.name)} AS ${names[i]}`).join(', ');
    const result = await duckdb.query(
      this.#connection,
      `CREATE TABLE ${noted} AS SELECT ${names.join(', ')}, false AS gone
       FROM (SELECT ${keys} FROM ${name} WHERE rowid < ${UNCOMMITTED})
         SEMI JOIN (SELECT ${keys} FROM ${name} WHERE rowid >= ${UNCOMMITTED}) USING (${names.join(', ')})`,
    );
    return changedRows(result);
  }

  /** Adds those of the rows' keys that are among what this transaction has inserted. Resolves with how many it has added. */
  async noteGone(target: RunTarget, noted: string, rows: readonly Row[]): Promise<number> {
    const match = this.#keyMatch(target, 0);
    const keys = match.columns.map((_, index) => `k.c${index}`).join(', ');
    const insert = (from: string) =>
      `INSERT INTO ${noted} SELECT ${keys}, true FROM ${from} AS k JOIN ${target.name} AS t ON ${match.sql} WHERE t.rowid >= ${UNCOMMITTED}`;
    return changedRows(await this.#run(target, { parts: [rows], columns: match.columns }, insert));
  }

  async #insert(target: RunTarget, rows: readonly Row[] | readonly CopiedRows[]): Promise<void> {
    if (rows.length === 0) return;
    const columns = loaded(target, 0);
    const values = columns.map((_, index) => `c${index}`).join(', ');
    await this.#run(
      target,
      { parts: [rows], columns },
      (from) => `INSERT INTO ${target.name} (${columnList(target)}) SELECT ${values} FROM ${from}`,
    );
  }

  async #deleteKeys(target: RunTarget, rows: readonly Row[] | readonly CopiedRows[]): Promise<void> {
    const match = this.#keyMatch(target, 0);
    this.#layout.deletes(target.name);
    await this.#run(
      target,
      { parts: [rows], columns: match.columns },
      (from) => `DELETE FROM ${target.name} AS t USING ${from} AS k WHERE ${match.sql}`,
    );
  }

  #keyMatch(target: RunTarget, part: number, first = 0): { readonly columns: LoadColumn[]; readonly sql: string } {
    const { relation } = target;
    const columns: LoadColumn[] = [];
    const terms = relation.key.map((index, i) => {
      const column = target.columns[index];
      if (!column)
        throw rejected(relation, `the key column "${relation.columns[index]!.name}" was dropped and added again`);
      columns.push({ part, column: index, target: targetOfColumn(column) });
      return `t.${quoteName(column.name)} = k.c${first + i}`;
    });
    return { columns, sql: terms.join(' AND ') };
  }

  /**
   * Completes rows that lack unchanged TOAST values from the rows stored now, before any of them is deleted. Where not
   * all rows are there, those that cannot be completed are left to the snapshot that brings them.
   */
  async #stageMerges(target: RunTarget, merges: readonly Merge[]): Promise<void> {
    const { relation } = target;
    const values = loaded(target, 0);
    const lacking = values.filter(({ column }) => merges.some(({ row }) => row.isUnchanged(column)));
    const match = this.#keyMatch(target, 1, values.length);
    const flags = lacking.map(({ column }): LoadColumn => ({ part: 0, column, target: null }));
    const select = values.map(({ column }, index) => {
      const flag = lacking.findIndex((candidate) => candidate.column === column);
      if (flag < 0) return `k.c${index} AS c${index}`;
      return `CASE WHEN k.c${values.length + match.columns.length + flag} THEN t.${quoteName(target.columns[column]!.name)} ELSE k.c${index} END AS c${index}`;
    });
    const load: Load = {
      parts: [merges.map(({ row }) => row), merges.map(({ origin }) => origin)],
      columns: [...values, ...match.columns, ...flags],
    };
    const result = await this.#run(
      target,
      load,
      (from) =>
        `CREATE OR REPLACE TEMP TABLE ${STAGED} AS SELECT ${select.join(', ')} FROM ${from} AS k JOIN ${target.name} AS t ON ${match.sql}`,
    );
    if (target.stored !== 'exact') return;
    const found = await changedRows(result);
    if (found !== merges.length) {
      throw rejected(
        relation,
        `${merges.length} updated rows leave out unchanged TOAST values, but the sink holds ${found} of these rows`,
      );
    }
  }

  /**
   * Where changes come again, a row that came from another key without all of its values is completed by the row that has its
   * key. Throws a RejectedError where that one went with what came again before: then only the source knows.
   */
  async #checkMoved(target: RunTarget, { merges, lost }: Compacted): Promise<void> {
    const moved = merges.filter((merge) => merge.moved).map(({ origin }) => origin);
    if (lost === null && (await this.#countStored(target, moved)) === moved.length) return;
    const { schema, table } = target.relation;
    const why = `${relationName(target.relation)}: a change that is applied again gives a row another key and leaves out its TOAST values, which the sink does not hold any more`;
    throw new RejectedError(schema, table, why, { refill: true });
  }

  /** How many of the rows, each with a key of its own, are there under their keys. */
  async #countStored(target: RunTarget, rows: readonly Row[]): Promise<number> {
    if (rows.length === 0) return 0;
    const match = this.#keyMatch(target, 0);
    const count = (from: string) => `SELECT count(*) FROM ${from} AS k JOIN ${target.name} AS t ON ${match.sql}`;
    return changedRows(await this.#run(target, { parts: [rows], columns: match.columns }, count));
  }

  /** Takes away as many rows as were counted of each, whichever of the equal ones. */
  async #deleteWhole(target: RunTarget, { deletes }: CompactedBag): Promise<void> {
    const { relation } = target;
    if (target.columns.some((column) => column && foldName(column.name) === 'rowid')) {
      throw rejected(
        relation,
        'a table without a key cannot have a column "rowid" in DuckDB if rows are updated or deleted',
      );
    }
    const columns = loaded(target, 0);
    const equal = columns.map(
      ({ column }, index) => `t.${quoteName(target.columns[column]!.name)} IS NOT DISTINCT FROM k.c${index}`,
    );
    const counts = Int32Array.from(deletes, ({ count }) => count);
    const keys = columns.map((_, index) => `k.c${index}`).join(', ');
    this.#layout.deletes(target.name);
    await this.#run(
      target,
      { parts: [deletes.map(({ row }) => row)], columns, counts },
      (from) => `DELETE FROM ${target.name} WHERE rowid IN (SELECT r FROM (
        SELECT t.rowid AS r, k.c${columns.length} AS n, row_number() OVER (PARTITION BY ${keys}) AS i
        FROM ${target.name} AS t JOIN ${from} AS k ON ${equal.join(' AND ')}) WHERE i <= n)`,
    );
  }

  async #run(target: RunTarget, load: Load, statement: (from: string) => string): Promise<duckdb.Result> {
    try {
      return await this.#loader.run(load, statement);
    } catch (error) {
      if (!(error instanceof LoadError)) throw error;
      throw new MisfitError(target.relation, target.relation.columns[error.column]!.name, error);
    }
  }
}

function loaded(target: RunTarget, part: number): LoadColumn[] {
  return target.columns.flatMap((column, index) =>
    column ? [{ part, column: index, target: targetOfColumn(column) }] : [],
  );
}

function columnList(target: RunTarget): string {
  return target.columns.flatMap((column) => (column ? [quoteName(column.name)] : [])).join(', ');
}

async function changedRows(result: duckdb.Result): Promise<number> {
  const changed = duckdb.rows_changed(result);
  if (changed > 0) return changed;
  const chunk = await duckdb.fetch_chunk(result);
  if (!chunk || duckdb.data_chunk_get_size(chunk) === 0) return 0;
  const data = duckdb.vector_get_data(duckdb.data_chunk_get_vector(chunk, 0), 8);
  return Number(new DataView(data.buffer, data.byteOffset, 8).getBigInt64(0, true));
}

function rejected(relation: Relation, why: string): RejectedError {
  return new RejectedError(relation.schema, relation.table, `${relation.schema}.${relation.table}: ${why}`);
}
