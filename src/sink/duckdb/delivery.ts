import { setImmediate } from 'node:timers/promises';
import type { Letters } from '../../dead-letter/dead-letter.ts';
import { RejectedError } from '../../errors.ts';
import type { Delivery } from '../../event/batch.ts';
import { type ChangeEvent, SCHEMA_MESSAGE } from '../../event/change-event.ts';
import { type CopiedRows, CopyEvent, eachRow } from '../../event/copied-rows.ts';
import { type Relation, relationName, tableKey } from '../../event/relation.ts';
import type { Log } from '../../log.ts';
import { BagCompactor, KeyedCompactor } from '../compact.ts';
import type { Losses } from '../losses.ts';
import type { Adaptions } from './adaptions.ts';
import type { Chunk } from './chunk-load.ts';
import { compact, EVENTS_PER_TURN } from './compacting.ts';
import { blamesData, type DuckdbFile } from './database.ts';
import { DeadLetters } from './dead-letters.ts';
import { Layout, sqlName, type TableName } from './layout.ts';
import type { Loader } from './loader.ts';
import { statementError } from './messages.ts';
import { quoteText, shadowTable, targetSchema } from './names.ts';
import { type Building, TablePlan } from './plan.ts';
import { checkRelation, createColumns, evolve, type SinkColumn, sameShape } from './schema.ts';
import { type SchemaPolicy, SchemaWriter } from './schema-writer.ts';
import { SetAside, type SetAsidePolicy } from './set-aside.ts';
import { readRows, type SinkTable, type State, type TableShape } from './state.ts';
import { type MisfitError, runTarget, TableWriter } from './table.ts';

/** What values have asked for. Outlives the writer: a transaction that is begun again must get on with them. */
export interface Learnt {
  readonly adaptions: Adaptions;
  /** Tables whose rows are looked at one by one. */
  readonly watched: Set<string>;
}

export interface WriterOptions extends SchemaPolicy, SetAsidePolicy {
  readonly learnt: Learnt;
  readonly letters: Letters | null;
  readonly log: Log;
}

/** A building, and its columns as of each of its runs. */
interface Evolved {
  readonly building: Building;
  readonly steps: readonly (readonly SinkColumn[])[];
  /** What the table is in the end. */
  readonly shape: TableShape;
}

/** See `Sink.stopTable`. */
export interface StopOptions {
  readonly snapshotGoesOn: boolean;
  readonly refill: boolean;
}

/** Writes deliveries into the tables, inside the caller's transaction. */
export class DeliveryWriter {
  readonly #file: DuckdbFile;
  readonly #state: State;
  readonly #layout: Layout;
  /** What stores rows. */
  readonly tables: TableWriter;
  readonly #log: Log;
  readonly #letters: DeadLetters;
  readonly #aside: SetAside;
  readonly #adaptions: Adaptions;
  readonly #schemas: SchemaWriter;
  readonly #pauses: boolean;

  constructor(file: DuckdbFile, state: State, loader: Loader, options: WriterOptions) {
    this.#file = file;
    this.#state = state;
    this.#layout = new Layout(file.connection);
    this.tables = new TableWriter(file.connection, loader, this.#layout);
    const { log, onUnrepresentable, rowBytesMax, learnt, letters, ...policy } = options;
    this.#log = log;
    this.#adaptions = learnt.adaptions;
    this.#letters = new DeadLetters(file.connection, letters);
    this.#aside = new SetAside({ onUnrepresentable, rowBytesMax }, this.#letters, learnt.watched, log);
    this.#pauses = policy.schemaChanges === 'pause-table';
    const { catalog } = file;
    this.#schemas = new SchemaWriter({
      connection: file.connection,
      catalog,
      state,
      layout: this.#layout,
      tables: this.tables,
      adaptions: this.#adaptions,
      policy,
      log,
    });
  }

  /** A new transaction has begun. */
  async begin(): Promise<void> {
    this.#layout.begin();
    await this.#letters.begin();
  }

  /** Before the transaction is committed. */
  end(): Promise<void> {
    return this.#letters.save();
  }

  /** What became of values that no column could hold. */
  get losses(): Losses {
    const textColumns = this.#state
      .tables()
      .flatMap(({ schema, table, live }) =>
        (live?.columns ?? []).filter(({ text }) => text).map(({ name }) => `${schema}.${table}.${name}`),
      );
    return { textColumns, deadLetters: this.#letters.open, nulled: this.#aside.nulled };
  }

  /** Throws a RejectedError for the first table that cannot be held, a MisfitError to be tried again after `adapt`. */
  async write(delivery: Delivery, seen = false): Promise<void> {
    for (const { change, events } of this.#parts(delivery.events)) {
      if (change) await this.#changeSchema(change);
      for (const plan of await this.#plan(events, seen)) {
        try {
          await this.#writeTable(plan);
        } catch (error) {
          throw blamesData(error) ? statementError(plan.before, error) : error;
        }
      }
    }
  }

  /** The events in parts, each with what must become of a table before it. What is asked for is there at the next part. */
  *#parts(events: readonly ChangeEvent[]): Generator<{ change: ChangeEvent | null; events: readonly ChangeEvent[] }> {
    const known = new Set<Relation>();
    let relation: Relation | null = null;
    let change: ChangeEvent | null = null;
    let from = 0;
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!;
      const told = event.op === 'm' && event.message!.prefix === SCHEMA_MESSAGE && event.relation !== null;
      if (event.relation === relation && !told) continue;
      relation = event.relation;
      if (!told) {
        if (relation === null || known.has(relation)) continue;
        known.add(relation);
      }
      if (!told && !this.#schemas.needs(relation!)) continue;
      if (i > from || change) yield { change, events: events.slice(from, i) };
      change = event;
      from = i;
    }
    yield { change, events: from === 0 ? events : events.slice(from) };
  }

  /** The rows of a chunk and the shadow table that they are for; null where more is to be done than to store them. */
  chunkOf(events: readonly ChangeEvent[]): Chunk | null {
    const chunk = copiedOf(events);
    const relation = chunk && events[0]!.relation;
    const held = relation && this.#state.table(relation);
    if (!relation || !held?.shadow || relation.key.length === 0 || this.#schemas.needs(relation)) return null;
    if (events[0]!.transaction.snapshot?.kind === 'partial') return null;
    if (events.some((event) => event.relation !== relation) || !sameShape(held.shadow.relation, relation)) return null;
    if (keyOf(held) !== keyOf(relation) || this.#aside.looksAt(relation)) return null;
    const plan = new TablePlan(relation, held);
    for (const event of events) plan.add(event);
    const [run, ...others] = plan.shadow?.runs ?? [];
    if (!run || others.length > 0 || plan.leftOut > 0 || plan.shadow!.from === null) return null;
    const { steps, shape } = this.#evolve(plan.shadow!);
    if (!sameTable(held.shadow, shape)) return null;
    const shadow = { ...this.#nameOf(held), table: shadowTable(held.table) };
    return { chunk, shadow, target: runTarget(sqlName(shadow), run, steps[0]!, shape.columns) };
  }

  async #changeSchema(event: ChangeEvent): Promise<void> {
    const relation = event.relation!;
    try {
      if (event.op === 'm' && event.message!.prefix === SCHEMA_MESSAGE) await this.#schemas.told(event);
      else await this.#schemas.seen(relation);
    } catch (error) {
      throw blamesData(error) ? statementError(relation, error) : error;
    }
  }

  /** The table is not followed any more: its rows stay as they are, what a snapshot has gathered goes unless it goes on. */
  async stop(relation: Relation, reason: string, { snapshotGoesOn, refill }: StopOptions): Promise<void> {
    const { schema, table, live, shadow } = this.#state.table(relation) ?? { ...relation, live: null, shadow: null };
    if (shadow && !snapshotGoesOn)
      await this.#layout.drop({ ...this.#nameOf({ schema, table }), table: shadowTable(table) });
    await this.#state.saveTable({
      schema,
      table,
      live,
      stopped: reason,
      because: refill ? 'refill' : undefined,
      shadow: snapshotGoesOn ? shadow : null,
    });
  }

  async #plan(events: readonly ChangeEvent[], seen: boolean): Promise<Iterable<TablePlan>> {
    const plans = new Map<string, TablePlan>();
    let relation: Relation | null = null;
    let plan: TablePlan | null = null;
    for (let i = 0; i < events.length; i++) {
      if (i > 0 && i % EVENTS_PER_TURN === 0) await setImmediate();
      const event = events[i]!;
      if (event.relation === null || event.relation.columns.length === 0) continue;
      if (event.op === 'm' && event.message!.prefix === SCHEMA_MESSAGE) continue;
      if (event.relation !== relation || plan === null) {
        relation = event.relation;
        const key = keyOf(relation);
        plan = plans.get(key) ?? new TablePlan(relation, this.#state.table(relation), seen ? 'later' : 'exact');
        plans.set(key, plan);
      }
      plan.add(event);
    }
    return plans.values();
  }

  /** The next `write` gets on with the value. Throws a RejectedError where nothing can be done. */
  adapt(misfit: MisfitError): void {
    const { relation, column, label, fitsText } = misfit;
    if (label === null && this.#aside.watch(relation, fitsText)) return;
    this.#adaptions.add(misfit);
    if (label !== null) return;
    const where = { table: relationName(relation), column };
    this.#log.warn(where, `the column becomes VARCHAR in PostgreSQL's text form: ${misfit.message}`);
  }

  async #writeTable(plan: TablePlan): Promise<void> {
    const { schema, table } = plan.before;
    if (plan.leftOut > 0)
      this.#log.debug({ schema, table, events: plan.leftOut }, 'events of a table that is not followed are left out');
    const { before, stopped } = plan;
    const name = this.#nameOf(before);
    const shadowName = { ...name, table: shadowTable(table) };
    if (before.shadow && plan.live?.at !== 'shadow' && plan.shadow?.at !== 'shadow')
      await this.#layout.drop(shadowName);
    const live = plan.live && (await this.#writeLive(plan, plan.live, name));
    const shadow = plan.shadow && (await this.#writeShadow(before, plan.shadow, name, live !== null));
    const snapshot = plan.shadow?.snapshot ?? null;
    await this.#save(before, {
      schema,
      table,
      live: live ?? before.live,
      stopped,
      because: stopped === null ? undefined : before.because,
      shadow: shadow && snapshot !== null ? { ...shadow, snapshot } : null,
    });
  }

  async #writeLive(plan: TablePlan, live: Building, name: TableName): Promise<TableShape> {
    try {
      const evolved = this.#evolve(live);
      // All DDL goes before all rows, so that no stored row has been deleted yet.
      await this.#place(evolved, name, plan.before);
      await this.#writeRuns(evolved, sqlName(name), false);
      return evolved.shape;
    } catch (error) {
      const known = blamesData(error) ? statementError(plan.before, error) : error;
      if (!plan.shadow || live.at !== 'live' || !(known instanceof RejectedError)) throw known;
      const { schema, table, message } = known;
      throw new RejectedError(schema, table, message, { cause: error, snapshotGoesOn: true, refill: known.refill });
    }
  }

  async #writeShadow(before: SinkTable, shadow: Building, name: TableName, isSecond: boolean): Promise<TableShape> {
    const evolved = this.#evolve(shadow);
    const shadowName = { ...name, table: shadowTable(name.table) };
    if (shadow.from) await this.#layout.alter(shadowName, shadow.from.columns, evolved.shape.columns);
    else {
      await this.#checkName(before, name);
      await this.#layout.create(shadowName, evolved.shape.columns);
      if (shadow.begin && !isSecond) await this.#aside.forget(evolved.shape.relation, shadow.begin);
    }
    await this.#writeRuns(evolved, sqlName(shadowName), isSecond);
    return evolved.shape;
  }

  async #save(before: SinkTable, after: SinkTable): Promise<void> {
    const same =
      sameTable(before.live, after.live) &&
      sameTable(before.shadow, after.shadow) &&
      before.shadow?.snapshot === after.shadow?.snapshot &&
      before.stopped === after.stopped;
    if (!same) await this.#state.saveTable(after);
  }

  /** `isSecond` where another table has taken the streamed events of this one before. */
  async #writeRuns({ building, steps, shape }: Evolved, name: string, isSecond: boolean): Promise<void> {
    for (const [index, all] of building.runs.entries()) {
      const target = runTarget(name, all, steps[index]!, shape.columns);
      const sifted = await this.#aside.sift(target, all.events, isSecond);
      const copies = copiedOf(sifted);
      if (copies) {
        // Rows of the first copy come once; any other may be there already.
        await this.tables.insertCopied(target, copies, all.copy!.snapshot!.kind !== 'initial');
        continue;
      }
      const run = { ...all, events: eachRow(sifted) };
      if (run.relation.key.length > 0)
        await this.tables.applyKeyed(target, await compact(new KeyedCompactor(run.relation, run.stored), run));
      else await this.tables.applyBag(target, await compact(new BagCompactor(run.relation), run));
    }
  }

  /** Brings the live table under its name and into its shape. */
  async #place({ building, shape }: Evolved, name: TableName, before: SinkTable): Promise<void> {
    const { at, from } = building;
    if (at === 'live') return this.#layout.alter(name, from!.columns, shape.columns);
    await this.#checkName(before, name);
    const shadowName = { ...name, table: shadowTable(name.table) };
    if (at === 'shadow') await this.#layout.alter(shadowName, from!.columns, shape.columns);
    if (before.live) await this.#layout.drop(name);
    if (at === 'shadow') await this.#layout.rename(shadowName, name.table);
    else await this.#layout.create(name, shape.columns);
  }

  /** Throws a RejectedError where the table cannot take a shape that its events have. */
  #evolve(building: Building): Evolved {
    const { from, runs } = building;
    let columns = from?.columns ?? null;
    let oid = from?.relation.oid ?? 0;
    const steps = runs.map(({ relation }) => {
      checkRelation(relation);
      const { schema, table: name } = relation;
      if (oid !== 0 && relation.oid !== 0 && relation.oid !== oid) {
        throw new RejectedError(
          schema,
          name,
          `${schema}.${name} was dropped and created again in the source, so the rows held here are of another table`,
          { refill: true },
        );
      }
      oid = relation.oid;
      const evolved = columns === null ? createColumns(relation) : evolve(columns, relation);
      if (this.#pauses && building.at === 'live' && columns && JSON.stringify(columns) !== JSON.stringify(evolved))
        throw new RejectedError(
          schema,
          name,
          `${schema}.${name} changed in the source, and schemaChanges is pause-table`,
        );
      const next = evolved.map((column) => this.#adaptions.apply(relation, column));
      columns = next;
      return next;
    });
    const shape = { relation: runs.at(-1)?.relation ?? from!.relation, columns: steps.at(-1) ?? from!.columns };
    return { building, steps, shape };
  }

  /** Throws a RejectedError where the name is taken by another table of the source, or by one that is not ours. */
  async #checkName(before: SinkTable, name: TableName): Promise<void> {
    if (before.live) return;
    this.#state.checkName(before);
    const found = await readRows(
      this.#file.connection,
      `SELECT table_type FROM information_schema.tables WHERE table_catalog = ${quoteText(name.catalog)}
         AND lower(table_schema) = lower(${quoteText(name.schema)}) AND lower(table_name) = lower(${quoteText(name.table)})`,
    );
    if (found.length === 0) return;
    throw new RejectedError(
      before.schema,
      before.table,
      `"${name.schema}"."${name.table}" exists in the DuckDB file but was not created by Waltide`,
    );
  }

  #nameOf({ schema, table }: { readonly schema: string; readonly table: string }): TableName {
    return { catalog: this.#file.catalog, schema: targetSchema(schema), table };
  }
}

const keys = new WeakMap<object, string>();

/** Events of several tables alternate: each key is made once. */
function keyOf(relation: { readonly schema: string; readonly table: string }): string {
  let key = keys.get(relation);
  if (key === undefined) {
    key = tableKey(relation);
    keys.set(relation, key);
  }
  return key;
}

function sameTable(a: TableShape | null, b: TableShape | null): boolean {
  if (a === null || b === null) return a === b;
  return sameShape(a.relation, b.relation) && JSON.stringify(a.columns) === JSON.stringify(b.columns);
}

/** Where all of it is rows as COPY sent them; else null. */
function copiedOf(events: readonly ChangeEvent[]): CopiedRows[] | null {
  const copies: CopiedRows[] = [];
  for (const event of events) {
    if (event.op !== 'r' || !(event instanceof CopyEvent)) return null;
    copies.push(event.copied);
  }
  return copies.length > 0 ? copies : null;
}
