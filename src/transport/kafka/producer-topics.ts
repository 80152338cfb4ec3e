import { type Cluster, LATEST, type TopicInfo, type TopicPartition } from './cluster.ts';
import { PartitionLog, type TransactionClock } from './partition-log.ts';
import { Absence, topicMissing } from './producer-errors.ts';

const PAUSE_MS = 100;
const MISSING_PAUSE_MS = 500;

/** The topics that a producer writes to: who leads their partitions, and whether they are still the ones they were. */
export class ProducerTopics {
  readonly #cluster: Cluster;
  readonly #clock: TransactionClock | undefined;
  readonly #logs = new Map<string, PartitionLog[]>();
  readonly #infos = new Map<string, TopicInfo>();
  readonly #absences = new Map<string, Absence>();
  #refreshing = false;

  constructor(cluster: Cluster, clock?: TransactionClock) {
    this.#cluster = cluster;
    this.#clock = clock;
  }

  /** The partitions of a topic that exists; `ends` are its log ends now. */
  add(info: TopicInfo, ends: readonly bigint[]): PartitionLog[] {
    const known = this.#logs.get(info.name);
    if (known) return known;
    const logs = info.leaders.map((_leader, partition) => new PartitionLog(info.name, partition, this.#clock));
    for (const log of logs) {
      log.end = ends[log.partition] ?? 0n;
      log.floor = log.end;
    }
    this.#infos.set(info.name, info);
    this.#logs.set(info.name, logs);
    return logs;
  }

  logs(topic: string): readonly PartitionLog[] | undefined {
    return this.#logs.get(topic);
  }

  all(): PartitionLog[] {
    return [...this.#logs.values()].flat();
  }

  /** Log ends of all partitions of all topics added, per topic. */
  *ends(): Iterable<[string, bigint[]]> {
    for (const [topic, logs] of this.#logs) yield [topic, logs.map(({ end }) => end)];
  }

  /** The broker number of the leader; -1 where there is none now. */
  leader({ topic, partition }: TopicPartition): number {
    return this.#infos.get(topic)?.leaders[partition] ?? -1;
  }

  /** It answered. */
  present(topic: string): void {
    this.#absences.delete(topic);
  }

  /**
   * Asks again who leads, unless that is under way; `retry` runs after a pause: where metadata still names no leader,
   * asking at once would spin. Calls `fail` where a topic was deleted, or made anew.
   */
  refresh(topics: readonly string[], retry: (pauseMs: number) => void, fail: (error: Error) => void): void {
    if (this.#refreshing) return;
    this.#refreshing = true;
    let pauseMs = PAUSE_MS;
    this.#cluster
      .metadata(topics)
      .then((found) => {
        if (!this.#learn(topics, found)) pauseMs = MISSING_PAUSE_MS;
      })
      .catch(fail)
      .finally(() => {
        this.#refreshing = false;
        retry(pauseMs);
      });
  }

  /** False where a topic is missing, for now. */
  #learn(topics: readonly string[], found: ReadonlyMap<string, TopicInfo>): boolean {
    let complete = true;
    for (const name of topics) {
      const info = found.get(name);
      if (info) {
        if (info.id !== this.#infos.get(name)?.id) throw topicMissing(name, 'was deleted and created again');
        this.#absences.delete(name);
        this.#infos.set(name, info);
        continue;
      }
      complete = false;
      const absence = this.#absences.get(name) ?? new Absence();
      this.#absences.set(name, absence);
      if (absence.isFinal(true)) throw topicMissing(name, 'does not exist any more');
    }
    return complete;
  }
}

/** Where the logs of these topics end now, by partition key. */
export function endsOf(cluster: Cluster, infos: readonly TopicInfo[]): Promise<Map<string, bigint>> {
  const partitions = infos.flatMap(({ name, leaders }) =>
    leaders.map((_leader, partition) => ({ topic: name, partition })),
  );
  return cluster.listOffsets(partitions, LATEST);
}
