import { setTimeout as sleep } from 'node:timers/promises';
import { WaltideError } from '../../../errors.ts';
import type { Delivery } from '../../../event/batch.ts';
import type { EventCodec } from '../../../event/codec.ts';
import type { Lsn } from '../../../event/lsn.ts';
import type { Offset } from '../../../event/offset.ts';
import { START } from '../../../event/position.ts';
import type { Relation } from '../../../event/relation.ts';
import type { Subscription } from '../../transport.ts';
import { type Cluster, EARLIEST, LATEST, partitionKey } from '../cluster.ts';
import { decodeProgress, type Progress } from '../progress.ts';
import { decodeSchema } from '../schema.ts';
import { Tail } from '../tail.ts';
import { progressTopic, schemaTopic } from '../topic.ts';
import { AppliedTracker } from './applied.ts';
import { openBarrier } from './barrier.ts';
import { Fetcher, outOfRange } from './fetcher.ts';
import { GroupMember } from './group.ts';
import type { Assignment, MemberState } from './group-protocol.ts';
import { type Collected, PartitionReader } from './partition-reader.ts';
import { HeaderDecoder } from './record-decoder.ts';
import { Wake } from './wake.ts';

/** Decoded at once: a few thousand events, some ten milliseconds. */
const DELIVERY_BYTES_MAX = 4 * 1024 * 1024;
const IDLE_MS = 1_000;
const COMMIT_INTERVAL_MS = 5_000;
/** A rebalance waits this long for what was handed out to be applied; below what the group waits for us. */
const PAUSE_MS = 20_000;
const RELATION_WAIT_MS = 10_000;

/** One sink's view of the topics. See Transport.subscribe. */
export class KafkaSubscription implements Subscription {
  readonly #cluster: Cluster;
  readonly #schemas: Tail;
  readonly #progress: Tail;
  readonly #fetcher: Fetcher;
  readonly #group: GroupMember;
  readonly #tracker: AppliedTracker;
  readonly #makeCodec: (database: string) => EventCodec;
  readonly #relations = new Map<string, Relation>();
  readonly #headers = new HeaderDecoder(this.#relations);
  readonly #topics = new Set<string>();
  /** How far the sink is, as it told us: from its own store at first, then by `applied`. */
  readonly #positions: Map<string, Offset>;
  readonly #outstanding = new Set<Delivery>();
  readonly #wake = new Wake();
  #codec!: EventCodec;
  #copyStart: Progress['copyStart'] = new Map();
  #copyLsn: Progress['copyLsn'] = null;
  #publishedLsn: Lsn = 0n;
  #readers = new Map<string, PartitionReader>();
  #assignment: Assignment | null = null;
  #assignedTopics: ReadonlySet<string> | null = null;
  #outstandingBytes = 0;
  #turn = 0;
  #paused = true;
  #collecting = false;
  #closed = false;
  #failure: Error | null = null;
  #firstAssignment: { resolve: () => void; reject: (error: Error) => void } | null = null;
  #following: Promise<void> | null = null;
  #commitTimer: NodeJS.Timeout | null = null;
  readonly #uncommitted = new Map<string, Offset>();

  constructor(cluster: Cluster, sink: string, from: readonly Offset[], codec: (database: string) => EventCodec) {
    const { clientId, topicPrefix } = cluster.config;
    this.#cluster = cluster;
    this.#makeCodec = codec;
    this.#positions = new Map(from.map((offset) => [offset.partition, offset]));
    this.#schemas = new Tail(cluster, schemaTopic(topicPrefix));
    this.#progress = new Tail(cluster, progressTopic(topicPrefix));
    const failed = (error: Error) => this.#failed(error);
    this.#fetcher = new Fetcher(
      cluster,
      () => this.#hasRoom(),
      () => this.#wake.ring(),
      failed,
    );
    this.#tracker = new AppliedTracker((topic) => this.#isElsewhere(topic));
    this.#group = new GroupMember(cluster, `${clientId}.${topicPrefix}.${sink}`, {
      state: () => this.#state(),
      pause: () => this.#pause(),
      assigned: (assignment) => this.#assigned(assignment),
      failed,
    });
  }

  /** Resolves once partitions are assigned and their offsets found to exist. */
  async open(): Promise<void> {
    await this.#readSchemas();
    const last = await this.#progress.readLast();
    const progress = last && decodeProgress(last.value);
    if (progress) this.#learn(progress);
    this.#codec = this.#makeCodec(progress?.identity.database ?? '');
    const first = new Promise<void>((resolve, reject) => {
      this.#firstAssignment = { resolve, reject };
    });
    this.#group.start();
    await first;
    this.#following = this.#follow().catch((error: Error) => this.#failed(error));
    this.#commitTimer = setInterval(() => void this.#commit(), COMMIT_INTERVAL_MS);
  }

  async receive(signal: AbortSignal): Promise<Delivery> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#failure) throw this.#failure;
      if (this.#closed)
        throw new WaltideError(
          'TRANSPORT',
          'The subscription is closed',
          'Nothing to do where the process is stopping.',
        );
      const delivery = await this.#collect();
      if (delivery) {
        this.#outstanding.add(delivery);
        this.#outstandingBytes += delivery.bytes;
        return delivery;
      }
      await this.#wake.wait(IDLE_MS, signal);
    }
  }

  taken(): void {}

  applied(delivery: Delivery): void {
    if (this.#outstanding.delete(delivery)) this.#outstandingBytes -= delivery.bytes;
    for (const offset of delivery.offsets) {
      this.#positions.set(offset.partition, offset);
      this.#uncommitted.set(offset.partition, offset);
      this.#tracker.applied(offset.partition, offset.next ?? 0n);
    }
    this.#fetcher.poke();
  }

  publishedLsn(): Lsn {
    return this.#publishedLsn;
  }

  appliedLsn(): Lsn {
    return this.#tracker.lsn();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#wake.ring();
    this.#firstAssignment?.reject(new Error('the subscription is closed'));
    if (this.#commitTimer) clearInterval(this.#commitTimer);
    await this.#commit();
    await Promise.all([this.#group.close(), this.#fetcher.close(), this.#schemas.close(), this.#progress.close()]);
    await this.#following;
  }

  async #collect(): Promise<Delivery | null> {
    if (this.#paused) return null;
    this.#collecting = true;
    try {
      const into: Collected = { events: [], bytes: 0, bytesMax: DELIVERY_BYTES_MAX };
      const readers = [...this.#readers.values()];
      // Begin with another one each time, so that a busy table does not starve the others.
      const start = this.#turn++ % Math.max(1, readers.length);
      for (let i = 0; i < readers.length && into.bytes < into.bytesMax; i++) {
        const reader = readers[(start + i) % readers.length]!;
        if (reader.ready) await this.#decode(reader, into);
      }
      const offsets = readers.map((reader) => reader.takeOffset()).filter((offset) => offset !== null);
      if (into.events.length === 0 && offsets.length === 0) return null;
      this.#fetcher.poke();
      return { events: into.events, bytes: into.bytes, offsets, complete: true };
    } finally {
      this.#collecting = false;
    }
  }

  async #decode(reader: PartitionReader, into: Collected): Promise<void> {
    const deadline = Date.now() + RELATION_WAIT_MS;
    for (;;) {
      const stop = reader.decode(into, this.#headers, this.#codec);
      if (stop === 'barrier') {
        const truncate = openBarrier([...this.#readers.values()].filter(({ topic }) => topic === reader.topic));
        if (!truncate) return;
        into.events.push(truncate);
      } else if (stop !== 'relation') return;
      else {
        await this.#readSchemas();
        if (this.#relations.has(this.#headers.relationId)) continue;
        if (Date.now() > deadline) throw unknownRelation(reader.key, this.#headers.relationId);
        await sleep(100);
      }
    }
  }

  async #readSchemas(): Promise<void> {
    for (const { value } of await this.#schemas.readToEnd()) {
      const record = decodeSchema(value);
      if (!record) continue;
      this.#relations.set(record.id, record.relation);
      this.#topics.add(record.topic);
    }
  }

  /** Follows progress: how far is enough, and which topics there are. */
  async #follow(): Promise<void> {
    while (!this.#closed && !this.#cluster.closed) {
      for (const { value } of await this.#progress.poll(500)) {
        const progress = decodeProgress(value);
        if (progress && this.#learn(progress)) this.#group.rejoin();
      }
    }
  }

  /** True where there are topics that are new to us. */
  #learn(progress: Progress): boolean {
    const before = this.#topics.size;
    this.#publishedLsn = progress.lsn;
    for (const topic of progress.ends.keys()) this.#topics.add(topic);
    this.#copyStart = progress.copyStart;
    this.#copyLsn = progress.copyLsn;
    this.#tracker.progress(progress);
    if (this.#topics.size > before) return true;
    return [...progress.ends.keys()].some((topic) => this.#assignedTopics?.has(topic) === false);
  }

  #hasRoom(): boolean {
    let bytes = this.#outstandingBytes;
    // What waits behind a barrier does not count: the barrier may need more of the other partitions to end.
    for (const reader of this.#readers.values()) if (!reader.barrier) bytes += reader.queuedBytes;
    return bytes < this.#cluster.config.inFlightBytesMax;
  }

  #isElsewhere(topic: string): boolean {
    return this.#assignedTopics?.has(topic) === true && !this.#assignment!.partitions.has(topic);
  }

  #state(): MemberState {
    const owned = [...this.#readers.values()]
      .map(({ key }) => this.#positions.get(key))
      .filter((offset) => offset !== undefined);
    return { topics: [...this.#topics], previous: this.#assignment?.topics ?? [], owned };
  }

  async #pause(): Promise<void> {
    this.#paused = true;
    const deadline = Date.now() + PAUSE_MS;
    while ((this.#collecting || this.#outstanding.size > 0) && !this.#closed && Date.now() < deadline) await sleep(10);
    await this.#commit();
  }

  async #assigned(assignment: Assignment): Promise<void> {
    if (this.#assignment && assignment.orphans.length > 0) throw orphaned(assignment.orphans);
    for (const offset of assignment.offsets) {
      const known = this.#positions.get(offset.partition);
      if (known && (known.next ?? 0n) >= (offset.next ?? 0n)) continue;
      // Another member went further than we know: what we have of this partition is behind it.
      this.#positions.set(offset.partition, offset);
      this.#tracker.applied(offset.partition, offset.next ?? 0n);
      this.#readers.delete(offset.partition);
    }
    const readers = new Map<string, PartitionReader>();
    const fresh: { topic: string; partition: number }[] = [];
    for (const [topic, partitions] of assignment.partitions) {
      for (const partition of partitions) {
        const key = partitionKey(topic, partition);
        const kept = this.#readers.get(key);
        if (kept) readers.set(key, kept);
        else fresh.push({ topic, partition });
      }
    }
    await this.#openReaders(fresh, readers);
    for (const reader of readers.values())
      reader.truncateIsBarrier = (assignment.partitions.get(reader.topic)?.length ?? 1) > 1;
    this.#readers = readers;
    this.#assignment = assignment;
    this.#assignedTopics = new Set(assignment.topics);
    this.#paused = false;
    this.#fetcher.assign([...readers.values()]);
    this.#firstAssignment?.resolve();
    this.#wake.ring();
  }

  async #openReaders(
    fresh: readonly { topic: string; partition: number }[],
    into: Map<string, PartitionReader>,
  ): Promise<void> {
    if (fresh.length === 0) return;
    const [starts, ends] = [
      await this.#cluster.listOffsets(fresh, EARLIEST),
      await this.#cluster.listOffsets(fresh, LATEST),
    ];
    for (const { topic, partition } of fresh) {
      const key = partitionKey(topic, partition);
      const saved = this.#positions.get(key);
      // A saved offset counts only where the sink has seen the newest copy: otherwise topics may have been made anew.
      const current = saved && this.#copyLsn !== null && saved.position.commitLsn >= this.#copyLsn;
      const copyStart = this.#copyStart.get(topic)?.[partition] ?? 0n;
      const from = current ? saved : { partition: key, position: saved?.position ?? START, next: copyStart };
      const next = from.next ?? 0n;
      const start = starts.get(key)!;
      const end = ends.get(key)!;
      if (next < start || next > end) throw outOfRange(key, next, start, end);
      this.#positions.set(key, from);
      this.#tracker.applied(key, next);
      into.set(key, new PartitionReader(topic, partition, from));
    }
  }

  async #commit(): Promise<void> {
    const offsets = [...this.#uncommitted.values()];
    this.#uncommitted.clear();
    await this.#group.commit(offsets);
  }

  #failed(error: Error): void {
    if (this.#closed) return;
    this.#failure ??= error;
    this.#firstAssignment?.reject(error);
    this.#wake.ring();
  }
}

function orphaned(topics: readonly string[]): WaltideError {
  return new WaltideError(
    'TRANSPORT_UNREACHABLE',
    `Another process of this sink went away while it owned ${topics.join(', ')}; only the sink knows how far it was`,
    "Nothing to do: the sink's offsets are read again.",
  );
}

function unknownRelation(partition: string, id: string): WaltideError {
  return new WaltideError(
    'PROTOCOL',
    `${partition} refers to the table description ${id}, which is not in the schema topic`,
    'The schema topic was deleted, or its cleanup.policy is not compact; copy everything again with `waltide run --recopy`.',
  );
}
