import { appendFileSync, existsSync, readFileSync, truncateSync } from 'node:fs';
import type { Delivery } from '../../src/event/batch.ts';
import type { ChangeEvent } from '../../src/event/change-event.ts';
import type { Offset } from '../../src/event/offset.ts';
import type { Relation } from '../../src/event/relation.ts';
import type { Row } from '../../src/event/row.ts';
import type { Sink, SinkState, StoppedTable } from '../../src/sink/sink.ts';

/** One event as it stands in the file: enough to see every lost and every repeated one. */
export interface Entry {
  readonly op: string;
  readonly table: string;
  /** `commitLsn/seq`, in decimal: unique among the events of a table, whatever was sent again. */
  readonly position: string;
  /** Names of the columns that tell rows apart: the key's, or all where there is none. */
  readonly columns: readonly string[];
  /** False where only the whole row tells rows apart, so that equal ones may be there. */
  readonly keyed: boolean;
  /** Values of those columns. */
  readonly before: readonly (string | null)[] | null;
  readonly after: readonly (string | null)[] | null;
  /** `kind id` of the snapshot that a row belongs to. */
  readonly snapshot: string | null;
  readonly message: string | null;
}

interface Line {
  readonly offsets?: readonly { partition: string; commitLsn: string; seq: number; next: string | null }[];
  readonly entries?: readonly Entry[];
  readonly stopped?: StoppedTable;
}

/**
 * A sink that only appends: what comes twice stands there twice. One line is one transaction, events and offsets
 * together; a line that a crash cut short never happened. Memory of the kernel outlives kill -9, so nothing is synced.
 */
export class AppendSink implements Sink {
  readonly name = 'append';
  readonly delivery = 'transactional';
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async open(): Promise<SinkState> {
    const offsets = new Map<string, Offset>();
    const stopped: StoppedTable[] = [];
    for (const line of this.#read()) {
      if (line.stopped) stopped.push(line.stopped);
      for (const { partition, commitLsn, seq, next } of line.offsets ?? [])
        offsets.set(partition, {
          partition,
          position: { commitLsn: BigInt(commitLsn), seq },
          next: next === null ? null : BigInt(next),
        });
    }
    return { offsets: [...offsets.values()], stopped, tables: null };
  }

  async apply(delivery: Delivery): Promise<boolean> {
    this.#append({
      entries: delivery.events.map(entryOf),
      offsets: delivery.offsets.map(({ partition, position, next }) => ({
        partition,
        commitLsn: String(position.commitLsn),
        seq: position.seq,
        next: next === null ? null : String(next),
      })),
    });
    return true;
  }

  async stopTable(relation: Relation, reason: string): Promise<void> {
    this.#append({ stopped: { schema: relation.schema, table: relation.table, reason } });
  }

  async close(): Promise<void> {}

  /** Everything that was ever applied, in order. */
  entries(): Entry[] {
    return this.#read().flatMap((line) => line.entries ?? []);
  }

  #append(line: Line): void {
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
  }

  #read(): Line[] {
    if (!existsSync(this.#path)) return [];
    const bytes = readFileSync(this.#path);
    const whole = bytes.lastIndexOf(0x0a) + 1;
    if (whole < bytes.length) truncateSync(this.#path, whole);
    return bytes
      .toString('utf8', 0, whole)
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Line);
  }
}

function entryOf(event: ChangeEvent): Entry {
  const { relation, transaction, message } = event;
  const columns = relation ? (relation.key.length > 0 ? relation.key : relation.columns.map((_, i) => i)) : [];
  const values = (row: Row | null): (string | null)[] | null =>
    row && columns.map((column) => row.text(column) ?? null);
  return {
    op: event.op,
    table: relation ? `${relation.schema}.${relation.table}` : '',
    position: `${transaction.commitLsn}/${event.seq}`,
    columns: columns.map((column) => relation!.columns[column]!.name),
    keyed: relation !== null && relation.key.length > 0,
    before: values(event.before),
    after: values(event.after),
    snapshot: transaction.snapshot ? `${transaction.snapshot.kind} ${transaction.snapshot.id}` : null,
    message: message ? `${message.prefix} ${message.content.toString()}` : null,
  };
}
