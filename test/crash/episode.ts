import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import type { Role } from '../../src/pipeline/status.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import type { KafkaServer } from '../support/kafka-server.ts';
import { catchUp, eventually, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';
import { AppendSink } from './append-sink.ts';
import { ledgerFaults } from './ledger.ts';
import { describeFault, type Fault, type Provocation, planEpisode } from './plan.ts';
import { installTrigger, provoke } from './provoke.ts';
import { type Child, startChild } from './victim.ts';

/** A process that does not come to its point within this time never will. */
const POINT_TIMEOUT_MS = 90_000;

export interface Arena {
  readonly postgres: EmbeddedPostgres;
  readonly kafka: KafkaServer | null;
}

/**
 * One database, five rounds. Each round starts the pipeline beside a random workload, lets one thing die with -9, lets
 * a new pipeline catch up, and compares every row of every table with the source, and every event with the ledger.
 * All that is random comes from `seed`, as far as timing allows.
 */
export class Episode {
  readonly #arena: Arena;
  readonly #seed: number;
  readonly #faults: Fault[];
  readonly #folder = mkdtempSync(join(tmpdir(), 'waltide-crash-'));

  constructor(arena: Arena, seed: number) {
    this.#arena = arena;
    this.#seed = seed;
    this.#faults = planEpisode(seed, arena.kafka ? 'kafka' : 'in-process');
  }

  /** The first `rounds` rounds. */
  async run(rounds: number): Promise<void> {
    const database = await createDatabase(this.#arena.postgres.url);
    try {
      await database.query(SCHEMA);
      // With several partitions a row that changes its key goes to another one, where its unchanged TOAST is unknown.
      if (this.#partitions > 1) {
        for (const table of ['account', 'renamed_key'])
          await database.query(`ALTER TABLE ${table} REPLICA IDENTITY FULL`);
      }
      if (this.#seed % 4 < 2 || this.#provokes('ddl')) await installTrigger(database.url);
      await runWorkload(database.url, this.#seed, AbortSignal.timeout(150));
      const streaming =
        this.#provokes('large-transaction') || this.#seed % 3 === 1 ? ('parallel' as const) : ('auto' as const);
      const source = { protocol: { streaming, memoryBytesMax: 100_000 } };
      const { config, path } = testPipeline(database, this.#overrides(database), source);
      for (let i = 0; i < Math.min(rounds, this.#faults.length); i++) {
        const fault = this.#faults[i]!;
        const name = `seed ${this.#seed}, round ${i + 1} (${describeFault(fault)})`;
        try {
          await this.#round(database, config, fault, i);
          await this.#compare(database, config, path);
        } catch (error) {
          throw new Error(
            `${name}; again: npm run test:crash -- --transport ${config.transport.type} --seed ${this.#seed} --rounds ${i + 1}\n${(error as Error).message}`,
            { cause: error },
          );
        }
      }
    } finally {
      await database.drop();
    }
  }

  #overrides(database: TestDatabase): Partial<ConfigInput> {
    const { kafka } = this.#arena;
    const exactlyOnce = this.#faults.some((fault) => fault.kind === 'point' && fault.way.exactlyOnce);
    const whole = this.#seed % 3 === 0;
    const transport = kafka && {
      type: 'kafka' as const,
      brokers: kafka.brokers,
      topicPrefix: database.name,
      partitions: this.#partitions,
      exactlyOnce,
      transactions: { enabled: whole },
    };
    return {
      ...(transport ? { transport } : {}),
      // Small batches, chunks and memory, so that there are many moments to be killed at.
      snapshot: { chunkRows: 40 },
      sinks: [
        {
          name: 'analytics',
          type: 'duckdb',
          path: join(this.#folder, 'analytics.duckdb'),
          batch: { rowsMax: 500, lingerMs: 5 },
          ...(kafka && whole ? { consistency: 'transaction' as const } : {}),
        },
      ],
    };
  }

  #provokes(what: Provocation): boolean {
    return this.#faults.some((fault) => fault.kind === 'point' && fault.way.provoke === what);
  }

  get #partitions(): number {
    return this.#arena.kafka ? 1 + (this.#seed % 2) : 1;
  }

  get #ledger(): string {
    return join(this.#folder, 'append.jsonl');
  }

  async #round(database: TestDatabase, config: Config, fault: Fault, round: number): Promise<void> {
    const writing = new AbortController();
    // A server that is killed takes the workload's session with it; what it had committed counts.
    const workload = runWorkload(database.url, this.#seed * 1000 + round, writing.signal).catch((error: unknown) => {
      if (fault.kind !== 'postgres') throw error;
    });
    workload.catch(() => {});
    const children = this.#start(config, fault);
    if (round > 0 && this.#seed % 2 === 0) await provoke('snapshot', database, round);
    try {
      if (fault.kind === 'point') await this.#untilPoint(database, fault, children, round);
      else await this.#strike(fault, children);
    } finally {
      writing.abort();
      await Promise.all(children.map((child) => child.kill()));
      await workload;
    }
  }

  #start(config: Config, fault: Fault): Child[] {
    const roles: Role[] = this.#arena.kafka ? ['capture', 'apply'] : ['all'];
    return roles.map((role) => {
      const dies = fault.kind === 'point' && (role === 'all' || role === fault.way.role);
      return startChild({
        config,
        role,
        ledger: this.#ledger,
        recopy: fault.kind === 'point' && fault.way.recopy === true && role !== 'apply',
        failpoint: dies ? `${fault.point}@${fault.times}` : null,
      });
    });
  }

  async #untilPoint(
    database: TestDatabase,
    fault: Extract<Fault, { kind: 'point' }>,
    children: readonly Child[],
    round: number,
  ): Promise<void> {
    const victim = children.find(({ role }) => role === 'all' || role === fault.way.role)!;
    const deadline = Date.now() + POINT_TIMEOUT_MS;
    let step = round * 100;
    while (victim.running && Date.now() < deadline) {
      if (fault.way.provoke) await provoke(fault.way.provoke, database, this.#seed * 1000 + ++step);
      await Promise.race([sleep(100), victim.ended]);
    }
    if (victim.running) throw new Error(`never came to ${fault.point}`);
    const { signal, stderr } = await victim.ended;
    expect(signal, `${victim.role} ended by itself: ${stderr}`).toBe('SIGKILL');
  }

  async #strike(fault: Exclude<Fault, { kind: 'point' }>, children: readonly Child[]): Promise<void> {
    const { postgres, kafka } = this.#arena;
    // A process that has never reached its servers does not wait for them.
    if (fault.kind !== 'time') await Promise.all(children.map((child) => child.open));
    await Promise.race([sleep(fault.afterMs), ...children.map((child) => child.ended)]);
    for (const child of children) child.expectRunning();
    if (fault.kind === 'time') {
      for (const child of children) {
        if (fault.victims.includes(child.role)) await child.kill();
        else await child.stop();
      }
      return;
    }
    if (fault.kind === 'postgres') {
      await postgres.kill();
      await postgres.start();
    } else {
      kafka!.kill();
      await kafka!.restart();
    }
    // Half of the time it may come to itself before it is killed as well.
    if (this.#seed % 3 !== 0) await sleep(fault.afterMs);
    for (const child of children) child.expectRunning();
  }

  async #compare(database: TestDatabase, config: Config, path: string): Promise<void> {
    const { postgres } = this.#arena;
    if (postgres.pid === null) await postgres.start();
    const append = new AppendSink(this.#ledger);
    await eventually('the source answers', async () => (await database.query('select 1')).length === 1);
    expect(await catchUp(config, { sinks: [append] })).toEqual([]);
    expect(
      await withDuckdb(config.sinks[0]?.path ?? path, (query) => differences(database.url, query, TABLES)),
    ).toEqual([]);
    expect(await ledgerFaults(append.entries(), database.url, TABLES)).toEqual([]);
  }
}
