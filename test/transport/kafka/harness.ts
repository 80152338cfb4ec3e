import { pino } from 'pino';
import { afterEach } from 'vitest';
import { configSchema, type KafkaConfig } from '../../../src/config/schema.ts';
import type { Batch, Delivery } from '../../../src/event/batch.ts';
import { ChangeEvent, type Op, type Transaction } from '../../../src/event/change-event.ts';
import { createJsonCodec } from '../../../src/event/json.ts';
import type { Lsn } from '../../../src/event/lsn.ts';
import type { Offset, SourceIdentity } from '../../../src/event/offset.ts';
import type { Column, ColumnType, Relation } from '../../../src/event/relation.ts';
import { encodeTuple, Row } from '../../../src/event/row.ts';
import { createKafkaTransport, type KafkaDeps } from '../../../src/transport/kafka/kafka-transport.ts';
import type { Subscription, Transport } from '../../../src/transport/transport.ts';

export const IDENTITY: SourceIdentity = {
  systemIdentifier: '7300000000000000001',
  timeline: 1,
  slot: 'waltide',
  database: 'shop',
};

export function kafkaConfig(
  brokers: readonly string[],
  topicPrefix: string,
  more: Partial<KafkaConfig> = {},
): KafkaConfig {
  const { transport } = configSchema.parse({
    source: { url: 'postgres://localhost/shop', tables: ['public.*'] },
    transport: { type: 'kafka', brokers: [...brokers], topicPrefix, ...more },
  });
  return transport as KafkaConfig;
}

export function openTransport(config: KafkaConfig, more: Pick<KafkaDeps, 'letters'> = {}): Transport {
  const log = pino({ level: process.env.WALTIDE_TEST_LOG ?? 'silent' });
  return createKafkaTransport(config, {
    ...more,
    log,
    codec: ({ name, database }) => createJsonCodec({ name, database, version: 'test' }),
  });
}

let open: Transport[] = [];

afterEach(async () => {
  await Promise.all(open.map((transport) => transport.close()));
  open = [];
});

export function closedAfterTest(transport: Transport): Transport {
  open.push(transport);
  return transport;
}

let prefixes = 0;
/** Topics of one test; the broker is shared. */
export function newPrefix(): string {
  return `t${process.pid}_${Date.now() % 100_000_000}_${++prefixes}`;
}

function type(name: string, oid: number): ColumnType {
  return { oid, name, schema: 'pg_catalog', kind: 'base', of: null, domainModifier: -1, delimiter: ',', labels: [] };
}

export function relation(table: string, more: Partial<Relation> = {}): Relation {
  const columns: Column[] = [
    { name: 'id', type: type('int8', 20), modifier: -1 },
    { name: 'note', type: type('text', 25), modifier: -1 },
  ];
  return { oid: 16384, schema: 'public', table, replicaIdentity: 'd', columns, key: [0], ...more };
}

type Value = string | null | undefined;

/** Builds the events of one transaction, numbered as a source would. */
export class Tx {
  readonly transaction: Transaction;
  readonly events: ChangeEvent[] = [];
  readonly #tables = new Map<Relation, number>();
  readonly #end: Lsn;

  constructor(commitLsn: Lsn, more: boolean | Partial<Transaction> = false) {
    const snapshot = more === true;
    this.transaction = {
      xid: snapshot ? 0 : 700,
      commitLsn,
      commitTimeUs: 1_700_000_000_123_456n,
      snapshot: snapshot ? { id: 's1', kind: 'initial', sinks: null } : null,
      origin: null,
      ...(typeof more === 'object' ? more : {}),
    };
    this.#end = commitLsn + 0x20n;
  }

  add(op: Op, table: Relation, after: readonly Value[] | null, before: readonly Value[] | null = null): this {
    const tableSeq = (this.#tables.get(table) ?? 0) + 1;
    this.#tables.set(table, tableSeq);
    const row = (values: readonly Value[] | null) => (values ? new Row(table, encodeTuple(values), 0) : null);
    const seq = this.events.length + 1;
    this.events.push(
      new ChangeEvent(
        op,
        this.transaction,
        seq,
        tableSeq,
        this.transaction.commitLsn - 8n,
        table,
        row(before),
        row(after),
      ),
    );
    return this;
  }

  insert(table: Relation, id: number | string, note: Value = 'x'): this {
    return this.add('c', table, [String(id), note]);
  }

  message(prefix: string, content: string): this {
    const seq = this.events.length + 1;
    const message = { prefix, content: Buffer.from(content), transactional: true };
    this.events.push(
      new ChangeEvent('m', this.transaction, seq, seq, this.transaction.commitLsn, null, null, null, message),
    );
    return this;
  }

  /** A message of ours about a table. */
  about(table: Relation, prefix: string, content: string): this {
    const seq = this.events.length + 1;
    const message = { prefix, content: Buffer.from(content), transactional: true };
    const { transaction } = this;
    this.events.push(new ChangeEvent('m', transaction, seq, 0, transaction.commitLsn, table, null, null, message));
    return this;
  }

  batch(): Batch {
    const bytes = this.events.reduce(
      (sum, { after, before }) => sum + 50 + (after?.bytes.length ?? 0) + (before?.bytes.length ?? 0),
      0,
    );
    return { events: this.events, bytes, commitEndLsn: this.#end };
  }
}

export function keepalive(lsn: Lsn): Batch {
  return { events: [], bytes: 0, commitEndLsn: lsn };
}

/** What a sink would hold: events as text, and the offsets it would have saved. */
export class Collector {
  readonly events: ChangeEvent[] = [];
  readonly lines: string[] = [];
  readonly offsets = new Map<string, Offset>();
  readonly subscription: Subscription;

  constructor(subscription: Subscription) {
    this.subscription = subscription;
  }

  get saved(): Offset[] {
    return [...this.offsets.values()];
  }

  take(delivery: Delivery): void {
    for (const event of delivery.events) {
      this.events.push(event);
      this.lines.push(line(event));
    }
    for (const offset of delivery.offsets) this.offsets.set(offset.partition, offset);
    this.subscription.applied(delivery);
  }

  /** Receives and applies until `done`, or fails after `timeoutMs`. */
  async until(done: () => boolean, timeoutMs = 60_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!done()) {
      if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms; got ${this.lines.slice(-20).join(', ')}`);
      await this.during(50, done);
    }
  }

  /** Receives for `ms`, whatever comes, or until `done`. */
  async during(ms: number, done = () => false): Promise<void> {
    const signal = AbortSignal.timeout(ms);
    while (!done() && !signal.aborted) {
      const delivery = await this.subscription.receive(signal).catch((error: unknown) => {
        if (signal.aborted) return null;
        throw error;
      });
      if (delivery) this.take(delivery);
    }
  }
}

/** `u 2:b<1`: op, new id and note, old id. */
export function line(event: ChangeEvent): string {
  const note = (value: string | null | undefined) => (value === undefined ? '?' : (value ?? 'NULL'));
  if (event.op === 'm') return `m ${event.message!.prefix}:${event.message!.content.toString()}`;
  if (event.op === 't') return `t ${event.relation!.table}`;
  const after = event.after ? ` ${event.after.text(0)}:${note(event.after.text(1))}` : '';
  const before = event.before ? `<${event.before.text(0)}` : '';
  return `${event.op}${after}${before}`;
}
