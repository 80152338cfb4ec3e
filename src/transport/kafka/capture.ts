import { setTimeout as sleep } from 'node:timers/promises';
import type { Letters as LetterStore } from '../../dead-letter/dead-letter.ts';
import type { Batch } from '../../event/batch.ts';
import { type ChangeEvent, isAfter } from '../../event/change-event.ts';
import type { EventCodec } from '../../event/codec.ts';
import { eachRow } from '../../event/copied-rows.ts';
import type { Lsn } from '../../event/lsn.ts';
import type { SourceIdentity } from '../../event/offset.ts';
import { comparePosition, type Position, START } from '../../event/position.ts';
import type { Relation } from '../../event/relation.ts';
import { checkTimeline } from '../../event/timeline.ts';
import { failpoint } from '../../failpoint.ts';
import type { CapturedTables } from '../../postgres/captured.ts';
import { checkEnds, checkIdentity, checkSlot } from './capture-checks.ts';
import { CapturedTopics } from './captured-topics.ts';
import { type Cluster, closedError, type NewTopic, partitionKey, type TopicInfo } from './cluster.ts';
import { CommitLoop, type Written } from './commit-loop.ts';
import { EventWriter, type Route } from './event-writer.ts';
import { HEADER } from './header.ts';
import { Letters } from './letters.ts';
import { type PartitionLog, type SealedBatch, Ticket } from './partition-log.ts';
import { Producer } from './producer.ts';
import { topicMissing } from './producer-errors.ts';
import { endsOf } from './producer-topics.ts';
import { ProducerTransaction } from './producer-transaction.ts';
import { decodeProgress, type Progress } from './progress.ts';
import { type ProgressSink, type ProgressStart, ProgressWriter, type TopicState } from './progress-writer.ts';
import { encodeHeader } from './record-batch.ts';
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
  transactionTopic,
} from './topic.ts';
import { TransactionMarks } from './transaction-marks.ts';
import { Transactions } from './transactions.ts';

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
  readonly #transactions: Transactions | null;
  readonly #transaction: ProducerTransaction | null;
  readonly #writer: EventWriter;
  readonly #letters: Letters;
  readonly #owners = new TopicOwners();
  readonly #captured: CapturedTopics;
  /** Topics that were there, of tables captured no more, with their ends. */
  readonly #deleted = new Map<string, bigint[]>();
  readonly #routes = new WeakMap<Relation, Route>();
  /** Descriptions that are in the schema topic, by id. */
  readonly #schemas = new Map<string, Relation>();
  /** Publishes whose data is not all durable yet, in order, and after them those waiting for progress. */
  #queue: Publish[] = [];
  readonly #unfinished = new Set<Publish>();
  #messages: Route | null = null;
  #marks: TransactionMarks | null = null;
  /** What the log held already when this capture began, where that is known exactly: it is not written again. */
  #resume: Position | null = null;
  #written: Written = { lsn: 0n, position: START };
  #progress: ProgressSink | null = null;
  #schemaLog: PartitionLog | null = null;
  #letterLog: PartitionLog | null = null;
  #writing: Ticket | null = null;
  /** Set while a new table's topic is prepared: later publishes queue behind it. */
  #preparing: Promise<void> | null = null;
  bytesInFlight = 0;

  /** Throws where a captured table cannot have a topic of its own. */
  constructor(
    cluster: Cluster,
    codec: EventCodec,
    slot: string,
    captured: CapturedTables | null,
    store: LetterStore | null,
  ) {
    const { exactlyOnce, topicPrefix, transactions } = cluster.config;
    this.#captured = new CapturedTopics(topicPrefix, captured, transactions.enabled);
    this.#cluster = cluster;
    this.#codec = codec;
    this.#transactions = exactlyOnce ? new Transactions(cluster, `waltide.${topicPrefix}.${slot}`) : null;
    this.#transaction = this.#transactions ? new ProducerTransaction(this.#transactions) : null;
    this.#producer = new Producer(
      cluster,
      (log, record) => this.#letters.refused(log, record),
      (error) => this.#failed(error),
      this.#transaction,
    );
    const reserve = (batch: SealedBatch | null) => this.#reserve(batch);
    this.#letters = new Letters(cluster, { store, reserve, codec, relations: this.#schemas });
    this.#writer = new EventWriter(this.#producer, this.#codec, cluster.config, (event, topic, key, bytes) =>
      this.#oversize(event, topic, key, bytes),
    );
  }

  /** See Transport.openCapture. */
  async open(identity: SourceIdentity, confirmed: Lsn | null): Promise<void> {
    const { topicPrefix } = this.#cluster.config;
    const names = [schemaTopic(topicPrefix), progressTopic(topicPrefix)];
    const internal = await this.#cluster.ensureTopics(names.map(internalTopic));
    const before = await this.#lastProgress();
    if (before) checkIdentity(topicPrefix, identity, before.identity);
    this.#producer.open(await (this.#transactions?.open() ?? this.#cluster.producerId()));
    // Read again: whoever had the transactional id before may have committed something until now.
    const last = this.#transactions ? await this.#lastProgress() : before;
    if (last && confirmed !== null)
      checkTimeline(`the log in ${topicPrefix}.*`, last.identity.timeline, { commitLsn: last.lsn, seq: 0 }, identity);
    checkSlot(topicPrefix, confirmed, last);
    await this.#loadSchemas();
    const infos = await this.#captured.find(this.#cluster, last, confirmed !== null, this.#deleted);
    const ends = await endsOf(this.#cluster, [...infos.values(), ...internal.values()]);
    for (const info of infos.values()) this.#add(info, ends);
    await this.#openMarks();
    if (last && confirmed !== null) checkEnds(last, (topic) => this.#producer.topics.logs(topic));
    const copyStart = last && confirmed !== null ? last.copyStart : this.#dataEnds();
    const copyLsn = last && confirmed !== null ? last.copyLsn : null;
    this.#schemaLog = this.#add(internal.get(names[0]!)!, ends)[0]!;
    const progressLog = this.#add(internal.get(names[1]!)!, ends)[0]!;
    const lsn = confirmed === null ? 0n : (last?.lsn ?? 0n);
    if (last && confirmed !== null && this.#transactions)
      this.#resume = last.position ?? { commitLsn: last.lsn, seq: 0 };
    this.#written = { lsn, position: this.#resume ?? START };
    this.#progress = this.#openProgress(progressLog, { identity, lsn, copyStart, copyLsn });
    await Promise.race([this.#progress.write(), this.#failure()]);
  }

  #openProgress(log: PartitionLog, start: ProgressStart): ProgressSink {
    const transactions = this.#transactions;
    const producer = this.#producer;
    const topics = (): TopicState => {
      const ends = this.#dataEnds();
      return { ends, retired: this.#captured.retired(ends.keys()) };
    };
    if (!transactions) return new ProgressWriter(producer, log, start, topics);
    // Half may be on its way while the other half is read.
    const bytesMax = this.#cluster.config.inFlightBytesMax / 2;
    return new CommitLoop({
      ...{ producer, transactions, log, start, topics },
      written: () => this.#written,
      isFull: () => this.bytesInFlight >= bytesMax,
      lastCommitted: () => this.#lastProgressText(),
    });
  }

  async #openMarks(): Promise<void> {
    const { topicPrefix, transactions, batchBytesMax } = this.#cluster.config;
    if (!transactions.enabled) return;
    const [log] = await this.#topic(messagesTopic(this.#cluster.config, transactionTopic(topicPrefix)));
    this.#marks = new TransactionMarks(this.#producer, log!, batchBytesMax);
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

  /** Waits up to `timeoutMs` for what was published, while a broker answers; what is not durable by then is rejected. */
  async close(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (this.#unfinished.size > 0 && performance.now() < deadline && !this.#cluster.unreachable) await sleep(5);
    this.#producer.fail(closedError());
  }

  #write(batch: Batch, publish: Publish): void {
    const ticket = new Ticket(() => this.#durable(publish));
    this.#writing = ticket;
    const events = eachRow(batch.events);
    const marks = this.#marks;
    const resume = this.#resume;
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
        if (resume !== null && !isAfter(event, resume))
          marks?.note(event, this.#writer.count(event, route!), ticket, resume);
        else {
          const records = this.#writer.write(event, route!, ticket);
          marks?.note(event, records, ticket, resume);
        }
      }
      if (batch.commitEndLsn !== null) marks?.end(ticket, resume);
      this.#note(batch);
    } catch (error) {
      this.#producer.fail(error as Error);
      return;
    }
    ticket.close();
    this.#producer.flush();
    this.#progress?.wrote();
  }

  /** How far the batch brings what is written. */
  #note({ events, commitEndLsn }: Batch): void {
    const { lsn, position } = this.#written;
    const end = commitEndLsn !== null ? { commitLsn: commitEndLsn, seq: 0 } : (events.at(-1)?.position ?? START);
    this.#written = {
      lsn: commitEndLsn !== null && commitEndLsn > lsn ? commitEndLsn : lsn,
      position: comparePosition(end, position) > 0 ? end : position,
    };
    if (this.#resume && this.#written.position.commitLsn > this.#resume.commitLsn && commitEndLsn !== null)
      this.#resume = null;
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
    if (!this.#schemas.has(record.id)) {
      await Promise.race([this.#append(this.#schemaLog!, record.id, encodeSchema(record)), this.#failure()]);
      this.#schemas.set(record.id, record.relation);
    }
    this.#routes.set(relation, { logs, relationHeader: encodeHeader(HEADER.relation, record.id) });
  }

  #append(log: PartitionLog, key: string, text: string, transaction?: number): Promise<void> {
    const appended = this.#producer.append(log, key, text, transaction);
    this.#progress?.wrote();
    return appended;
  }

  async #topic(topic: NewTopic): Promise<readonly PartitionLog[]> {
    const known = this.#producer.topics.logs(topic.name);
    if (known) return known;
    // Sinks remember how far they were in it, and would look for what comes now behind that.
    if (this.#deleted.has(topic.name)) throw topicMissing(topic.name, 'was deleted while its table was not captured');
    const info = (await this.#cluster.ensureTopics([topic])).get(topic.name)!;
    return this.#add(info, await endsOf(this.#cluster, [info]));
  }

  #add(info: TopicInfo, ends: ReadonlyMap<string, bigint>): PartitionLog[] {
    const list = info.leaders.map((_leader, partition) => ends.get(partitionKey(info.name, partition)) ?? 0n);
    return this.#producer.topics.add(info, list);
  }

  #dataEnds(): Map<string, bigint[]> {
    const { topicPrefix } = this.#cluster.config;
    const ends = new Map([...this.#deleted, ...this.#producer.topics.ends()]);
    for (const name of [schemaTopic, progressTopic, deadLetterTopic]) ends.delete(name(topicPrefix));
    return ends;
  }

  async #lastProgress(): Promise<Progress | null> {
    const text = await this.#lastProgressText();
    return text ? decodeProgress(Buffer.from(text)) : null;
  }

  async #lastProgressText(): Promise<string> {
    const tail = new Tail(this.#cluster, progressTopic(this.#cluster.config.topicPrefix));
    const last = await tail.readLast().finally(() => tail.close());
    return last ? last.value.toString() : '';
  }

  async #loadSchemas(): Promise<void> {
    const tail = new Tail(this.#cluster, schemaTopic(this.#cluster.config.topicPrefix));
    for (const { value } of await tail.readToEnd().finally(() => tail.close())) {
      const record = decodeSchema(value);
      if (record) this.#schemas.set(record.id, record.relation);
    }
  }

  #durable(publish: Publish): void {
    if (!this.#unfinished.has(publish)) return;
    failpoint('after-produce');
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
    const ticket = this.#writing!;
    const written = this.#letters.oversize(event, topic, key, bytes);
    // The publish is not durable before the letter is.
    ticket.add();
    written.then(
      () => ticket.settle(),
      (error: Error) => this.#producer.fail(error),
    );
  }

  /** See LettersOptions. A crash between commit and letter would otherwise lose the change: what is committed is not read again. */
  #reserve(batch: SealedBatch | null): (text: string) => Promise<void> {
    const transaction = this.#transaction ? (batch?.transaction ?? this.#transaction.clock.writing) : undefined;
    const written = transaction === undefined ? () => {} : this.#transaction!.reserve(transaction);
    return async (text) => {
      if (!this.#letterLog) {
        const name = deadLetterTopic(this.#cluster.config.topicPrefix);
        const info = (await this.#cluster.ensureTopics([letterTopic(name)])).get(name)!;
        this.#letterLog = this.#add(info, await endsOf(this.#cluster, [info]))[0]!;
      }
      const appended = this.#append(this.#letterLog, '', text, transaction);
      written();
      await appended;
    };
  }
}
