import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import type { Batch } from '../event/batch.ts';
import { ByteWriter } from '../event/byte-writer.ts';
import { ChangeEvent, type LogicalMessage, SCHEMA_MESSAGE } from '../event/change-event.ts';
import { CopyEvent } from '../event/copied-rows.ts';
import type { Column, ColumnType, Relation } from '../event/relation.ts';
import { readSchemaChange } from '../event/schema-change.ts';
import type { CapturedTable } from '../postgres/captured.ts';
import { catalogColumns } from '../postgres/catalog.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { loadKeys } from './keys.ts';
import { KnownColumns } from './known-columns.ts';
import type { Mask } from './mask.ts';
import { type ColumnPlan, rewriteCopied, rewriteRow } from './rewrite.ts';
import { checkKey, checkNames, compileRules, type Rule, ruleFor, type TableName } from './rules.ts';

/** Masked values are text, whatever they were. */
const TEXT_TYPE: ColumnType = {
  oid: 25,
  name: 'text',
  schema: 'pg_catalog',
  kind: 'base',
  of: null,
  domainModifier: -1,
  delimiter: ',',
  labels: [],
};

/** Masked values may be longer than what they hide. */
const SPARE_BYTES = 4096;

/** What becomes of one table's rows. */
interface Plan {
  /** The table as it leaves the source. */
  readonly relation: Relation;
  readonly columns: readonly ColumnPlan[];
}

/**
 * What `source.protect` does to everything on its way out of the source: rows of the stream and of snapshots, and what is
 * told of their tables. A function of the value and the configuration alone, so that a row is the same by every road.
 */
export class Protection {
  readonly #rules: readonly Rule[];
  readonly #known = new Map<number, KnownColumns>();
  /** By identity: who comes later remembers what it worked out by the relation's object. Null: nothing of it is touched. */
  readonly #plans = new WeakMap<Relation, Plan | null>();

  constructor(rules: readonly Rule[]) {
    this.#rules = rules;
  }

  /** True where nothing is in the way of the rows. */
  get idle(): boolean {
    return this.#rules.length === 0;
  }

  /**
   * Takes in which columns the published tables have now, by numbers that a rename keeps; `captured`: what is recorded of
   * them. Throws PROTECTION where a rule names a column that is not there.
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
      const before = known?.leaving?.masked.map(({ name }) => name) ?? [];
      checkNames(this.#rules, named, [...columns.map(({ name }) => name), ...before]);
      this.#known.set(oid, new KnownColumns(named, columns, this.#rules, known?.leaving));
    }
    return this.#known;
  }

  /** The table as it leaves the source; the same object for the same object. Throws PROTECTION where rules cannot be kept for it. */
  relation(relation: Relation): Relation {
    return this.#planOf(relation)?.relation ?? relation;
  }

  /** True where values of the relation's column are masked. */
  hides(relation: Relation, column: number): boolean {
    const plan = this.#planOf(relation);
    return plan?.columns.some(({ from, mask }) => from === column && mask !== null) ?? false;
  }

  /** A value of a column of the source as it leaves it, for whoever compares both ends; null for NULL. */
  maskText(table: TableName, column: string, text: string | null): string | null {
    const mask = ruleFor(this.#rules, table, column)?.mask;
    return mask ? maskedText(text, mask) : text;
  }

  /** The batch as it leaves the source; the same object where nothing in it is touched. */
  batch(batch: Batch): Batch {
    const { events } = batch;
    if (this.idle) return batch;
    let i = 0;
    while (i < events.length && !this.#touches(events[i]!)) i++;
    if (i === events.length) return batch;
    const out = new ByteWriter(batch.bytes + SPARE_BYTES);
    const leaving = events.slice(0, i);
    for (; i < events.length; i++) {
      const event = events[i]!;
      const plan = event.relation && this.#planOf(event.relation);
      leaving.push(plan ? rewrite(event, plan, out) : event);
    }
    return { ...batch, events: leaving, bytes: Math.max(batch.bytes, out.length) };
  }

  #touches({ relation }: ChangeEvent): boolean {
    return relation !== null && this.#planOf(relation) !== null;
  }

  #planOf(relation: Relation): Plan | null {
    const known = this.#plans.get(relation);
    if (known !== undefined) return known;
    const plan = this.#plan(relation);
    this.#plans.set(relation, plan);
    return plan;
  }

  #plan(relation: Relation): Plan | null {
    // Nobody has described it: it is told of as a whole, as in the message that it was dropped.
    if (relation.columns.length === 0) return null;
    const chosen =
      this.#known.get(relation.oid)?.rulesOf(relation, this.#rules) ??
      relation.columns.map(({ name }) => ruleFor(this.#rules, relation, name));
    checkKey(relation, chosen);
    const columns = chosen.map((rule, from): ColumnPlan => ({ from, mask: rule?.mask ?? null }));
    if (columns.every(({ mask }) => mask === null)) return null;
    const described = columns.map(({ from, mask }) => describe(relation.columns[from]!, mask));
    return { relation: { ...relation, columns: described }, columns };
  }
}

/** Throws PROTECTION where what is configured cannot be kept. */
export function loadProtection({ protect }: Pick<SourceConfig, 'protect'>): Protection {
  return new Protection(protect ? compileRules(protect.rules, loadKeys(protect)) : []);
}

function describe(column: Column, mask: Mask | null): Column {
  if (!mask) return column;
  const { existing } = column;
  const masked = { ...column, type: TEXT_TYPE, modifier: -1 };
  return typeof existing === 'object' ? { ...masked, existing: { text: maskedText(existing.text, mask) } } : masked;
}

function maskedText<T extends null | undefined>(text: string | T, mask: Mask): string | T {
  return typeof text === 'string' ? Buffer.from(mask(Buffer.from(text))).toString('utf8') : text;
}

function rewrite(event: ChangeEvent, plan: Plan, out: ByteWriter): ChangeEvent {
  const { op, transaction, seq, tableSeq, lsn } = event;
  const { relation, columns } = plan;
  if (event instanceof CopyEvent)
    return new CopyEvent(transaction, seq, tableSeq, lsn, rewriteCopied(event.copied, null, columns, relation, out));
  const before = event.before && rewriteRow(event.before, columns, relation, out);
  const after = event.after && rewriteRow(event.after, columns, relation, out);
  const message = event.message && rewriteMessage(event.message, plan);
  return new ChangeEvent(op, transaction, seq, tableSeq, lsn, relation, before, after, message);
}

/** What is told of a masked column says no more than its values do: its default is a value in the clear. */
function rewriteMessage(message: LogicalMessage, { columns, relation }: Plan): LogicalMessage {
  const change = message.prefix === SCHEMA_MESSAGE ? readSchemaChange(message.content) : null;
  if (!change || change.columns.length === 0) return message;
  const told = columns.map(({ from, mask }, i) => {
    const definition = change.columns[from]!;
    if (!mask) return definition;
    const masked = { ...definition, type: relation.columns[i]!.type.name, default: null };
    return definition.existing === undefined ? masked : { ...masked, existing: maskedText(definition.existing, mask) };
  });
  return { ...message, content: Buffer.from(JSON.stringify({ ...change, columns: told })) };
}
