import { setTimeout as sleep } from 'node:timers/promises';
import { Admin } from '@platformatic/kafka';
import { Kafka, type KafkaMessage, logLevel } from 'kafkajs';

/** Longer than the marker of a transaction's end takes on a machine that is kept busy. */
const OPEN_TRANSACTION_MS = 10_000;

export interface Read {
  readonly partition: number;
  readonly key: string | null;
  readonly value: Record<string, unknown> | null;
  readonly headers: Record<string, string>;
  readonly offset: bigint;
}

/** kafkajs, as a reader that shares no code with ours. */
export function kafkaClient(brokers: readonly string[]): Kafka {
  return new Kafka({ clientId: 'test-reader', brokers: [...brokers], logLevel: logLevel.NOTHING });
}

/**
 * Everything in a topic that readers of committed records see, in order per partition. A producer is told of its
 * transaction's end before the partitions are: one that is ending is waited for, one that stays open is not read.
 */
export async function readTopic(brokers: readonly string[], topic: string): Promise<Read[]> {
  const kafka = kafkaClient(brokers);
  const left = await stableEnds(brokers, topic);
  const found: Read[] = [];
  if (left.size === 0) return found;
  const consumer = kafka.consumer({ groupId: `reader-${topic}-${Math.random()}`, maxWaitTimeInMs: 300 });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`reading ${topic} took too long`)), 90_000);
    // Where a log ends with the marker of a Kafka transaction, no message has the last offset. While messages are being
    // handed over, fetches find nothing either.
    let empty = 0;
    consumer.on('consumer.fetch', ({ payload }) => {
      empty = payload.numberOfBatches === 0 ? empty + 1 : 0;
      if (empty < 3) return;
      clearTimeout(timer);
      resolve();
    });
    void consumer.run({
      eachMessage: async ({ partition, message }) => {
        found.push(toRead(partition, message));
        empty = 0;
        if (BigInt(message.offset) + 1n >= (left.get(partition) ?? 0n)) left.delete(partition);
        if (left.size > 0) return;
        clearTimeout(timer);
        resolve();
      },
    });
  });
  await consumer.disconnect();
  return found;
}

/** Resolves once the broker knows nothing of them any more: it answers before that. */
export async function deleteTopics(brokers: readonly string[], topics: readonly string[]): Promise<void> {
  const admin = kafkaClient(brokers).admin();
  await admin.connect();
  try {
    await admin.deleteTopics({ topics: [...topics] });
    while ((await admin.listTopics()).some((topic) => topics.includes(topic))) await sleep(20);
  } finally {
    await admin.disconnect();
  }
}

/** Where each partition that is not empty ends for readers of committed records. */
async function stableEnds(brokers: readonly string[], topic: string): Promise<Map<number, bigint>> {
  const plain = kafkaClient(brokers).admin();
  await plain.connect();
  const watermarks = await plain.fetchTopicOffsets(topic);
  await plain.disconnect();
  const written = watermarks.filter(({ high, low }) => high !== low);
  if (written.length === 0) return new Map();
  const admin = new Admin({ clientId: 'test-reader', bootstrapBrokers: [...brokers] });
  try {
    const partitions = written.map(({ partition }) => ({ partitionIndex: partition, timestamp: -1n }));
    for (const deadline = Date.now() + OPEN_TRANSACTION_MS; ; await sleep(50)) {
      const [listed] = await admin.listOffsets({ topics: [{ name: topic, partitions }], isolationLevel: 1 });
      const stable = new Map(listed!.partitions.map(({ partitionIndex, offset }) => [partitionIndex, offset]));
      const open = written.some(({ partition, high }) => stable.get(partition)! < BigInt(high));
      if (open && Date.now() < deadline) continue;
      return new Map([...stable].filter(([at, end]) => end > BigInt(written.find((of) => of.partition === at)!.low)));
    }
  } finally {
    await admin.close();
  }
}

function toRead(partition: number, message: KafkaMessage): Read {
  const value = message.value ? (JSON.parse(message.value.toString()) as Record<string, unknown>) : null;
  const headers = Object.fromEntries(Object.entries(message.headers ?? {}).map(([name, text]) => [name, String(text)]));
  return { partition, key: message.key?.toString() ?? null, value, headers, offset: BigInt(message.offset) };
}
