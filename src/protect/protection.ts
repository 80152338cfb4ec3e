import type { SourceConfig } from '../config/schema.ts';
import type { Batch } from '../event/batch.ts';
import { ByteWriter } from '../event/byte-writer.ts';
import { ChangeEvent, type LogicalMessage, SCHEMA_MESSAGE } from '../event/change-event.ts';
import { CopyEvent } from '../event/copied-rows.ts';
import type { Column, ColumnType, Relation } from '../event/relation.ts';
import { readSchemaChange } from '../event/schema-change.ts';
import { loadKeys } from './keys.ts';
import type { Mask } from './mask.ts';
import { type ColumnPlan, rewriteCopied, rewriteRow } from './rewrite.ts';
import { checkRules, compileRules, type Rule, ruleFor, type TableName } from './rules.ts';

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
  /** By identity: who comes later remembers what it worked out by the relation's object. Null: nothing of it is touched. */
  readonly #plans = new WeakMap<Relation, Plan | null>();

  constructor(rules: readonly Rule[]) {
    this.#rules = rules;
  }

  /** The table as it leaves the source; the same object for the same object. Throws PROTECTION where rules cannot be kept for it. */
  relation(relation: Relation): Relation {
    return this.#planOf(relation)?.relation ?? relation;
  }

  /** A value of a column of the source as it leaves it, for whoever compares both ends; null for NULL. */
  maskText(table: TableName, column: string, text: string | null): string | null {
    const mask = ruleFor(this.#rules, table, column)?.mask;
    return mask ? maskedText(text, mask) : text;
  }

  /** The batch as it leaves the source; the same object where nothing in it is touched. */
  batch(batch: Batch): Batch {
    const { events } = batch;
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
    const chosen = relation.columns.map(({ name }) => ruleFor(this.#rules, relation, name));
    checkRules(this.#rules, relation, chosen);
    const columns = chosen.map((rule, from): ColumnPlan => ({ from, mask: rule?.mask ?? null }));
    if (columns.every(({ mask }) => mask === null)) return null;
    const described = columns.map(({ from, mask }) => describe(relation.columns[from]!, mask));
    return { relation: { ...relation, columns: described }, columns };
  }
}

/** Null where nothing is configured: then nothing is in the way of the bytes. Throws PROTECTION where it cannot be kept. */
export function loadProtection({ protect }: Pick<SourceConfig, 'protect'>): Protection | null {
  if (!protect || protect.rules.length === 0) return null;
  return new Protection(compileRules(protect.rules, loadKeys(protect)));
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
