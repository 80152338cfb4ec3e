import { Kafka, type KafkaMessage, logLevel } from 'kafkajs';

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

/** Everything in a topic, in order per partition. */
export async function readTopic(brokers: readonly string[], topic: string): Promise<Read[]> {
  const kafka = kafkaClient(brokers);
  const admin = kafka.admin();
  await admin.connect();
  const ends = await admin.fetchTopicOffsets(topic);
  await admin.disconnect();
  const left = new Map(
    ends.filter(({ high, low }) => high !== low).map(({ partition, high }) => [partition, BigInt(high)]),
  );
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

function toRead(partition: number, message: KafkaMessage): Read {
  const value = message.value ? (JSON.parse(message.value.toString()) as Record<string, unknown>) : null;
  const headers = Object.fromEntries(Object.entries(message.headers ?? {}).map(([name, text]) => [name, String(text)]));
  return { partition, key: message.key?.toString() ?? null, value, headers, offset: BigInt(message.offset) };
}
