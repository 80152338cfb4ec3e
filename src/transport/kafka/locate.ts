import { WaltideError } from '../../errors.ts';
import type { Offset } from '../../event/offset.ts';
import type { Position } from '../../event/position.ts';
import { relationName } from '../../event/relation.ts';
import type { Located, StartOf, TableName } from '../transport.ts';
import { type Cluster, partitionKey } from './cluster.ts';
import { HeaderDecoder } from './consumer/record-decoder.ts';
import { decodeProgress, type Progress } from './progress.ts';
import { RecordCursor } from './record-reader.ts';
import { Tail } from './tail.ts';
import { progressTopic, tableTopic, transactionTopic } from './topic.ts';

/** A batch of records is sent whole, however long; this bounds what comes with it. */
const PROBE_BYTES_MAX = 64 * 1024;
const PROBE_WAIT_MS = 500;
/** Commit times follow the order of commits nearly: two that overlap may have them the other way round. */
const TIME_MARGIN_MS = 1_000;

interface Found {
  readonly offset: bigint;
  readonly position: Position;
  readonly commitTimeUs: bigint;
}

/** See Transport.locate. Asks each partition some twenty times, however long it is. */
export async function locate(
  cluster: Cluster,
  tables: readonly TableName[] | null,
  from: StartOf,
  saved: readonly Offset[],
): Promise<Located> {
  const progress = await lastProgress(cluster);
  const topics = tables ? tables.map((table) => topicOfTable(cluster, table, progress)) : dataTopics(cluster, progress);
  const offsets: Offset[] = [];
  const removed: Located['removed'][number][] = [];
  for (const topic of topics) {
    for (let partition = 0; partition < (progress?.ends.get(topic)?.length ?? 0); partition++) {
      const key = partitionKey(topic, partition);
      const before = saved.find((offset) => offset.partition === key);
      // What the sink has seen last there is older already: nothing has to be seen again.
      if (before && 'lsn' in from && before.position.commitLsn < from.lsn) continue;
      const tail = new Tail(cluster, topic, partition, PROBE_BYTES_MAX);
      try {
        const { found, truncated, end } = await search(tail, from);
        if (truncated) removed.push({ partition: key, first: found?.position ?? null });
        const commitLsn = 'lsn' in from ? from.lsn : (found?.position.commitLsn ?? progress!.lsn);
        offsets.push({ partition: key, position: { commitLsn, seq: 0 }, next: found?.offset ?? end });
      } finally {
        await tail.close();
      }
    }
  }
  return { offsets, removed };
}

/** Everything published so far; the transaction topic tells of changes and has none of its own. */
function dataTopics({ config }: Cluster, progress: Progress | null): string[] {
  const marks = transactionTopic(config.topicPrefix);
  return [...(progress?.ends.keys() ?? [])].filter((topic) => topic !== marks);
}

function topicOfTable({ config }: Cluster, table: TableName, progress: Progress | null): string {
  const topic = tableTopic(config.topicPrefix, table);
  if (progress?.ends.has(topic)) return topic;
  throw new WaltideError(
    'TOPIC_MISSING',
    `Nothing of ${relationName(table)} was ever published: there is no topic ${topic}`,
    'Check the name of the table; `waltide status` lists those that are followed.',
  );
}

async function lastProgress(cluster: Cluster): Promise<Progress | null> {
  const tail = new Tail(cluster, progressTopic(cluster.config.topicPrefix));
  const last = await tail.readLast().finally(() => tail.close());
  return last ? decodeProgress(last.value) : null;
}

/**
 * The first record at or after `from`; truncated: the log begins after its start, and no record in it is older than
 * `from`, so that some may be missing. Positions rise along the log, except where a crashed capture published
 * something again: whatever follows an older record then comes again behind it, so any such place is right.
 */
async function search(tail: Tail, from: StartOf): Promise<{ found: Found | null; truncated: boolean; end: bigint }> {
  const range = await tail.range();
  if (!range) throw new Error(`topic ${tail.topic} disappeared`);
  const { start, end } = range;
  let low = start;
  let high = end;
  let older = false;
  while (low < high) {
    const middle = (low + high) / 2n;
    const found = await probe(tail, middle, end);
    if (!found || reaches(found, from)) high = middle;
    else {
      low = found.offset + 1n;
      older = true;
    }
  }
  return { found: await probe(tail, low, end), truncated: start > 0n && !older, end };
}

function reaches(found: Found, from: StartOf): boolean {
  if ('lsn' in from) return found.position.commitLsn >= from.lsn;
  return found.commitTimeUs >= BigInt(from.time.getTime() - TIME_MARGIN_MS) * 1000n;
}

/** The first record of ours at `offset` or after it; null where there is none before `end`. */
async function probe(tail: Tail, offset: bigint, end: bigint): Promise<Found | null> {
  const headers = new HeaderDecoder(new Map());
  const cursor = new RecordCursor();
  tail.next = offset;
  while (tail.next < end) {
    for (const batch of await tail.pollBatches(PROBE_WAIT_MS)) {
      cursor.open(batch);
      while (cursor.next()) {
        if (cursor.offset < offset || cursor.valueEnd < 0 || !headers.read(cursor)) continue;
        const { commitLsn, commitTimeUs } = headers.transaction!;
        return { offset: cursor.offset, position: { commitLsn, seq: headers.seq }, commitTimeUs };
      }
      if (batch.nextOffset > tail.next) tail.next = batch.nextOffset;
    }
  }
  return null;
}
