import { pino } from 'pino';
import type { PipelineStatus, SinkStatus } from '../../src/pipeline/status.ts';

export const quiet = pino({ level: 'silent' });

/** One of at most 1, two of at most 10, one above. */
const sizes = { bounds: [1, 10], counts: [1, 2, 1], sum: 40 };
const noLetters = { open: 0, retrying: 0, oldestAt: null, tables: [] };

export function sinkStatus(changes: Partial<SinkStatus> = {}): SinkStatus {
  return {
    name: 'analytics',
    type: 'duckdb',
    appliedLsn: '0/10',
    lagBytes: 100,
    lagSeconds: 1.5,
    events: 42,
    eventsPerSecond: 7,
    batches: 3,
    sizes: { rows: sizes, bytes: sizes, seconds: sizes, delaySeconds: sizes },
    delivered: { lsn: '0/18', lagBytes: 8, lagSeconds: 0.5 },
    roundTripSeconds: 0.25,
    retries: 1,
    splits: 0,
    pendingEvents: 2,
    pendingBytes: 200,
    lastError: null,
    tables: [
      {
        ...{ name: 'public.a "b"', events: 42, lagBytes: 8, lagSeconds: 0.5 },
        lastCommitAt: '2026-01-01T00:00:00.000Z',
      },
    ],
    stopped: [],
    losses: { textColumns: [], deadLetters: 0, nulled: 0 },
    breaker: 'closed',
    breakerOpened: 0,
    deadLetters: noLetters,
    ...changes,
  };
}

export function pipelineStatus(changes: Partial<PipelineStatus> = {}): PipelineStatus {
  return {
    version: '1.2.3',
    pid: process.pid,
    role: 'all',
    state: 'streaming',
    startedAt: new Date(0).toISOString(),
    failure: null,
    source: {
      slot: 'waltide',
      publication: 'waltide',
      systemIdentifier: '7000000000000000000',
      database: 'db',
      connected: true,
      serverLsn: '0/20',
      acknowledgedLsn: '0/10',
      durableLsn: '0/10',
      heldBytes: 0,
      budget: {
        level: 'notice',
        walStatus: 'reserved',
        invalidation: null,
        retainedBytes: 400,
        budgetBytes: 1000,
        safeBytes: 600,
        walBytesPerSecond: 20,
        secondsLeft: 30,
      },
      lagBytes: 16,
      events: 44,
      eventsPerSecond: 8,
      bytes: 4000,
      batches: 4,
      sizes: { rows: sizes, bytes: sizes },
      captured: { lsn: '0/20', lagBytes: 0, lagSeconds: 0 },
      published: { lsn: '0/10', lagBytes: 16, lagSeconds: 2 },
      reconnects: 2,
      decoding: null,
      protocol: {
        ...{ version: 4, streaming: 'parallel', twoPhase: false, degraded: null },
        ...{ openTransactions: 1, memoryBytes: 4096, spilledBytes: 1_000_000 },
      },
      lastMessageAt: '2026-01-01T00:00:00.000Z',
    },
    transport: { type: 'in-process', bytesInFlight: 300, deadLetters: noLetters },
    sinks: [sinkStatus()],
    copy: [
      {
        ...{ table: 'public.a', rows: 10, bytes: 100, estimatedRows: 12, secondsLeft: null },
        ...{ kind: 'initial', state: 'completed', done: true },
      },
    ],
    memory: { rssBytes: 1, heapBytes: 1 },
    stuck: [],
    ready: true,
    ...changes,
  };
}
