import type { Delivery } from '../../src/event/batch.ts';
import { type ChangeEvent, snapshotPhase } from '../../src/event/change-event.ts';
import type { Offset } from '../../src/event/offset.ts';
import type { Row } from '../../src/event/row.ts';
import type { FollowedTable, Sink, SinkState } from '../../src/sink/sink.ts';

let rowsWithoutKey = 0;

type Values = (string | null | undefined)[];

/** What a table is to a sink: rows by key, or a list of them where there is none. */
class Rows {
  readonly rows = new Map<string, Values>();
  readonly #lenient: boolean;

  constructor(lenient: boolean) {
    this.#lenient = lenient;
  }

  apply(event: ChangeEvent): void {
    const { before, after, op } = event;
    const { key } = event.relation!;
    if (op === 't') this.rows.clear();
    if (op === 't' || op === 'm') return;
    if (op === 'c' && key.length > 0 && !this.#lenient && this.rows.has(keyOf(after!)))
      throw new Error(`inserted twice: ${event}`);
    const old = before ? this.#take(before) : after && op === 'u' ? this.#take(after) : null;
    if (!old && op !== 'c' && op !== 'r' && !this.#lenient) throw new Error(`no such row: ${event}`);
    if (!after) return;
    const values = valuesOf(after);
    for (let i = 0; i < values.length; i++) if (values[i] === undefined) values[i] = old?.[i] ?? before?.text(i);
    // A later chunk brings it.
    if (values.includes(undefined)) {
      if (!this.#lenient) throw new Error(`a value that nobody has: ${event}`);
      return;
    }
    this.rows.set(key.length > 0 ? keyOf(after) : `#${++rowsWithoutKey}`, values);
  }

  #take(row: Row): Values | null {
    const { key } = row.relation;
    const wanted = JSON.stringify(valuesOf(row));
    const at =
      key.length > 0 ? keyOf(row) : [...this.rows].find(([, values]) => JSON.stringify(values) === wanted)?.[0];
    const old = at === undefined ? undefined : this.rows.get(at);
    if (at !== undefined) this.rows.delete(at);
    return old ?? null;
  }
}

interface Table {
  live: Rows | null;
  shadow: { readonly id: string; readonly rows: Rows } | null;
}

const keyOf = (row: Row): string => JSON.stringify(row.relation.key.map((i) => row.text(i)));
const valuesOf = (row: Row): Values => row.relation.columns.map((_column, i) => row.text(i));

/**
 * The rules of snapshots in their plainest form: what a sink with shadow tables must do, row by row. Strict where a sink
 * must have the row, so that an event that does not fit ends the test. Outlives its pipelines.
 */
export class ModelSink implements Sink {
  readonly name: string;
  readonly delivery = 'transactional';
  readonly tables = new Map<string, Table>();
  /** Rows by op and table, of all that was applied. */
  readonly counts = new Map<string, number>();
  readonly ended: string[] = [];
  #offsets: readonly Offset[] = [];
  before: (delivery: Delivery) => Promise<void> = async () => {};

  constructor(name = 'model') {
    this.name = name;
  }

  async open(): Promise<SinkState> {
    const tables: FollowedTable[] = [...this.tables].map(([name, { live, shadow }]) => {
      const [schema, table] = name.split('.') as [string, string];
      return { schema, table, live: live !== null, filling: shadow?.id ?? null };
    });
    return { offsets: this.#offsets, stopped: [], tables };
  }

  async apply(delivery: Delivery): Promise<boolean> {
    await this.before(delivery);
    for (const event of delivery.events) if (event.relation) this.#event(event);
    this.#offsets = delivery.offsets;
    return true;
  }

  /** Rows of a live table as text; undefined for a table that is not live. */
  rows(name: string): Values[] | undefined {
    const live = this.tables.get(name)?.live;
    return live ? [...live.rows.values()] : undefined;
  }

  #event(event: ChangeEvent): void {
    const { op, relation, transaction } = event;
    const name = `${relation!.schema}.${relation!.table}`;
    const table: Table = this.tables.get(name) ?? { live: null, shadow: null };
    this.tables.set(name, table);
    this.counts.set(`${op} ${name}`, (this.counts.get(`${op} ${name}`) ?? 0) + 1);
    const { snapshot } = transaction;
    if (!snapshot) {
      table.live?.apply(event);
      table.shadow?.rows.apply(event);
      return;
    }
    if (snapshot.sinks && !snapshot.sinks.includes(this.name)) return;
    if (snapshot.kind === 'partial') table.live?.apply(event);
    else if (op === 't') table.shadow = { id: snapshot.id, rows: new Rows(relation!.key.length > 0) };
    else if (table.shadow?.id !== snapshot.id) return;
    else if (op === 'r') table.shadow.rows.apply(event);
    else if (snapshotPhase(event)) {
      const phase = snapshotPhase(event);
      this.ended.push(`${phase} ${name}`);
      if (phase === 'completed') {
        table.live = new Rows(false);
        for (const [key, values] of table.shadow.rows.rows) table.live.rows.set(key, values);
      }
      table.shadow = null;
    }
  }

  async stopTable(_relation: unknown, reason: string): Promise<void> {
    throw new Error(reason);
  }

  async close(): Promise<void> {}
}
