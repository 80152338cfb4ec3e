import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { kafkaVersion } from '../test/support/kafka-server.ts';
import { haveMaven, mavenLibraries } from '../test/support/maven.ts';
import { type Arena, type Contender, createSlot, PUBLICATION } from './contender.ts';
import { TopicWatch } from './kafka-topic.ts';
import { measure } from './measure.ts';

export const DEBEZIUM_VERSION = '3.7.0.Final';

export interface DebeziumOptions {
  /** -Xmx. Kafka's own start script gives Connect 2 GB; with less, its memory compares better with ours. */
  readonly heapMb: number;
  readonly pollIntervalMs: number;
  /** Big compressed requests, or each record at once. */
  readonly tunedFor: 'throughput' | 'latency';
}

const DEFAULTS: DebeziumOptions = { heapMb: 1024, pollIntervalMs: 10, tunedFor: 'throughput' };

/** Debezium in Connect standalone, one task: the peer. */
export function debezium(options: DebeziumOptions = DEFAULTS): Contender {
  const slotOf = (round: number) => `bench_debezium_${round}`;
  return {
    id: 'debezium',
    label: `Debezium ${DEBEZIUM_VERSION} → Kafka`,
    unavailable: () => haveMaven().why,
    async prepare(arena, round) {
      // Fetched here so that the download is over when the machine must be quiet.
      await debeziumLibraries();
      await createSlot(arena.client, slotOf(round));
    },
    async run(arena, round, goal) {
      const name = `debezium-${round}`;
      const slot = slotOf(round);
      const prefix = `debezium${round}`;
      const args = await connectArgs(arena, { name, slot, prefix, ...options });
      const topic = new TopicWatch(arena.kafka!.brokers, `${prefix}.public.bench`);
      await topic.connect();
      try {
        const done = async () => (await topic.records()) >= goal.events;
        const { sample } = await measure(arena, {
          ...{ name, command: 'java', args, slot, done, exits: false, usesBroker: true },
        });
        const records = await topic.records();
        if (records !== goal.events) throw new Error(`The topic holds ${records} records, not ${goal.events}.`);
        return sample;
      } finally {
        await topic.disconnect();
      }
    },
  };
}

export function debeziumLibraries(): Promise<string> {
  return mavenLibraries(`debezium-${DEBEZIUM_VERSION}`, [
    { group: 'org.apache.kafka', artifact: 'connect-runtime', version: kafkaVersion },
    { group: 'io.debezium', artifact: 'debezium-connector-postgres', version: DEBEZIUM_VERSION },
    { group: 'org.apache.logging.log4j', artifact: 'log4j-slf4j-impl', version: '2.25.4' },
  ]);
}

interface Instance extends DebeziumOptions {
  readonly name: string;
  readonly slot: string;
  readonly prefix: string;
}

/** Writes the settings of one Connect worker and its connector; returns what to pass to `java`. */
export async function connectArgs(arena: Pick<Arena, 'url' | 'kafka' | 'dir'>, instance: Instance): Promise<string[]> {
  const dir = join(arena.dir, instance.name);
  await mkdir(dir, { recursive: true });
  const files = {
    worker: join(dir, 'worker.properties'),
    connector: join(dir, 'connector.properties'),
    log: join(dir, 'log4j2.properties'),
  };
  await writeFile(
    files.worker,
    properties(worker(arena.kafka!.brokers.join(','), join(dir, 'offsets'), instance.tunedFor)),
  );
  await writeFile(files.connector, properties(connector(arena.url, instance)));
  await writeFile(files.log, LOG_SETTINGS);
  // What Kafka's own connect-standalone.sh passes, the heap aside.
  const jvm = [
    '-server',
    '-Xms256m',
    `-Xmx${instance.heapMb}m`,
    '-XX:+UseG1GC',
    '-XX:MaxGCPauseMillis=20',
    '-XX:InitiatingHeapOccupancyPercent=35',
  ];
  const main = 'org.apache.kafka.connect.cli.ConnectStandalone';
  const classpath = `${await debeziumLibraries()}/*`;
  return [...jvm, `-Dlog4j2.configurationFile=${files.log}`, '-cp', classpath, main, files.worker, files.connector];
}

type Settings = Record<string, string | number | boolean>;

function worker(brokers: string, offsetFile: string, tunedFor: DebeziumOptions['tunedFor']): Settings {
  return {
    'bootstrap.servers': brokers,
    'key.converter': 'org.apache.kafka.connect.json.JsonConverter',
    'value.converter': 'org.apache.kafka.connect.json.JsonConverter',
    'key.converter.schemas.enable': false,
    'value.converter.schemas.enable': false,
    'offset.storage.file.filename': offsetFile,
    'offset.flush.interval.ms': 10_000,
    listeners: 'http://127.0.0.1:0',
    'plugin.discovery': 'hybrid_warn',
    // acks=all is Connect's default.
    ...(tunedFor === 'throughput' ? THROUGHPUT : LATENCY),
    'producer.enable.idempotence': true,
    'producer.max.in.flight.requests.per.connection': 5,
  };
}

const THROUGHPUT: Settings = {
  'producer.linger.ms': 50,
  'producer.batch.size': 524_288,
  'producer.buffer.memory': 134_217_728,
  'producer.compression.type': 'lz4',
};

const LATENCY: Settings = { 'producer.linger.ms': 0 };

function connector(url: string, { slot, prefix, pollIntervalMs }: Instance): Settings {
  const { hostname, port, username, password, pathname } = new URL(url);
  return {
    name: 'bench',
    'connector.class': 'io.debezium.connector.postgresql.PostgresConnector',
    'tasks.max': 1,
    'database.hostname': hostname,
    'database.port': port,
    'database.user': decodeURIComponent(username),
    'database.password': decodeURIComponent(password),
    'database.dbname': pathname.slice(1),
    'topic.prefix': prefix,
    'plugin.name': 'pgoutput',
    'slot.name': slot,
    'publication.name': PUBLICATION,
    'publication.autocreate.mode': 'disabled',
    'table.include.list': 'public.bench',
    // The slot is older than the workload and the table was empty then.
    'snapshot.mode': 'no_data',
    'skipped.operations': 'none',
    'decimal.handling.mode': 'string',
    'topic.creation.enable': true,
    'topic.creation.default.replication.factor': 1,
    'topic.creation.default.partitions': 1,
    // Tuning: the defaults are 2,048, 8,192 and 500.
    'max.batch.size': 20_480,
    'max.queue.size': 81_920,
    'poll.interval.ms': pollIntervalMs,
  };
}

function properties(settings: Settings): string {
  return Object.entries(settings)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');
}

const LOG_SETTINGS = `status=error
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.debezium.name=io.debezium
logger.debezium.level=info
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %-5p %c{1} %m%n
`;
