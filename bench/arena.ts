import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, loadavg, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { Kafka, logLevel } from 'kafkajs';
import pg from 'pg';
import { startEmbeddedPostgres } from '../src/embedded/embedded-postgres.ts';
import { startKafka } from '../test/support/kafka-server.ts';
import { guardProcess } from '../test/support/process-guard.ts';
import type { Arena } from './contender.ts';

export interface Machine {
  readonly cores: number;
  readonly cpu: string;
  readonly memoryBytes: number;
  readonly system: string;
  readonly node: string;
  readonly postgres: string;
  /** Of the last minute, before anything of ours ran: more than a few tenths makes the figures worthless. */
  readonly loadBefore: number;
}

export interface OpenArena extends Arena {
  readonly machine: Machine;
  close(): Promise<void>;
}

export interface ArenaOptions {
  readonly kafka: boolean;
  /** Server settings of PostgreSQL. */
  readonly settings: Readonly<Record<string, string>>;
}

/**
 * A broker that has just started spends more CPU on compiling itself than on its work. Whoever came first would pay
 * for that, on a machine whose two cores they share.
 */
async function warmBroker(brokers: string[]): Promise<void> {
  const producer = new Kafka({ brokers, clientId: 'warm-up', logLevel: logLevel.NOTHING }).producer();
  await producer.connect();
  const messages = Array.from({ length: 1000 }, (_, i) => ({ key: String(i), value: 'x'.repeat(600) }));
  const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING }).admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: 'warm-up', numPartitions: 1 }] });
  for (let i = 0; i < 300; i++) await producer.send({ topic: 'warm-up', messages, acks: -1 });
  await admin.deleteTopics({ topics: ['warm-up'] });
  await admin.disconnect();
  await producer.disconnect();
}

/** Starts the servers of a benchmark. They end with this process, however it ends. */
export async function openArena(options: ArenaOptions): Promise<OpenArena> {
  const loadBefore = loadavg()[0] ?? 0;
  const dir = await mkdtemp(join(tmpdir(), 'waltide-bench-'));
  const guard = guardProcess(dir);
  const postgres = await startEmbeddedPostgres({ settings: options.settings });
  const kafka = options.kafka ? await startKafka() : null;
  if (kafka) await warmBroker(kafka.brokers);
  const client = new pg.Client({ connectionString: postgres.url });
  await client.connect();
  const { rows } = await client.query<{ version: string }>(`select current_setting('server_version') as version`);
  const machine: Machine = {
    cores: cpus().length,
    cpu: cpus()[0]?.model ?? 'unknown',
    memoryBytes: totalmem(),
    system: `${process.platform} ${release()}`,
    node: process.version,
    postgres: rows[0]!.version,
    loadBefore,
  };
  const close = async () => {
    await client.end().catch(() => {});
    await Promise.all([kafka?.stop(), postgres.stop('immediate')]);
    guard.end();
    await rm(dir, { recursive: true, force: true });
  };
  return { url: postgres.url, client, kafka, dir, guard, machine, close };
}
