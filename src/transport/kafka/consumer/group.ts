import {
  findCoordinatorV4,
  heartbeatV4,
  joinGroupV7,
  leaveGroupV4,
  offsetCommitV8,
  offsetFetchV8,
  syncGroupV5,
} from '@platformatic/kafka';
import { messageOf, WaltideError } from '../../../errors.ts';
import type { Offset } from '../../../event/offset.ts';
import { backoffMs, type Cluster, partitionKey } from '../cluster.ts';
import type { BrokerAddress, Connections } from '../connections.ts';
import { isRetriable, KafkaError, kafkaErrorName } from '../error-code.ts';
import {
  type Assignment,
  assignTopics,
  decodeAssignment,
  decodeSubscription,
  encodeAssignment,
  encodeSubscription,
  type MemberState,
  topicOf,
} from './group-protocol.ts';
import { Wake } from './wake.ts';

/** The least that brokers allow by default: this long a crashed member holds up its successor. */
const SESSION_MS = 6_000;
const HEARTBEAT_MS = 1_000;
/** How long the others wait for a member that is still applying what it was given. */
const REBALANCE_MS = 30_000;
const LEAVE_MS = 2_000;
const PROTOCOL = 'waltide';

export interface GroupOwner {
  /** What this member brings to the next generation. */
  state(): MemberState;
  /** Stop handing out and wait until all that was handed out is applied. Heartbeats go on meanwhile. */
  pause(): Promise<void>;
  /** A new generation begins: read exactly these partitions. */
  assigned(assignment: Assignment): Promise<void>;
  failed(error: Error): void;
}

/** Membership in one consumer group, by Kafka's classic protocol: join, sync, heartbeats, leave. */
export class GroupMember {
  readonly #cluster: Cluster;
  readonly #lane: Connections;
  readonly #joinLane: Connections;
  readonly #groupId: string;
  readonly #owner: GroupOwner;
  readonly #wake = new Wake();
  #coordinator: BrokerAddress | null = null;
  #memberId = '';
  #generation = -1;
  #rejoin = false;
  #closed = false;
  #lost = false;
  #running: Promise<void> | null = null;
  #heartbeat: NodeJS.Timeout | null = null;

  constructor(cluster: Cluster, groupId: string, owner: GroupOwner) {
    this.#cluster = cluster;
    this.#lane = cluster.lane();
    this.#joinLane = cluster.lane(REBALANCE_MS + SESSION_MS + 5_000);
    this.#groupId = groupId;
    this.#owner = owner;
  }

  start(): void {
    this.#running = this.#run();
  }

  /** The topics changed: a new generation is needed. */
  rejoin(): void {
    this.#rejoin = true;
    this.#wake.ring();
  }

  /** For lag tools only; the sink's own offsets are what counts. Failing is not an error. */
  async commit(offsets: readonly Offset[]): Promise<void> {
    if (!this.#coordinator || this.#generation < 0 || offsets.length === 0) return;
    const topics = new Map<
      string,
      { partitionIndex: number; committedOffset: bigint; committedLeaderEpoch: number; committedMetadata: null }[]
    >();
    for (const { partition, next } of offsets) {
      const topic = topicOf(partition);
      const list = topics.get(topic) ?? [];
      list.push({
        partitionIndex: Number(partition.slice(topic.length + 1)),
        committedOffset: next ?? 0n,
        committedLeaderEpoch: -1,
        committedMetadata: null,
      });
      topics.set(topic, list);
    }
    const request = [...topics].map(([name, partitions]) => ({ name, partitions }));
    try {
      await this.#lane.call(
        this.#coordinator,
        offsetCommitV8.api,
        this.#groupId,
        this.#generation,
        this.#memberId,
        null,
        request,
      );
    } catch (error) {
      this.#cluster.log.debug({ err: messageOf(error) }, 'Kafka: committing group offsets failed');
    }
  }

  /** Says so where the group was further once than the sink says that it is. Failing is not an error. */
  async tellBehind(sink: string, saved: readonly Offset[]): Promise<void> {
    if (!this.#coordinator || saved.length === 0) return;
    const next = new Map(saved.map((offset) => [offset.partition, offset.next ?? 0n]));
    const topics = [...new Set(saved.map(({ partition }) => topicOf(partition)))].map((name) => ({
      name,
      partitionIndexes: saved.flatMap(({ partition }) =>
        topicOf(partition) === name ? [Number(partition.slice(name.length + 1))] : [],
      ),
    }));
    try {
      const groups = [{ groupId: this.#groupId, memberEpoch: -1, topics }];
      const answer = await this.#lane.call(this.#coordinator, offsetFetchV8.api, groups, false);
      const behind = answer.groups.flatMap((group) =>
        group.topics.flatMap(({ name, partitions }) =>
          partitions
            .filter((one) => one.committedOffset > next.get(partitionKey(name, one.partitionIndex))!)
            .map((one) => partitionKey(name, one.partitionIndex)),
        ),
      );
      if (behind.length > 0)
        this.#cluster.log.warn(
          { sink, partitions: behind.slice(0, 5).join(', '), of: behind.length },
          'the sink stands before where it was: restored from an older backup, or taken back by a replay? The log still holds what it lacks; it goes on from there',
        );
    } catch (error) {
      this.#cluster.log.debug({ err: messageOf(error) }, 'Kafka: reading group offsets failed');
    }
  }

  /** Leaves, so that the next member need not wait for the session to end. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#wake.ring();
    if (this.#heartbeat) clearInterval(this.#heartbeat);
    if (this.#coordinator && this.#memberId) {
      const leave = this.#lane.call(this.#coordinator, leaveGroupV4.api, this.#groupId, [
        { memberId: this.#memberId, groupInstanceId: null },
      ]);
      await Promise.race([leave.catch(() => {}), this.#cluster.sleep(LEAVE_MS).catch(() => {})]);
    }
    await Promise.all([this.#cluster.dropLane(this.#lane), this.#cluster.dropLane(this.#joinLane)]);
    await this.#running;
  }

  async #run(): Promise<void> {
    for (let failures = 0; !this.#closed; ) {
      try {
        const assignment = await this.#join();
        if (this.#closed) return;
        if (assignment) {
          failures = 0;
          await this.#owner.assigned(assignment);
          this.#startHeartbeat();
          while (!this.#rejoin && !this.#lost && !this.#closed) await this.#wake.wait(HEARTBEAT_MS);
          if (this.#closed) return;
          await this.#owner.pause();
        }
      } catch (error) {
        if (this.#closed) return;
        if (error instanceof WaltideError) {
          this.#owner.failed(error);
          return;
        }
        this.#coordinator = null;
        if (failures++ === 0)
          this.#cluster.log.warn(
            { err: messageOf(error), group: this.#groupId },
            'Kafka: consumer group trouble, trying again',
          );
        await this.#cluster.sleep(backoffMs(failures - 1)).catch(() => {});
      }
    }
  }

  async #join(): Promise<Assignment | null> {
    this.#rejoin = false;
    this.#lost = false;
    this.#coordinator ??= await this.#findCoordinator();
    const coordinator = this.#coordinator;
    const metadata = encodeSubscription(this.#owner.state());
    const protocols = [{ name: PROTOCOL, metadata }];
    const joined = await this.#joinLane.call(
      coordinator,
      joinGroupV7.api,
      this.#groupId,
      SESSION_MS,
      REBALANCE_MS,
      this.#memberId,
      null,
      'consumer',
      protocols,
    );
    if (joined.errorCode === KafkaError.MEMBER_ID_REQUIRED) {
      this.#memberId = joined.memberId ?? '';
      return null;
    }
    if (joined.errorCode !== 0) return this.#refused(joined.errorCode);
    this.#memberId = joined.memberId ?? '';
    this.#generation = joined.generationId;
    this.#startHeartbeat();
    const leads = joined.leader === this.#memberId;
    const assignments = leads ? await this.#assign(joined.members) : [];
    const synced = await this.#joinLane.call(
      coordinator,
      syncGroupV5.api,
      this.#groupId,
      this.#generation,
      this.#memberId,
      null,
      'consumer',
      PROTOCOL,
      assignments,
    );
    if (synced.errorCode !== 0) return this.#refused(synced.errorCode);
    // A heartbeat from before may have been answered meanwhile; what it said is settled now.
    this.#lost = false;
    return decodeAssignment(synced.assignment);
  }

  async #assign(
    members: readonly { memberId: string; metadata: Buffer | null }[],
  ): Promise<{ memberId: string; assignment: Buffer }[]> {
    const states = new Map(
      members.map(({ memberId, metadata }) => [memberId, decodeSubscription(metadata ?? Buffer.alloc(6))]),
    );
    const names = [...new Set([...states.values()].flatMap(({ topics }) => topics))];
    const topics = names.length > 0 ? await this.#cluster.settledMetadata(names) : new Map();
    const assigned = assignTopics(states, (topic) => topics.get(topic)?.leaders.length ?? 0, this.#memberId);
    return [...assigned].map(([memberId, assignment]) => ({ memberId, assignment: encodeAssignment(assignment) }));
  }

  #refused(code: number): null {
    if (code === KafkaError.UNKNOWN_MEMBER_ID || code === KafkaError.ILLEGAL_GENERATION) {
      this.#memberId = '';
      this.#generation = -1;
      return null;
    }
    if (code === KafkaError.REBALANCE_IN_PROGRESS) return null;
    if (isRetriable(code)) throw new Error(kafkaErrorName(code));
    throw new WaltideError(
      code === 30 ? 'TRANSPORT_AUTHENTICATION' : 'TRANSPORT',
      `Kafka refuses membership in group ${this.#groupId}: ${kafkaErrorName(code)}`,
      code === 30
        ? 'Grant the user Read on groups with this prefix.'
        : 'Another application may use this group; choose another clientId.',
    );
  }

  async #findCoordinator(): Promise<BrokerAddress> {
    const { coordinators } = await this.#cluster.any(
      findCoordinatorV4.api,
      (response) => {
        const code = response.coordinators[0]?.errorCode ?? 0;
        return code === 30 ? 0 : code;
      },
      0,
      [this.#groupId],
    );
    const [found] = coordinators;
    if (found?.errorCode === 0) return { host: found.host, port: found.port };
    this.#refused(found?.errorCode ?? KafkaError.COORDINATOR_NOT_AVAILABLE);
    throw new Error('no coordinator');
  }

  #startHeartbeat(): void {
    this.#heartbeat ??= setInterval(() => void this.#beat(), HEARTBEAT_MS);
  }

  async #beat(): Promise<void> {
    const coordinator = this.#coordinator;
    if (!coordinator || this.#generation < 0 || this.#closed) return;
    try {
      const { errorCode } = await this.#lane.call(
        coordinator,
        heartbeatV4.api,
        this.#groupId,
        this.#generation,
        this.#memberId,
        null,
      );
      if (errorCode === 0 || this.#closed) return;
      if (errorCode === KafkaError.UNKNOWN_MEMBER_ID || errorCode === KafkaError.ILLEGAL_GENERATION)
        this.#refused(errorCode);
      if (errorCode === KafkaError.NOT_COORDINATOR || errorCode === KafkaError.COORDINATOR_NOT_AVAILABLE)
        this.#coordinator = null;
    } catch (error) {
      this.#cluster.log.debug({ err: messageOf(error) }, 'Kafka: heartbeat failed');
      this.#coordinator = null;
    }
    this.#lost = true;
    this.#wake.ring();
  }
}
