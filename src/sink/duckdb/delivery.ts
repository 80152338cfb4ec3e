import { setImmediate } from 'node:timers/promises';
import duckdb from '@duckdb/node-bindings';
import { RejectedError } from '../../errors.ts';
import type { Delivery } from '../../event/batch.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import type { Log } from '../../log.ts';
import { BagCompactor, KeyedCompactor, KeylessError } from '../compact.ts';
import { Adaptions } from './adaptions.ts';
import { blamesData, type DuckdbFile } from './database.ts';
import type { Loader } from './loader.ts';
import { statementError } from './messages.ts';
import { quoteName, quoteText, targetSchema } from './names.ts';
import {
  alterTableSql,
  checkRelation,
  createColumns,
  createTableSql,
  evolve,
  type SinkColumn,
  type SinkTable,
  sameShape,
} from './schema.ts';
import { readRows, type State } from './state.ts';
import { type MisfitError, runTarget, TableWriter } from './table.ts';

/** Events of one table, in order, that one relation shape describes. */
interface Run {
  readonly relation: Relation;
  readonly events: ChangeEvent[];
}

/** Events looked at before other work of the process gets its turn: about 2 ms. */
const EVENTS_PER_TURN = 4096;

/** Writes deliveries into the tables, inside the caller's transaction. */
export class DeliveryWriter {
  readonly #file: DuckdbFile;
  readonly #state: State;
  readonly #tables: TableWriter;
  readonly #log: Log;
  readonly #adaptions = new Adaptions();

  constructor(file: DuckdbFile, state: State, loader: Loader, log: Log) {
    this.#file = file;
    this.#state = state;
    this.#tables = new TableWriter(file.connection, loader);
    this.#log = log;
  }

  /** Throws a RejectedError for the first table that cannot be held, a MisfitError to be tried again after `adapt`. */
  async write(delivery: Delivery): Promise<void> {
    for (const runs of await groupRuns(delivery.events)) {
      const { relation } = runs[0]!;
      try {
        await this.#writeTable(runs);
      } catch (error) {
        throw blamesData(error) ? statementError(relation, error) : error;
      }
    }
  }

  /** The next `write` alters the column so that it holds the value. Throws a RejectedError where nothing can be done. */
  adapt(misfit: MisfitError): void {
    this.#adaptions.add(misfit);
    const { relation, column, label } = misfit;
    if (label !== null) return;
    const where = { table: relationName(relation), column };
    this.#log.warn(where, `the column becomes VARCHAR in PostgreSQL's text form: ${misfit.message}`);
  }

  async #writeTable(all: readonly Run[]): Promise<void> {
    let runs = all;
    const table = this.#state.table(all[0]!.relation);
    const copyBegins = lastCopy(all);
    if (copyBegins) runs = copyBegins;
    else if (table && table.stopped !== null) {
      this.#log.debug({ schema: table.schema, table: table.table }, 'events of a stopped table are left out');
      return;
    }
    const steps = this.#evolveThrough(copyBegins ? undefined : table, runs);
    const final = steps.at(-1)!;
    const last = runs.at(-1)!.relation;
    const name = this.#nameOf(last);
    if (!table || table.columns === null || copyBegins) await this.#create(table, last, name, final);
    else
      for (const statement of alterTableSql(name, table.columns, final))
        await duckdb.query(this.#file.connection, statement);
    if (
      !table?.relation ||
      table.stopped !== null ||
      !sameShape(table.relation, last) ||
      !sameColumns(table.columns, final)
    ) {
      await this.#state.saveTable({
        schema: last.schema,
        table: last.table,
        relation: last,
        columns: final,
        stopped: null,
      });
    }
    for (const [index, run] of runs.entries()) {
      const target = runTarget(name, run.relation, steps[index]!, final);
      if (run.relation.key.length > 0)
        await this.#tables.applyKeyed(target, await compact(new KeyedCompactor(run.relation), run));
      else await this.#tables.applyBag(target, await compact(new BagCompactor(run.relation), run));
    }
  }

  /** The table's columns as of each run. All DDL goes before all rows: DuckDB cannot alter what a transaction deleted from. */
  #evolveThrough(table: SinkTable | undefined, runs: readonly Run[]): SinkColumn[][] {
    let columns = table?.columns ?? null;
    let oid = columns === null ? 0 : (table?.relation?.oid ?? 0);
    return runs.map(({ relation }) => {
      checkRelation(relation);
      const { schema, table: name } = relation;
      if (oid !== 0 && relation.oid !== 0 && relation.oid !== oid) {
        throw new RejectedError(
          schema,
          name,
          `${schema}.${name} was dropped and created again in the source, so the rows held here are of another table`,
        );
      }
      oid = relation.oid;
      const evolved = columns === null ? createColumns(relation) : evolve(columns, relation);
      const next = evolved.map((column) => this.#adaptions.apply(relation, column));
      columns = next;
      return next;
    });
  }

  /** Creates the table, or empties it for a copy: a copy begins with a table as the source has it now. */
  async #create(
    table: SinkTable | undefined,
    relation: Relation,
    name: string,
    columns: readonly SinkColumn[],
  ): Promise<void> {
    this.#state.checkName(relation);
    const { connection } = this.#file;
    if (table && table.columns !== null) {
      await duckdb.query(connection, `DROP TABLE IF EXISTS ${name}`);
    } else {
      const schema = targetSchema(relation.schema);
      const found = await readRows(
        connection,
        `SELECT table_type FROM information_schema.tables WHERE table_catalog = ${quoteText(this.#file.catalog)}
           AND lower(table_schema) = lower(${quoteText(schema)}) AND lower(table_name) = lower(${quoteText(relation.table)})`,
      );
      if (found.length > 0) {
        throw new RejectedError(
          relation.schema,
          relation.table,
          `"${schema}"."${relation.table}" exists in the DuckDB file but was not created by Waltide`,
        );
      }
      await duckdb.query(
        connection,
        `CREATE SCHEMA IF NOT EXISTS ${quoteName(this.#file.catalog)}.${quoteName(schema)}`,
      );
    }
    await duckdb.query(connection, createTableSql(name, columns));
  }

  #nameOf(relation: Relation): string {
    return [this.#file.catalog, targetSchema(relation.schema), relation.table].map(quoteName).join('.');
  }
}

const tableKeys = new WeakMap<Relation, string>();

function tableKey(relation: Relation): string {
  let key = tableKeys.get(relation);
  if (key === undefined) {
    key = JSON.stringify([relation.schema, relation.table]);
    tableKeys.set(relation, key);
  }
  return key;
}

function sameColumns(a: readonly SinkColumn[] | null, b: readonly SinkColumn[]): boolean {
  return a !== null && JSON.stringify(a) === JSON.stringify(b);
}

/** From the last truncate of a snapshot on, where there is one: it begins a copy, and all before it is void. */
function lastCopy(runs: readonly Run[]): Run[] | null {
  for (let i = runs.length - 1; i >= 0; i--) {
    const { relation, events } = runs[i]!;
    const at = events.findLastIndex((event) => event.op === 't' && event.transaction.snapshot);
    if (at >= 0) return [{ relation, events: events.slice(at + 1) }, ...runs.slice(i + 1)];
  }
  return null;
}

async function compact<C, K extends { add(event: ChangeEvent): void; finish(): C }>(
  compactor: K,
  run: Run,
): Promise<C> {
  const { schema, table } = run.relation;
  for (let i = 0; i < run.events.length; i++) {
    if (i > 0 && i % EVENTS_PER_TURN === 0) await setImmediate();
    try {
      compactor.add(run.events[i]!);
    } catch (error) {
      if (!(error instanceof KeylessError)) throw error;
      throw new RejectedError(schema, table, `${schema}.${table}: ${error.message}`, { cause: error });
    }
  }
  return compactor.finish();
}

/** The events by table, in order, and within a table by relation shape. */
async function groupRuns(events: readonly ChangeEvent[]): Promise<Run[][]> {
  const tables = new Map<string, Run[]>();
  let relation: Relation | null = null;
  let run: Run | null = null;
  for (let i = 0; i < events.length; i++) {
    if (i > 0 && i % EVENTS_PER_TURN === 0) await setImmediate();
    const event = events[i]!;
    if (event.relation === null || event.relation.columns.length === 0) continue;
    if (event.relation !== relation || run === null) {
      relation = event.relation;
      const key = tableKey(relation);
      let runs = tables.get(key);
      if (!runs) {
        runs = [];
        tables.set(key, runs);
      }
      run = runs.at(-1) ?? null;
      if (run === null || !sameShape(run.relation, relation)) {
        run = { relation, events: [] };
        runs.push(run);
      }
    }
    run.events.push(event);
  }
  return [...tables.values()];
}
