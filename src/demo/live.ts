import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { Observer, Recovery } from './events.ts';
import { SLOT } from './home.ts';
import type { LagMeter } from './lag-meter.ts';
import type { PipelineProcess } from './pipeline-process.ts';
import type { Workload } from './workload.ts';

/** Bounds how exactly lag is measured; each look costs the pipeline well under a millisecond. */
const LOOK_MS = 15;
const SAMPLE_MS = 1000;
const SCHEMA_CHANGE_AT = 0.3;
const KILL_AT = 0.5;
/** "Caught up" after the kill: nothing committed longer ago than this is missing. */
const CAUGHT_UP_MS = 1000;
/** Past the live time, for a recovery that is still under way. */
const RECOVERY_GRACE_MS = 60_000;
const SLOT_RELEASE_TIMEOUT_MS = 70_000;

export const SCHEMA_CHANGE = 'ALTER TABLE orders ADD COLUMN gift_note text';

export interface LiveParts {
  readonly client: pg.Client;
  readonly pipeline: PipelineProcess;
  readonly workload: Workload;
  readonly lag: LagMeter;
  readonly durationMs: number;
  readonly observe: Observer;
  /** Ends the whole demo. */
  readonly signal: AbortSignal;
  /** Ends only this part, early. */
  readonly enough: AbortSignal;
}

/** The live part: a workload, and on the way a schema change and a kill of the pipeline. */
export class LivePart {
  readonly #parts: LiveParts;
  readonly #startedAt = Date.now();
  #killedAt = 0;
  #slotReleasedMs = 0;
  #streamingMs: number | null = null;
  #applied = 0;
  /** What the sink had counted when last looked at; null before the first look, since it counts the copy too. */
  #lastCount: number | null = null;
  #sampledAt = Date.now();
  #sampledApplied = 0;
  #sampledCommitted = 0;
  schemaChange: string | null = null;
  recovery: Recovery | null = null;
  peakRssBytes = 0;

  constructor(parts: LiveParts) {
    this.#parts = parts;
  }

  /** Resolves when the time is over (and a kill is recovered from), or `enough` aborts. */
  async run(): Promise<void> {
    const { pipeline, workload, durationMs, signal, enough } = this.#parts;
    workload.start();
    const end = this.#startedAt + durationMs;
    while (!enough.aborted) {
      await sleep(LOOK_MS, undefined, { signal });
      workload.throwFailure();
      const status = await pipeline.status();
      const now = Date.now();
      this.#look(status, now);
      const elapsed = now - this.#startedAt;
      if (this.schemaChange === null && elapsed >= durationMs * SCHEMA_CHANGE_AT) await this.#changeSchema();
      if (this.#killedAt === 0 && elapsed >= durationMs * KILL_AT) await this.#kill();
      if (now - this.#sampledAt >= SAMPLE_MS) this.#sample(now, status?.state === 'streaming');
      if (now >= end && (!this.#recovering || now >= end + RECOVERY_GRACE_MS)) break;
    }
    await workload.stop();
    workload.throwFailure();
  }

  /** Resolves = the target has everything that was committed by now. Rejects where that takes too long. */
  async catchUp(timeoutMs: number): Promise<void> {
    const { client, pipeline, signal } = this.#parts;
    const { rows } = await client.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
    const target = parseLsn(rows[0]!.lsn);
    // Something must come after the last commit for its end to be passed; otherwise the next heartbeat would.
    await client.query(`SELECT pg_logical_emit_message(true, 'waltide demo', 'the end')`);
    const reached = (status: PipelineStatus): boolean => {
      this.#look(status, Date.now());
      return appliedLsn(status) >= target;
    };
    await pipeline.until(reached, 'catching up', timeoutMs, signal);
  }

  get #recovering(): boolean {
    return this.#killedAt !== 0 && this.recovery === null;
  }

  #look(status: PipelineStatus | null, now: number): void {
    if (!status) return;
    const { lag } = this.#parts;
    lag.applied(appliedLsn(status), now, !this.#recovering);
    this.peakRssBytes = Math.max(this.peakRssBytes, status.memory.rssBytes);
    const events = status.sinks[0]?.events ?? 0;
    this.#applied += events - (this.#lastCount ?? events);
    this.#lastCount = events;
    if (!this.#recovering || status.state !== 'streaming') return;
    this.#streamingMs ??= now - this.#killedAt;
    if (lag.oldestMs(now) <= CAUGHT_UP_MS) this.#recovered(now);
  }

  #recovered(now: number): void {
    this.recovery = {
      slotReleasedMs: this.#slotReleasedMs,
      streamingMs: this.#streamingMs!,
      caughtUpMs: now - this.#killedAt,
    };
    this.#parts.observe({ type: 'recovered', recovery: this.recovery });
  }

  #sample(now: number, streaming: boolean): void {
    const { workload, lag, observe } = this.#parts;
    const seconds = (now - this.#sampledAt) / 1000;
    const committed = workload.events;
    observe({
      type: 'sample',
      sample: {
        elapsedSeconds: (now - this.#startedAt) / 1000,
        committedPerSecond: (committed - this.#sampledCommitted) / seconds,
        appliedPerSecond: (this.#applied - this.#sampledApplied) / seconds,
        lagMs: lag.currentMs(now),
        totalEvents: committed,
        streaming,
      },
    });
    this.#sampledAt = now;
    this.#sampledCommitted = committed;
    this.#sampledApplied = this.#applied;
  }

  async #changeSchema(): Promise<void> {
    const { client, workload, observe } = this.#parts;
    await client.query(SCHEMA_CHANGE);
    workload.giftNotes = true;
    this.schemaChange = SCHEMA_CHANGE;
    observe({ type: 'schema-change', sql: SCHEMA_CHANGE });
  }

  async #kill(): Promise<void> {
    const { pipeline, observe, signal } = this.#parts;
    observe({ type: 'killed', pid: pipeline.pid });
    this.#killedAt = Date.now();
    await pipeline.kill();
    // A server that still sends finds out at once; an idle one only when it next tries.
    while (await this.#slotActive()) {
      if (Date.now() - this.#killedAt > SLOT_RELEASE_TIMEOUT_MS) break; // The pipeline waits too, and tells better.
      await sleep(5, undefined, { signal });
    }
    this.#slotReleasedMs = Date.now() - this.#killedAt;
    this.#lastCount = 0; // A new process counts anew.
    await pipeline.start();
    observe({ type: 'restarted', pid: pipeline.pid, slotReleasedMs: this.#slotReleasedMs });
  }

  async #slotActive(): Promise<boolean> {
    const { rows } = await this.#parts.client.query<{ active: boolean }>(
      'SELECT active FROM pg_replication_slots WHERE slot_name = $1',
      [SLOT],
    );
    return rows[0]?.active ?? false;
  }
}

function appliedLsn(status: PipelineStatus): Lsn {
  const text = status.sinks[0]?.appliedLsn;
  return text === undefined ? 0n : parseLsn(text);
}
