import { formatLsn, parseLsn } from '../../../event/lsn.ts';
import type { Offset } from '../../../event/offset.ts';

/*
 * Kafka's own "consumer" protocol, version 0, so that its tools can show our groups:
 *   Subscription => version: int16, [topic: string], userData: bytes
 *   Assignment => version: int16, [topic: string, [partition: int32]], userData: bytes
 * Our user data says how far a member is on the partitions it gives up. What the group itself stores would be stale,
 * and the sink's own offsets were read before the member joined.
 */

/** What one member brings to a rebalance. */
export interface MemberState {
  /** Topics it knows. */
  readonly topics: readonly string[];
  /** Topics of the generation before: those had an owner. */
  readonly previous: readonly string[];
  /** How far it is on every partition it owned. */
  readonly owned: readonly Offset[];
  /** The store that its sink writes to, where it has a name. */
  readonly instance: string | null;
  /** It needs all topics or none. */
  readonly whole: boolean;
}

/** What one member gets. */
export interface Assignment {
  readonly partitions: ReadonlyMap<string, readonly number[]>;
  /** How far the previous owners are, where they are still members. */
  readonly offsets: readonly Offset[];
  /** Topics whose previous owner is gone: only the sink knows how far it was. */
  readonly orphans: readonly string[];
  /** All topics of this generation. */
  readonly topics: readonly string[];
  /** Another store has the sink's name, and was there before: this member is to leave. */
  readonly refused: boolean;
}

type OffsetText = [partition: string, lsn: string, seq: number, next: string];

export function encodeSubscription(state: MemberState): Buffer {
  const { topics, previous, owned, instance, whole } = state;
  return Buffer.concat([
    int16(0),
    int32(topics.length),
    ...topics.map(text),
    bytes({ previous, owned: owned.map(toText), instance, whole }),
  ]);
}

export function decodeSubscription(buffer: Buffer): MemberState {
  const reader = new Reader(buffer);
  const topics = reader.list(() => reader.text());
  const data = reader.json() as { previous?: string[]; owned?: OffsetText[]; instance?: string; whole?: boolean };
  const { previous = [], owned = [], instance = null, whole = false } = data;
  return { topics, previous, owned: owned.map(fromText), instance, whole };
}

export function encodeAssignment(assignment: Assignment): Buffer {
  const { partitions, offsets, orphans, topics, refused } = assignment;
  const list = [...partitions].flatMap(([topic, numbers]) => [
    text(topic),
    int32(numbers.length),
    ...numbers.map(int32),
  ]);
  return Buffer.concat([
    int16(0),
    int32(partitions.size),
    ...list,
    bytes({ offsets: offsets.map(toText), orphans, topics, refused }),
  ]);
}

export function decodeAssignment(buffer: Buffer): Assignment {
  if (buffer.length === 0) return { partitions: new Map(), offsets: [], orphans: [], topics: [], refused: false };
  const reader = new Reader(buffer);
  const partitions = new Map(reader.list(() => [reader.text(), reader.list(() => reader.int32())] as const));
  const data = reader.json() as { offsets?: OffsetText[]; orphans?: string[]; topics?: string[]; refused?: boolean };
  const { offsets = [], orphans = [], topics = [], refused = false } = data;
  return { partitions, offsets: offsets.map(fromText), orphans, topics, refused };
}

/**
 * The members that may have topics. Two stores under one sink's name would each get a part of the tables: the one that
 * was there first stays, or `leader` where all are new.
 */
function admitted(members: ReadonlyMap<string, MemberState>, leader: string): ReadonlyMap<string, MemberState> {
  const first = [...members.values()].find(({ previous }) => previous.length > 0) ?? members.get(leader);
  const store = first?.instance ?? null;
  if (store === null) return members;
  return new Map([...members].filter(([, { instance }]) => instance === null || instance === store));
}

/**
 * Deals out whole topics, so that a truncate or a changed key never concerns two members. A topic stays where it is
 * while no member has more than its share.
 */
export function assignTopics(
  all: ReadonlyMap<string, MemberState>,
  partitionsOf: (topic: string) => number,
  leader = '',
): Map<string, Assignment> {
  const members = admitted(all, leader);
  // A topic that was described but does not exist (yet) is dealt out once it does: progress will mention it.
  const topics = [...new Set([...members.values()].flatMap((member) => member.topics))]
    .filter((topic) => partitionsOf(topic) > 0)
    .sort();
  const offsets = new Map<string, Offset>();
  const owner = new Map<string, string>();
  for (const [id, { owned }] of members) {
    for (const offset of owned) {
      const topic = topicOf(offset.partition);
      const known = offsets.get(offset.partition);
      if (known && (known.next ?? 0n) >= (offset.next ?? 0n)) continue;
      offsets.set(offset.partition, offset);
      owner.set(topic, id);
    }
  }
  const previous = new Set([...members.values()].flatMap((member) => member.previous));
  const whole = [...members.values()].some((member) => member.whole);
  const share = whole ? topics.length : Math.ceil(topics.length / members.size);
  const dealt = new Map<string, string[]>([...members.keys()].sort().map((id) => [id, []]));
  const left = topics.filter((topic) => {
    const list = dealt.get(owner.get(topic) ?? '');
    if (!list || list.length >= share) return true;
    list.push(topic);
    return false;
  });
  for (const topic of left) {
    const better = (a: number, b: number) => (whole ? a > b : a < b);
    const [, list] = [...dealt].reduce((best, entry) => (better(entry[1].length, best[1].length) ? entry : best));
    list.push(topic);
  }
  const assignments = new Map<string, Assignment>();
  for (const [id, list] of dealt) {
    assignments.set(id, {
      partitions: new Map(list.map((topic) => [topic, Array.from({ length: partitionsOf(topic) }, (_, i) => i)])),
      offsets: [...offsets.values()].filter(({ partition }) => list.includes(topicOf(partition))),
      orphans: list.filter((topic) => previous.has(topic) && !owner.has(topic)),
      topics,
      refused: false,
    });
  }
  const none = { partitions: new Map(), offsets: [], orphans: [], topics: [], refused: true };
  for (const id of all.keys()) if (!members.has(id)) assignments.set(id, none);
  return assignments;
}

export function topicOf(partition: string): string {
  return partition.slice(0, partition.lastIndexOf(':'));
}

function toText({ partition, position, next }: Offset): OffsetText {
  return [partition, formatLsn(position.commitLsn), position.seq, String(next ?? 0n)];
}

function fromText([partition, lsn, seq, next]: OffsetText): Offset {
  return { partition, position: { commitLsn: parseLsn(lsn), seq }, next: BigInt(next) };
}

function int16(value: number): Buffer {
  const out = Buffer.alloc(2);
  out.writeInt16BE(value);
  return out;
}

function int32(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeInt32BE(value);
  return out;
}

function text(value: string): Buffer {
  const body = Buffer.from(value);
  return Buffer.concat([int16(body.length), body]);
}

function bytes(json: unknown): Buffer {
  const body = Buffer.from(JSON.stringify(json));
  return Buffer.concat([int32(body.length), body]);
}

class Reader {
  readonly #bytes: Buffer;
  #at = 2;

  constructor(buffer: Buffer) {
    this.#bytes = buffer;
  }

  int32(): number {
    this.#at += 4;
    return this.#bytes.readInt32BE(this.#at - 4);
  }

  text(): string {
    const length = this.#bytes.readInt16BE(this.#at);
    this.#at += 2 + length;
    return this.#bytes.toString('utf8', this.#at - length, this.#at);
  }

  list<T>(read: () => T): T[] {
    return Array.from({ length: this.int32() }, read);
  }

  /** Members of another kind bring other user data, or none. */
  json(): object {
    const length = this.#at + 4 <= this.#bytes.length ? this.int32() : 0;
    try {
      return length > 0 ? (JSON.parse(this.#bytes.toString('utf8', this.#at, this.#at + length)) as object) : {};
    } catch {
      return {};
    }
  }
}
