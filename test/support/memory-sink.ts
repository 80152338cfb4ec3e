import type { Delivery } from '../../src/event/batch.ts';
import type { Offset } from '../../src/event/offset.ts';
import type { Relation } from '../../src/event/relation.ts';
import type { Sink, SinkState, StoppedTable } from '../../src/sink/sink.ts';

/** An append-only sink: it keeps every event it is given, so that a lost or repeated one shows. Outlives its pipelines. */
export class MemorySink implements Sink {
  readonly name: string;
  readonly delivery = 'transactional';
  readonly events: { op: string; table: string; key: string | null | undefined; position: string }[] = [];
  readonly #offsets = new Map<string, Offset>();
  readonly #stopped: StoppedTable[] = [];
  /** Called before each apply: to wait, or to fail. */
  before: (delivery: Delivery) => Promise<void> = async () => {};

  constructor(name = 'memory') {
    this.name = name;
  }

  async open(): Promise<SinkState> {
    return { offsets: [...this.#offsets.values()], stopped: this.#stopped, tables: null };
  }

  async apply(delivery: Delivery): Promise<boolean> {
    await this.before(delivery);
    for (const event of delivery.events) {
      const row = event.after ?? event.before;
      this.events.push({
        op: event.op,
        table: event.relation?.table ?? '',
        key: row?.text(0),
        position: `${event.transaction.commitLsn}/${event.seq}`,
      });
    }
    for (const offset of delivery.offsets) this.#offsets.set(offset.partition, offset);
    return true;
  }

  async stopTable(relation: Relation, reason: string): Promise<void> {
    this.#stopped.push({ schema: relation.schema, table: relation.table, reason });
  }

  async rewind(to: readonly Offset[]): Promise<void> {
    for (const offset of to) this.#offsets.set(offset.partition, offset);
  }

  async close(): Promise<void> {}
}
