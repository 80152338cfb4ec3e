import { setTimeout as sleep } from 'node:timers/promises';
import { WaltideError } from '../../errors.ts';
import type { Batch } from '../../event/batch.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import type { EventCodec } from '../../event/codec.ts';
import { formatLsn, type Lsn } from '../../event/lsn.ts';
import type { SourceIdentity } from '../../event/offset.ts';
import { formatPosition } from '../../event/position.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import { type Cluster, closedError, LATEST, type NewTopic, partitionKey, type TopicInfo } from './cluster.ts';
import { EventWriter, type Route } from './event-writer.ts';
import { HEADER } from './header.ts';
import { type PartitionLog, type SealedBatch, Ticket } from './partition-log.ts';
import { Producer, topicMissing } from './producer.ts';
import { decodeProgress, type Progress } from './progress.ts';
import { ProgressWriter } from './progress-writer.ts';
import { encodeHeader } from './record-batch.ts';
import { RecordCursor, readBatches } from './record-reader.ts';
import { decodeSchema, describeRelation, encodeSchema } from './schema.ts';
import { Tail } from './tail.ts';
import {
  dataTopic,
  deadLetterTopic,
  internalTopic,
  letterTopic,
  messagesTopic,
  messageTopic,
  progressTopic,
  schemaTopic,
  TopicOwners,
  tableTopic,
} from './topic.ts';

interface Letter {
  readonly table: string;
  readonly topic: string;
  readonly key: string | null;
  readonly bytes: number;
  readonly position: string;
  readonly op: string;
}

interface Publish {
  readonly lsn: Lsn | null;
  readonly bytes: number;
  durable: boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** The capture side: topics, order, durability, progress. One per transport. */
export class Capture {
  readonly #cluster: Cluster;
  readonly #codec: EventCodec;
  readonly #producer: Producer;
  readonly #writer: EventWriter;
  readonly #owners = new TopicOwners();
  readonly #routes = new WeakMap<Relation, Route>();
  readonly #schemaIds = new Set<string>();
  /** Publishes whose data is not all durable yet, in order, and after them those waiting for progress. */
  #queue: Publish[] = [];
  readonly #unfinished = new Set<Publish>();
  #messages: Route | null = null;
  #progress: ProgressWriter | null = null;
  #schemaLog: PartitionLog | null = null;
  #letterLog: PartitionLog | null = null;
  #writing: Ticket | null = null;
  /** Set while a new table's topic is prepared: later publishes queue behind it. */
  #preparing: Promise<void> | null = null;
  bytesInFlight = 0;
  lettersTotal = 0;

  constructor(cluster: Cluster, codec: EventCodec) {
    this.#cluster = cluster;
    this.#codec = codec;
    this.#producer = new Producer(
      cluster,
      (log, record) => this.#refusedRecord(log, record),
      (error) => this.#failed(error),
    );
    this.#writer = new EventWriter(this.#producer, this.#codec, cluster.config, (event, topic, key, bytes) =>
      this.#oversize(event, topic, key, bytes),
    );
  }

  /** See Transport.openCapture. */
  async open(identity: SourceIdentity, confirmed: Lsn | null): Promise<void> {
    const { topicPrefix } = this.#cluster.config;
    const names = [schemaTopic(topicPrefix), progressTopic(topicPrefix)];
    const internal = await this.#cluster.ensureTopics(names.map(internalTopic));
    const last = await this.#lastProgress();
    if (last) checkIdentity(topicPrefix, identity, last.identity);
    checkSlot(topicPrefix, confirmed, last);
    await this.#producer.open();
    await this.#loadSchemas();
    const infos = await this.#knownTopics(last, confirmed !== null);
    const ends = await this.#endsOf([...infos.values(), ...internal.values()]);
    for (const info of infos.values()) this.#add(info, ends);
    if (last && confirmed !== null) this.#checkEnds(last);
    const copyStart = last && confirmed !== null ? last.copyStart : this.#dataEnds();
    const copyLsn = last && confirmed !== null ? last.copyLsn : null;
    this.#schemaLog = this.#add(internal.get(names[0]!)!, ends)[0]!;
    const progressLog = this.#add(internal.get(names[1]!)!, ends)[0]!;
    const lsn = confirmed === null ? 0n : (last?.lsn ?? 0n);
    this.#progress = new ProgressWriter(this.#producer, progressLog, { identity, lsn, copyStart, copyLsn }, () =>
      this.#dataEnds(),
    );
    await Promise.race([this.#progress.write(), this.#failure()]);
  }

  /** See Transport.publish. The batch's rows are copied before this returns, unless a new table needs a topic first. */
  publish(batch: Batch): Promise<void> {
    if (this.#producer.failure) return Promise.reject(this.#producer.failure);
    return new Promise((resolve, reject) => {
      const publish: Publish = { lsn: batch.commitEndLsn, bytes: batch.bytes, durable: false, resolve, reject };
      this.bytesInFlight += batch.bytes;
      this.#queue.push(publish);
      this.#unfinished.add(publish);
      const missing = this.#preparing === null && this.#unrouted(batch) === null;
      if (missing) this.#write(batch, publish);
      else this.#writeLater(batch, publish);
    });
  }

  /** Waits up to `timeoutMs` for what was published; what is not durable by then is rejected. */
  async close(timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (this.#unfinished.size > 0 && Date.now() < deadline) await sleep(5);
    this.#producer.fail(closedError());
  }

  #write(batch: Batch, publish: Publish): void {
    const ticket = new Ticket(() => this.#durable(publish));
    this.#writing = ticket;
    const { events } = batch;
    // After a new slot the first event is the copy's.
    if (this.#progress) this.#progress.copyLsn ??= events[0]?.transaction.commitLsn ?? null;
    try {
      let relation: Relation | null = null;
      let route: Route | null = null;
      for (let i = 0; i < events.length; i++) {
        const event = events[i]!;
        if (route === null || event.relation !== relation) {
          relation = event.relation;
          route = this.#routeOf(relation);
        }
        this.#writer.write(event, route!, ticket);
      }
    } catch (error) {
      this.#producer.fail(error as Error);
      return;
    }
    ticket.close();
    this.#producer.flush();
  }

  #writeLater(batch: Batch, publish: Publish): void {
    const before = this.#preparing ?? Promise.resolve();
    const mine = before.then(async () => {
      for (let event = this.#unrouted(batch); event; event = this.#unrouted(batch)) await this.#prepare(event.relation);
      if (!this.#producer.failure) this.#write(batch, publish);
    });
    const done: Promise<void> = mine
      .catch((error: Error) => this.#producer.fail(error))
      .finally(() => {
        if (this.#preparing === done) this.#preparing = null;
      });
    this.#preparing = done;
  }

  #routeOf(relation: Relation | null): Route | null {
    return relation === null ? this.#messages : (this.#routes.get(relation) ?? null);
  }

  /** The first event that has nowhere to go yet. */
  #unrouted(batch: Batch): ChangeEvent | null {
    let known: Relation | null | undefined;
    for (const event of batch.events) {
      if (event.relation === known) continue;
      if (this.#routeOf(event.relation) === null) return event;
      known = event.relation;
    }
    return null;
  }

  /** Creates the topic and writes the table's description, both before the first record that needs them. */
  async #prepare(relation: Relation | null): Promise<void> {
    const { config } = this.#cluster;
    if (relation === null) {
      const logs = await this.#topic(messagesTopic(config, messageTopic(config.topicPrefix)));
      this.#messages = { logs, relationHeader: null };
      return;
    }
    const topic = tableTopic(config.topicPrefix, relation);
    this.#owners.claim(topic, relation);
    const logs = await this.#topic(dataTopic(config, topic, config.partitions));
    const record = describeRelation(relation, topic);
    if (!this.#schemaIds.has(record.id)) {
      await Promise.race([this.#producer.append(this.#schemaLog!, record.id, encodeSchema(record)), this.#failure()]);
      this.#schemaIds.add(record.id);
    }
    this.#routes.set(relation, { logs, relationHeader: encodeHeader(HEADER.relation, record.id) });
  }

  async #topic(topic: NewTopic): Promise<readonly PartitionLog[]> {
    const known = this.#producer.logs(topic.name);
    if (known) return known;
    const info = (await this.#cluster.ensureTopics([topic])).get(topic.name)!;
    return this.#add(info, await this.#endsOf([info]));
  }

  #add(info: TopicInfo, ends: ReadonlyMap<string, bigint>): PartitionLog[] {
    const list = info.leaders.map((_leader, partition) => ends.get(partitionKey(info.name, partition)) ?? 0n);
    return this.#producer.addTopic(info, list);
  }

  #endsOf(infos: readonly TopicInfo[]): Promise<Map<string, bigint>> {
    const partitions = infos.flatMap(({ name, leaders }) =>
      leaders.map((_leader, partition) => ({ topic: name, partition })),
    );
    return this.#cluster.listOffsets(partitions, LATEST);
  }

  #dataEnds(): Map<string, bigint[]> {
    const { topicPrefix } = this.#cluster.config;
    const ends = new Map(this.#producer.ends());
    for (const name of [schemaTopic, progressTopic, deadLetterTopic]) ends.delete(name(topicPrefix));
    return ends;
  }

  async #lastProgress(): Promise<Progress | null> {
    const tail = new Tail(this.#cluster, progressTopic(this.#cluster.config.topicPrefix));
    const last = await tail.readLast().finally(() => tail.close());
    return last ? decodeProgress(last.value) : null;
  }

  async #loadSchemas(): Promise<void> {
    const tail = new Tail(this.#cluster, schemaTopic(this.#cluster.config.topicPrefix));
    for (const { value } of await tail.readToEnd().finally(() => tail.close())) {
      const record = decodeSchema(value);
      if (record) this.#schemaIds.add(record.id);
    }
  }

  /** Topics that progress speaks of. One that is gone is an error, unless everything is to be copied again anyway. */
  async #knownTopics(last: Progress | null, needed: boolean): Promise<Map<string, TopicInfo>> {
    const names = [...(last?.ends.keys() ?? [])];
    if (names.length === 0) return new Map();
    const infos = await this.#cluster.metadata(names);
    const settled = names.every((name) => infos.has(name))
      ? infos
      : await this.#cluster.settledMetadata(names, needed ? 5_000 : 500);
    const gone = names.find((name) => !settled.has(name));
    if (gone !== undefined && needed) throw topicMissing(gone, 'does not exist any more');
    return settled;
  }

  #checkEnds(last: Progress): void {
    for (const [topic, ends] of last.ends) {
      const logs = this.#producer.logs(topic)!;
      if (ends.some((end, i) => (logs[i]?.end ?? 0n) < end)) throw topicMissing(topic, 'was deleted and created again');
    }
  }

  #durable(publish: Publish): void {
    if (!this.#unfinished.has(publish)) return;
    this.bytesInFlight -= publish.bytes;
    publish.durable = true;
    while (this.#queue[0]?.durable) {
      const first = this.#queue.shift()!;
      const finish = () => {
        if (this.#unfinished.delete(first)) first.resolve();
      };
      if (first.lsn === null) finish();
      else this.#progress!.reached(first.lsn, finish, this.#queue.length > 0);
    }
  }

  #failed(error: Error): void {
    this.#progress?.stop();
    for (const publish of this.#unfinished) publish.reject(error);
    this.#unfinished.clear();
    this.#queue = [];
    this.bytesInFlight = 0;
    for (const reject of this.#onFailure) reject(error);
  }

  readonly #onFailure: ((error: Error) => void)[] = [];

  /** Rejects when the producer ends; for waits that only the producer could end. */
  #failure(): Promise<never> {
    if (this.#producer.failure) return Promise.reject(this.#producer.failure);
    const failure = new Promise<never>((_resolve, reject) => this.#onFailure.push(reject));
    failure.catch(() => {});
    return failure;
  }

  #oversize(event: ChangeEvent, topic: string, key: string | null, bytes: number): void {
    const table = event.relation ? relationName(event.relation) : 'a logical message';
    const ticket = this.#writing!;
    const written = this.#letter({ table, topic, key, bytes, position: formatPosition(event.position), op: event.op });
    // The publish is not durable before the letter is.
    ticket.add();
    written.then(
      () => ticket.settle(),
      (error: Error) => this.#producer.fail(error),
    );
  }

  /** The broker's limit is below ours: all that is known is in the record itself. */
  #refusedRecord(log: PartitionLog, batch: SealedBatch): Promise<void> {
    const cursor = new RecordCursor();
    cursor.open(readBatches(batch.bytes.subarray(0, batch.length))[0]!);
    cursor.next();
    const text = (at: number, end: number) => (end < 0 ? null : cursor.bytes.toString('utf8', at, end));
    const headers = new Map<string, string>();
    cursor.eachHeader((nameAt, nameEnd, valueAt, valueEnd) =>
      headers.set(text(nameAt, nameEnd)!, text(valueAt, valueEnd)!),
    );
    const position = `${headers.get(HEADER.lsn)}#${headers.get(HEADER.seq)}`;
    return this.#letter({
      table: log.topic,
      topic: log.topic,
      key: text(cursor.keyAt, cursor.keyEnd),
      bytes: batch.length,
      position,
      op: '',
    });
  }

  /** Resolves once the letter is durable. Throws at once where such records are to stop us. */
  #letter(letter: Letter): Promise<void> {
    const { config, log } = this.#cluster;
    const { table, key, bytes, topic } = letter;
    const limit = config.maxRecordBytes;
    const what = `A record of ${table} with key ${key} takes ${bytes} bytes (topic ${topic}, limit ${limit})`;
    const error = new WaltideError(
      'RECORD_TOO_LARGE',
      what,
      "Raise transport.maxRecordBytes and the topic's max.message.bytes, or set transport.oversize to dead-letter.",
    );
    if (config.oversize === 'fail') throw error;
    this.lettersTotal++;
    log.error({ ...letter, key: undefined, code: error.code }, 'Kafka: record too large, put aside as a dead letter');
    return this.#writeLetter(JSON.stringify({ ...letter, error: error.message, code: error.code }));
  }

  async #writeLetter(text: string): Promise<void> {
    if (!this.#letterLog) {
      const name = deadLetterTopic(this.#cluster.config.topicPrefix);
      const info = (await this.#cluster.ensureTopics([letterTopic(name)])).get(name)!;
      this.#letterLog = this.#add(info, await this.#endsOf([info]))[0]!;
    }
    await this.#producer.append(this.#letterLog, '', text);
  }
}

function checkIdentity(prefix: string, mine: SourceIdentity, theirs: SourceIdentity): void {
  for (const field of ['systemIdentifier', 'database', 'slot'] as const) {
    if (mine[field] === theirs[field]) continue;
    throw new WaltideError(
      'CLUSTER_MISMATCH',
      `The topics ${prefix}.* hold the changes of ${field} ${theirs[field]}; this source has ${field} ${mine[field]}`,
      'Use another transport.topicPrefix, or delete the topics of this prefix if nobody needs them.',
    );
  }
}

function checkSlot(prefix: string, confirmed: Lsn | null, last: Progress | null): void {
  if (confirmed === null || (last !== null && confirmed <= last.lsn)) return;
  const stored = last ? `only everything up to ${formatLsn(last.lsn)}` : 'nothing';
  throw new WaltideError(
    'SLOT_AHEAD',
    `The slot has acknowledged ${formatLsn(confirmed)}, but the topics ${prefix}.* hold ${stored}: changes between are lost to them`,
    'Find out who else advanced the slot or deleted topics, then copy everything again with `waltide run --recopy`.',
  );
}
