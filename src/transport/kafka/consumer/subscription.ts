import { setTimeout as sleep } from 'node:timers/promises';
import { WaltideError } from '../../../errors.ts';
import type { Delivery } from '../../../event/batch.ts';
import { ChangeEvent } from '../../../event/change-event.ts';
import type { EventCodec } from '../../../event/codec.ts';
import type { Lsn } from '../../../event/lsn.ts';
import type { Offset } from '../../../event/offset.ts';
import type { Subscription } from '../../transport.ts';
import { type Cluster, partitionKey, type TopicPartition } from '../cluster.ts';
import { Absence, topicMissing } from '../producer-errors.ts';
import { decodeProgress, type Progress } from '../progress.ts';
import { Tail } from '../tail.ts';
import { progressTopic, schemaTopic, transactionTopic } from '../topic.ts';
import { AppliedTracker } from './applied.ts';
import { Decoding } from './decoding.ts';
import { DeletedTopics } from './deleted-topics.ts';
import { Fetcher } from './fetcher.ts';
import { GroupMember } from './group.ts';
import { type Assignment, type MemberState, topicOf } from './group-protocol.ts';
import { PartitionReader } from './partition-reader.ts';
import { startingOffsets } from './start.ts';
import { type Collector, TableCollector } from './table-collector.ts';
import { MARK_PREFIX } from './transaction-check.ts';
import { TransactionCollector } from './transaction-collector.ts';
import { Wake } from './wake.ts';

const IDLE_MS = 1_000;
const COMMIT_INTERVAL_MS = 5_000;
/** A rebalance waits this long for what was handed out to be applied; below what the group waits for us. */
const PAUSE_MS = 20_000;
const CLOSE_MS = 3_000;
const CLOSE_UNREACHABLE_MS = 200;

/** Records of the transaction topic, as events that take part in the order of the others. */
const MARKS: Pick<EventCodec, 'readEvent'> = {
  readEvent: (value, { transaction, seq }) => {
    const message = { prefix: MARK_PREFIX, content: Buffer.from(value), transactional: true };
    return new ChangeEvent('m', transaction, seq, 0, transaction.commitLsn, null, null, null, message);
  },
};

export interface Subscriber {
  readonly name: string;
  readonly instance: string | null;
  readonly consistency: 'table' | 'transaction';
}

/** One sink's view of the topics. See Transport.subscribe. */
export class KafkaSubscription implements Subscription {
  readonly #sink: Subscriber;
  readonly #marksTopic: string;
  readonly #cluster: Cluster;
  readonly #schemas: Tail;
  readonly #progress: Tail;
  readonly #fetcher: Fetcher;
  readonly #group: GroupMember;
  readonly #tracker: AppliedTracker;
  readonly #handedOut: AppliedTracker;
  readonly #makeCodec: (database: string) => EventCodec;
  readonly #decoding: Decoding;
  readonly #collector: Collector;
  readonly #topics = new Set<string>();
  readonly #deleted: DeletedTopics;
  /** How far the sink is, as it told us: from its own store at first, then by `applied`. */
  readonly #positions: Map<string, Offset>;
  /** What is handed out and not yet durable in the sink; true where it is in memory, too. */
  readonly #outstanding = new Map<Delivery, boolean>();
  readonly #wake = new Wake();
  #codec!: EventCodec;
  /** The newest there is. */
  #latest: Progress | null = null;
  startsEmpty = false;
  onAdvanced?: () => void;
  #readers = new Map<string, PartitionReader>();
  #assignment: Assignment | null = null;
  #assignedTopics: ReadonlySet<string> | null = null;
  #outstandingBytes = 0;
  #paused = true;
  #collecting = false;
  #closed = false;
  #failure: Error | null = null;
  #firstAssignment: { resolve: () => void; reject: (error: Error) => void } | null = null;
  #following: Promise<void> | null = null;
  #commitTimer: NodeJS.Timeout | null = null;
  readonly #uncommitted = new Map<string, Offset>();

  constructor(cluster: Cluster, sink: Subscriber, from: readonly Offset[], codec: (database: string) => EventCodec) {
    const { clientId, topicPrefix } = cluster.config;
    this.#sink = sink;
    this.#cluster = cluster;
    this.#deleted = new DeletedTopics(cluster.log);
    this.#makeCodec = codec;
    this.#positions = new Map(from.map((offset) => [offset.partition, offset]));
    this.#schemas = new Tail(cluster, schemaTopic(topicPrefix));
    this.#decoding = new Decoding(
      this.#schemas,
      (topic) => this.#topics.add(topic),
      (topic) => (topic === this.#marksTopic ? MARKS : this.#codec),
    );
    this.#marksTopic = transactionTopic(topicPrefix);
    this.#collector =
      sink.consistency === 'table'
        ? new TableCollector(this.#decoding)
        : new TransactionCollector(this.#decoding, {
            progress: () => this.#latest,
            startsEmpty: () => this.startsEmpty,
          });
    this.#progress = new Tail(cluster, progressTopic(topicPrefix));
    const failed = (error: Error) => this.#failed(error);
    this.#fetcher = new Fetcher(
      cluster,
      () => this.#hasRoom(),
      () => this.#wake.ring(),
      (topic) => this.#goOnWithout(topic),
      failed,
    );
    this.#tracker = new AppliedTracker((topic) => this.#isElsewhere(topic));
    this.#handedOut = new AppliedTracker((topic) => this.#isElsewhere(topic));
    this.#group = new GroupMember(cluster, `${clientId}.${topicPrefix}.${sink.name}`, {
      state: () => this.#state(),
      pause: () => this.#pause(),
      assigned: (assignment) => this.#assigned(assignment),
      failed,
    });
  }

  /** Resolves once partitions are assigned and their offsets found to exist. */
  async open(): Promise<void> {
    await this.#decoding.learn();
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
        this.#outstanding.set(delivery, true);
        for (const { partition, next } of delivery.offsets) this.#handedOut.applied(partition, next ?? 0n);
        this.#outstandingBytes += delivery.bytes;
        return delivery;
      }
      await this.#wake.wait(IDLE_MS, signal);
    }
  }

  taken(delivery: Delivery): void {
    if (this.#outstanding.get(delivery) !== true) return;
    this.#outstanding.set(delivery, false);
    this.#outstandingBytes -= delivery.bytes;
    this.#fetcher.poke();
  }

  applied(delivery: Delivery): void {
    this.taken(delivery);
    this.#outstanding.delete(delivery);
    for (const offset of delivery.offsets) {
      this.#positions.set(offset.partition, offset);
      this.#uncommitted.set(offset.partition, offset);
      this.#tracker.applied(offset.partition, offset.next ?? 0n);
    }
    this.#fetcher.poke();
    this.onAdvanced?.();
  }

  publishedLsn(): Lsn {
    return this.#latest?.lsn ?? 0n;
  }

  appliedLsn(): Lsn {
    return this.#tracker.lsn();
  }

  receivedLsn(): Lsn {
    return this.#handedOut.lsn();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#wake.ring();
    this.#firstAssignment?.reject(new Error('the subscription is closed'));
    if (this.#commitTimer) clearInterval(this.#commitTimer);
    // Where no broker answers, what waits for one ends with the cluster.
    const boundMs = this.#cluster.unreachable ? CLOSE_UNREACHABLE_MS : CLOSE_MS;
    await Promise.race([this.#leave(), sleep(boundMs, undefined, { ref: false })]);
  }

  async #leave(): Promise<void> {
    await this.#commit();
    await Promise.all([this.#group.close(), this.#fetcher.close(), this.#schemas.close(), this.#progress.close()]);
    await this.#following;
  }

  async #collect(): Promise<Delivery | null> {
    if (this.#paused) return null;
    this.#collecting = true;
    try {
      const delivery = await this.#collector.collect([...this.#readers.values()]);
      if (delivery) this.#fetcher.poke();
      return delivery;
    } finally {
      this.#collecting = false;
    }
  }

  /** Follows progress: how far is enough, and which topics there are. */
  async #follow(): Promise<void> {
    const absence = new Absence();
    while (!this.#closed && !this.#cluster.closed) {
      for (const { value } of await this.#progress.poll(500)) {
        const progress = decodeProgress(value);
        if (progress && this.#learn(progress)) this.#group.rejoin();
      }
      if (absence.isFinal(this.#progress.missing)) throw topicMissing(this.#progress.topic, 'does not exist any more');
    }
  }

  /** Its topic was deleted. Throws TOPIC_MISSING where that is a loss. */
  #goOnWithout(topic: string): void {
    let applied = 0n;
    for (const { partition, next } of this.#positions.values()) if (topicOf(partition) === topic) applied += next ?? 0n;
    this.#deleted.add(topic, applied, this.#latest);
    this.#readers = new Map([...this.#readers].filter(([, reader]) => reader.topic !== topic));
    this.#fetcher.assign([...this.#readers.values()]);
    this.#learn(this.#latest!);
  }

  /** What was written to, and is not among the topics that were found, must be new, or the sink would never have it. */
  async #findMissing(found: readonly string[]): Promise<void> {
    const there = new Set(found);
    const lacking = [...(this.#latest?.ends.keys() ?? [])].filter(
      (topic) => !this.#isIgnored(topic) && !there.has(topic),
    );
    if (lacking.length === 0) return;
    const awaited = lacking.some((topic) => !this.#latest!.retired.includes(topic));
    const settled = await this.#cluster.settledMetadata(lacking, awaited ? undefined : 0);
    for (const topic of lacking) if (!settled.has(topic)) this.#goOnWithout(topic);
  }

  /** True where there are topics that are new to us. */
  #learn(written: Progress): boolean {
    const before = this.#topics.size;
    const progress = this.#deleted.without(written);
    this.#latest = progress;
    const topics = [...progress.ends.keys()].filter((topic) => !this.#isIgnored(topic));
    for (const topic of topics) this.#topics.add(topic);
    this.#wake.ring();
    this.#tracker.progress(progress);
    this.#handedOut.progress(progress);
    this.onAdvanced?.();
    return this.#topics.size > before || topics.some((topic) => this.#assignedTopics?.has(topic) === false);
  }

  /** Where transactions begin and end matters to those alone that put them together. */
  #isIgnored(topic: string): boolean {
    return topic === this.#marksTopic && this.#sink.consistency === 'table';
  }

  #hasRoom(): boolean {
    let bytes = this.#outstandingBytes + this.#collector.heldBytes;
    // What waits behind a barrier does not count: the barrier may need more of the other partitions to end.
    for (const reader of this.#readers.values()) if (!reader.barrier) bytes += reader.queuedBytes;
    return bytes < this.#cluster.config.inFlightBytesMax;
  }

  #isElsewhere(topic: string): boolean {
    if (this.#isIgnored(topic) || this.#deleted.has(topic)) return true;
    return this.#assignedTopics?.has(topic) === true && !this.#assignment!.partitions.has(topic);
  }

  #state(): MemberState {
    const owned = [...this.#readers.values()]
      .map(({ key }) => this.#positions.get(key))
      .filter((offset) => offset !== undefined);
    const { instance, consistency } = this.#sink;
    const previous = this.#assignment?.topics ?? [];
    return { topics: [...this.#topics], previous, owned, instance, whole: consistency === 'transaction' };
  }

  async #pause(): Promise<void> {
    // It reads everything or nothing, so that nothing is handed over; a transaction may be on its way in parts.
    if (this.#sink.consistency === 'transaction') return this.#commit();
    this.#paused = true;
    const deadline = performance.now() + PAUSE_MS;
    while ((this.#collecting || this.#outstanding.size > 0) && !this.#closed && performance.now() < deadline)
      await sleep(10);
    await this.#commit();
  }

  async #assigned(assignment: Assignment): Promise<void> {
    if (assignment.refused) throw secondStore(this.#sink.name);
    const owned = [...this.#readers.values()];
    if (this.#sink.consistency === 'transaction' && owned.some(({ topic }) => !assignment.partitions.has(topic)))
      throw takenOver(this.#sink.name);
    if (this.#assignment && assignment.orphans.length > 0) throw orphaned(assignment.orphans);
    await this.#findMissing(assignment.topics);
    for (const offset of assignment.offsets) {
      const known = this.#positions.get(offset.partition);
      if (known && (known.next ?? 0n) >= (offset.next ?? 0n)) continue;
      // Another member went further than we know: what we have of this partition is behind it.
      this.#positions.set(offset.partition, offset);
      this.#tracker.applied(offset.partition, offset.next ?? 0n);
      this.#handedOut.applied(offset.partition, offset.next ?? 0n);
      this.#readers.delete(offset.partition);
    }
    const readers = new Map<string, PartitionReader>();
    const fresh: TopicPartition[] = [];
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
      reader.truncateIsBarrier =
        this.#sink.consistency === 'table' && (assignment.partitions.get(reader.topic)?.length ?? 1) > 1;
    this.#readers = readers;
    this.#assignment = assignment;
    this.#assignedTopics = new Set(assignment.topics);
    this.#paused = false;
    this.#fetcher.assign([...readers.values()]);
    this.#firstAssignment?.resolve();
    this.#wake.ring();
  }

  async #openReaders(fresh: readonly TopicPartition[], into: Map<string, PartitionReader>): Promise<void> {
    if (fresh.length === 0) return;
    const { starts, empty } = await startingOffsets(this.#cluster, fresh, this.#positions, this.#latest);
    this.startsEmpty ||= empty;
    const saved = fresh.flatMap(({ topic, partition }) => this.#positions.get(partitionKey(topic, partition)) ?? []);
    await this.#group.tellBehind(this.#sink.name, saved);
    for (const { topic, partition } of fresh) {
      const key = partitionKey(topic, partition);
      const { offset, unsaved } = starts.get(key)!;
      this.#positions.set(key, offset);
      this.#tracker.applied(key, offset.next ?? 0n);
      this.#handedOut.applied(key, offset.next ?? 0n);
      into.set(key, new PartitionReader(topic, partition, offset, unsaved));
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

function secondStore(sink: string): WaltideError {
  return new WaltideError(
    'SINK_LOCKED',
    `Another process applies sink "${sink}" already, to another store: each of them would get a part of the tables`,
    'Stop one of the two, or give this sink a name of its own; a copy of a database file counts as another store once both are in use.',
  );
}

function takenOver(sink: string): WaltideError {
  return new WaltideError(
    'SINK_LOCKED',
    `Another process has taken over sink "${sink}", whose source transactions only one process can put together`,
    'Stop one of the two.',
  );
}

function orphaned(topics: readonly string[]): WaltideError {
  return new WaltideError(
    'TRANSPORT_UNREACHABLE',
    `Another process of this sink went away while it owned ${topics.join(', ')}; only the sink knows how far it was`,
    "Nothing to do: the sink's offsets are read again.",
  );
}
