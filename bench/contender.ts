import type pg from 'pg';
import type { KafkaServer } from '../test/support/kafka-server.ts';
import type { ProcessGuard } from '../test/support/process-guard.ts';
import type { Digest, Workload } from './workload.ts';

/** What all contenders of a run share. */
export interface Arena {
  readonly url: string;
  readonly client: pg.Client;
  /** Null when no contender of the run needs it. */
  readonly kafka: KafkaServer | null;
  /** For config files, databases and logs; removed at the end. */
  readonly dir: string;
  /** Ends the contender that runs, and removes `dir`, even when this process is killed. */
  readonly guard: ProcessGuard;
}

/** Known once the WAL is written. */
export interface Goal extends Workload {
  readonly events: number;
  readonly digest: Digest;
}

/** One measured run. */
export interface Sample {
  /** From the moment the slot became active to the last event durable. */
  readonly seconds: number;
  /** From the start of the process. */
  readonly secondsWithStart: number;
  /** Of the contender's process tree, over the same two spans. */
  readonly cpuSeconds: number;
  readonly cpuSecondsWithStart: number;
  readonly peakRssBytes: number;
  /** PostgreSQL's walsender. */
  readonly serverCpuSeconds: number;
  /** Null where the contender does not write to Kafka. */
  readonly brokerCpuSeconds: number | null;
}

export interface Contender {
  readonly id: string;
  readonly label: string;
  /** Empty = it can run here; otherwise what is missing. */
  unavailable(): string;
  /** Before the workload, on the empty table: creates the slot of this round. */
  prepare(arena: Arena, round: number): Promise<void>;
  /** Reads the WAL from its slot up to the goal. Rejects where the outcome is not exactly the workload. */
  run(arena: Arena, round: number, goal: Goal): Promise<Sample>;
}

/** A slot that holds the WAL from now on. */
export async function createSlot(client: pg.Client, slot: string): Promise<void> {
  await client.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]);
}

/** Made with the table, for contenders that bring none of their own. */
export const PUBLICATION = 'bench_publication';
