import type { KafkaConfig } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import type { NewTopic } from './cluster.ts';

/** Kafka's own limit on a topic's name. */
const NAME_LENGTH_MAX = 249;
/** The broker's default `message.max.bytes`, batch header included; topics for larger records say so themselves. */
const BROKER_RECORD_BYTES = 1_048_576;
const BATCH_OVERHEAD_BYTES = 12;

export type Named = Pick<Relation, 'schema' | 'table' | 'home'>;

/** The topic of a table: `<prefix>.<schema>.<table>`, with "_" for whatever Kafka allows in no name. */
export function tableTopic(prefix: string, relation: Named): string {
  const { schema, table } = relation.home ?? relation;
  const name = `${prefix}.${sanitize(schema)}.${sanitize(table)}`;
  if (name.length <= NAME_LENGTH_MAX) return name;
  throw new WaltideError(
    'CONFIG_INVALID',
    `The topic of table ${relationName(relation)} would have a name of ${name.length} characters; Kafka allows ${NAME_LENGTH_MAX}`,
    'Choose a shorter transport.topicPrefix, or leave the table out.',
  );
}

export function sanitize(name: string): string {
  return name.replace(/[^a-zA-Z0-9._-]/gu, '_');
}

/** Logical messages (op m) of all kinds. */
export function messageTopic(prefix: string): string {
  return `${prefix}.message`;
}

/** Beginnings and ends of source transactions, as in Debezium. */
export function transactionTopic(prefix: string): string {
  return `${prefix}.transaction`;
}

export function schemaTopic(prefix: string): string {
  return `${prefix}.__waltide_schema`;
}

export function progressTopic(prefix: string): string {
  return `${prefix}.__waltide_progress`;
}

export function deadLetterTopic(prefix: string): string {
  return `${prefix}.dead-letter`;
}

/** A topic for data, as configured. */
export function dataTopic(config: KafkaConfig, name: string, partitions: number): NewTopic {
  const settings: Record<string, string> = { 'cleanup.policy': config.cleanupPolicy };
  if (config.maxRecordBytes > BROKER_RECORD_BYTES) {
    settings['max.message.bytes'] = String(config.maxRecordBytes + BATCH_OVERHEAD_BYTES);
  }
  return { name, partitions, settings };
}

/** A topic of our own bookkeeping: one partition, the last record of every key kept for ever. */
export function internalTopic(name: string): NewTopic {
  return { name, partitions: 1, settings: { 'cleanup.policy': 'compact' } };
}

/** Messages have no key, which a compacted topic would refuse. */
export function messagesTopic(config: KafkaConfig, name: string): NewTopic {
  return dataTopic({ ...config, cleanupPolicy: 'delete' }, name, 1);
}

/** Letters are few and must outlive any retention. */
export function letterTopic(name: string): NewTopic {
  return { name, partitions: 1, settings: { 'cleanup.policy': 'delete', 'retention.ms': '-1' } };
}

/** Which table owns which topic, so that two tables never mix in one. */
export class TopicOwners {
  readonly #owners = new Map<string, string>();

  /** Throws TABLES where `topic` already carries another table, or has a name that Kafka does not tell from another one's. */
  claim(topic: string, relation: Named): void {
    // A renamed table keeps its topic, though another may have its name by now.
    const { schema: ownSchema, table: ownTable } = relation.home ?? relation;
    const owner = JSON.stringify([ownSchema, ownTable]);
    // Brokers refuse a topic whose name differs from another one's in nothing but "." and "_".
    const name = topic.replaceAll('.', '_');
    const other = this.#owners.get(name);
    if (other !== undefined && other !== owner) {
      const [schema, table] = JSON.parse(other) as [string, string];
      throw new WaltideError(
        'TABLES',
        `Tables ${relationName(relation)} and ${schema}.${table} would share the topic ${topic}: ` +
          'Kafka allows only a-z, A-Z, 0-9, ".", "_" and "-", and does not tell "." from "_"',
        'Leave one of them out (source.exclude), or give it to a pipeline with another topicPrefix.',
      );
    }
    this.#owners.set(name, owner);
  }
}

/** Throws TABLES or CONFIG_INVALID where one of these tables cannot have a topic of its own, before anything is made. */
export function checkTopicNames(prefix: string, tables: Iterable<Named>): void {
  const owners = new TopicOwners();
  for (const table of tables) owners.claim(tableTopic(prefix, table), table);
}
