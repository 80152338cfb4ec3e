import type { KafkaConfig } from '../../src/config/schema.ts';
import { leaksNothing } from '../support/leaks.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { kafkaClient, readTopic } from '../transport/kafka/reader.ts';

leaksNothing(
  async ({ name }) => ({ type: 'kafka', brokers: await ensureSharedKafka(), topicPrefix: name }),
  async ({ transport }) => {
    const { brokers, topicPrefix } = transport as KafkaConfig;
    const admin = kafkaClient(brokers).admin();
    await admin.connect();
    const topics = (await admin.listTopics()).filter((topic) => topic.startsWith(topicPrefix));
    await admin.disconnect();
    let seen = '';
    for (const topic of topics) {
      const records = await readTopic(brokers, topic);
      seen += JSON.stringify(records, (_, one: unknown) => (typeof one === 'bigint' ? String(one) : one));
    }
    return seen;
  },
);
