import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import type { Batch } from '../event/batch.ts';
import { ByteWriter } from '../event/byte-writer.ts';
import { ChangeEvent, type LogicalMessage, SCHEMA_MESSAGE } from '../event/change-event.ts';
import { CopyEvent } from '../event/copied-rows.ts';
import type { Relation } from '../event/relation.ts';
import type { Row } from '../event/row.ts';
import { type ColumnDefinition, readSchemaChange } from '../event/schema-change.ts';
import { typeName } from '../event/type-name.ts';
import type { CapturedTable } from '../postgres/captured.ts';
import { catalogColumns } from '../postgres/catalog.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { columnsOf } from './expression.ts';
import { loadFunction } from './function.ts';
import { loadKeys } from './keys.ts';
import { KnownColumns } from './known-columns.ts';
import { pass, passes } from './pass.ts';
import type { TableName } from './pattern.ts';
import { checkFilters, makePlan, maskedText, type Plan } from './plan.ts';
import { rewriteCopied, rewriteRow } from './rewrite.ts';
import { type Treatment, Treatments } from './treatments.ts';

/** Masked values may be longer than what they hide. */
const SPARE_BYTES = 4096;

/**
 * What `source.protect` and `source.transforms` do to everything on its way out of the source: rows of the stream and of
 * snapshots, and what is told of their tables. A function of the row and the configuration alone, so that a row is the
 * same by every road. Filters and functions see the row as the source has it; masks come after them.
 */
export class Protection {
  readonly #treatments: Treatments;
  readonly #known = new Map<number, KnownColumns>();
  /** By identity: who comes later remembers what it worked out by the relation's object. Null: nothing of it is touched. */
  readonly #plans = new WeakMap<Relation, Plan | null>();
  /** True where nothing is in the way of the rows. */
  readonly idle: boolean;

  constructor(treatments: Treatments) {
    this.#treatments = treatments;
    this.idle = treatments.empty;
  }

  /**
   * Takes in which columns the published tables have now, by numbers that a rename keeps; `captured`: what is recorded of
   * them. Throws PROTECTION or TRANSFORM where the configuration names a column that is not there.
   */
  async learn(
    client: pg.Client,
    tables: readonly PublishedTable[],
    captured: (oid: number) => CapturedTable | undefined,
  ): Promise<ReadonlyMap<number, KnownColumns>> {
    const oids = tables.map(({ oid }) => oid);
    for (const [oid, all] of await catalogColumns(client, oids)) {
      const table = tables.find((one) => one.oid === oid)!;
      const known = captured(oid);
      const named = known ?? table;
      const columns = all.filter(({ name }) => table.columns.includes(name));
      const before = known?.leaving?.columns.map(({ name }) => name) ?? [];
      this.#treatments.check(named, [...columns.map(({ name }) => name), ...before]);
      this.#known.set(oid, new KnownColumns(named, columns, this.#treatments, known?.leaving));
    }
    return this.#known;
  }

  /** Throws PROTECTION, TRANSFORM or CONFIG_INVALID where what is configured cannot be kept for the table as it is now. */
  check(relation: Relation): void {
    const plan = this.#make(relation, true);
    const { filters } = this.#treatments.rowsOf(relation);
    if (plan) checkFilters(plan, filters.flatMap(columnsOf));
  }

  /** The table as it leaves the source; the same object for the same object. Throws PROTECTION where rules cannot be kept for it. */
  relation(relation: Relation): Relation {
    return this.#planOf(relation)?.relation ?? relation;
  }

  /** True where values of the relation's column do not leave the source as they are. */
  hides(relation: Relation, column: number): boolean {
    const plan = this.#planOf(relation);
    return plan !== null && !plan.columns.some(({ from, mask }) => from === column && mask === null);
  }

  /** True where more than masks stands between the table's rows and what leaves: others, fewer, or under other names. */
  transforms(relation: Relation): boolean {
    const plan = this.#planOf(relation);
    if (plan === null) return false;
    const named =
      plan.relation.columns.map(({ name }) => name).join() === relation.columns.map(({ name }) => name).join();
    return !named || plan.filters.length + plan.functions.length > 0;
  }

  /** True where any column of any table is masked or dropped. */
  get hidesSome(): boolean {
    return this.#treatments.hidesSome;
  }

  /** What the configuration says of a column by its number; null for nothing. */
  treatmentOf(table: TableName & Pick<Relation, 'oid'>, attnum: number, name: string): Treatment | null {
    return this.#known.get(table.oid)?.treatmentOf(attnum) ?? this.#treatments.of(table, name);
  }

  /** A value of a column of the source as its mask leaves it, for whoever compares both ends; null for NULL. */
  maskText(relation: Relation, column: string, text: string | null): string | null {
    const plan = this.#planOf(relation);
    const mask = plan?.columns.find(({ from }) => relation.columns[from]!.name === column)?.mask;
    return mask ? maskedText(text, mask) : text;
  }

  /** The batch as it leaves the source; the same object where nothing in it is touched. */
  batch(batch: Batch): Batch {
    const { events } = batch;
    if (this.idle) return batch;
    let leaving: ChangeEvent[] | null = null;
    let out: ByteWriter | null = null;
    let relation: Relation | null = null;
    let plan: Plan | null = null;
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!;
      // Events of one table stand together, mostly.
      if (event.relation !== relation) {
        relation = event.relation;
        plan = relation && this.#planOf(relation);
      }
      if (plan) {
        leaving ??= events.slice(0, i);
        out ??= new ByteWriter(batch.bytes + SPARE_BYTES);
        leave(event, plan, out, leaving);
      } else leaving?.push(event);
    }
    if (!leaving || !out) return batch;
    return { ...batch, events: leaving, bytes: Math.max(batch.bytes, out.length) };
  }

  #planOf(relation: Relation): Plan | null {
    const known = this.#plans.get(relation);
    if (known !== undefined) return known;
    const plan = this.#make(relation, false);
    this.#plans.set(relation, plan);
    return plan;
  }

  #make(relation: Relation, now: boolean): Plan | null {
    // Nobody has described it: it is told of as a whole, as in the message that it was dropped.
    if (this.idle || relation.columns.length === 0) return null;
    const resolved =
      this.#known.get(relation.oid)?.resolve(relation, this.#treatments) ??
      relation.columns.map(({ name }) => ({ name, treatment: this.#treatments.of(relation, name) }));
    return makePlan(relation, resolved, this.#treatments.rowsOf(relation), now);
  }
}

/** Reads keys and loads modules. Throws PROTECTION, TRANSFORM or CONFIG_INVALID where what is configured cannot be kept. */
export async function loadProtection(source: Pick<SourceConfig, 'protect' | 'transforms'>): Promise<Protection> {
  const files = new Set(source.transforms.flatMap(({ module }) => module ?? []));
  const functions = await Promise.all([...files].map(async (file) => [file, await loadFunction(file)] as const));
  const keys = source.protect ? loadKeys(source.protect) : null;
  return new Protection(new Treatments(source, keys, new Map(functions)));
}

/** Nothing is in the way of anything. */
export const UNPROTECTED = new Protection(new Treatments({ transforms: [] }, null, new Map()));

/** What leaves of the event is added to `leaving`. */
function leave(event: ChangeEvent, plan: Plan, out: ByteWriter, leaving: ChangeEvent[]): void {
  const { op, transaction, seq, tableSeq, lsn } = event;
  const { relation, columns } = plan;
  const same = relation === plan.source;
  const chooses = plan.filters.length > 0 || plan.functions.length > 0;
  if (event instanceof CopyEvent) {
    if (plan.functions.length > 0) {
      for (const single of event.events()) leave(single, plan, out, leaving);
      return;
    }
    const kept = chooses ? selected(event, plan) : null;
    if (kept?.length === 0) return;
    const rows = same ? event.copied.select(kept, relation) : rewriteCopied(event.copied, kept, columns, relation, out);
    leaving.push(new CopyEvent(transaction, seq, tableSeq, lsn, rows));
    return;
  }
  if (op === 't' || op === 'm') {
    const message = event.message && rewriteMessage(event.message, plan);
    leaving.push(new ChangeEvent(op, transaction, seq, tableSeq, lsn, relation, null, null, message));
    return;
  }
  const passed = chooses ? pass(plan, op, event.before, event.after) : { op, before: event.before, after: event.after };
  if (!passed) return;
  const made = (row: Row | null): Row | null => (row && !same ? rewriteRow(row, columns, relation, out) : row);
  leaving.push(
    new ChangeEvent(passed.op, transaction, seq, tableSeq, lsn, relation, made(passed.before), made(passed.after)),
  );
}

/** Indexes of the copied rows that the filters let through; null for all. */
function selected({ copied }: CopyEvent, plan: Plan): number[] | null {
  const kept: number[] = [];
  for (let i = 0; i < copied.count; i++) if (passes(plan, (column) => copied.text(i, column))) kept.push(i);
  return kept.length === copied.count ? null : kept;
}

/** What is told of a masked column says no more than its values do: its default is a value in the clear. */
function rewriteMessage(message: LogicalMessage, { columns, relation }: Plan): LogicalMessage {
  const change = message.prefix === SCHEMA_MESSAGE ? readSchemaChange(message.content) : null;
  if (!change || change.columns.length === 0) return message;
  const told = columns.map(({ from, mask }, i): ColumnDefinition => {
    const { name, type, modifier } = relation.columns[i]!;
    const definition = { ...change.columns[from]!, name, type: typeName(type, modifier) };
    if (!mask) return definition;
    const { existing } = definition;
    return {
      ...definition,
      default: null,
      ...(existing === undefined ? {} : { existing: maskedText(existing, mask) }),
    };
  });
  return { ...message, content: Buffer.from(JSON.stringify({ ...change, columns: told })) };
}
