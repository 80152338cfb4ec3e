import { pino } from 'pino';
import type { PipelineStatus, SinkStatus } from '../../src/pipeline/status.ts';

export const quiet = pino({ level: 'silent' });

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
    retries: 1,
    splits: 0,
    pendingEvents: 2,
    pendingBytes: 200,
    lastError: null,
    tables: [{ name: 'public.a "b"', events: 42 }],
    stopped: [],
    losses: { textColumns: [], deadLetters: 0, nulled: 0 },
    breaker: 'closed',
    deadLetters: { open: 0, oldestAt: null, tables: [] },
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
      reconnects: 2,
      protocol: {
        ...{ version: 4, streaming: 'parallel', twoPhase: false, degraded: null },
        ...{ openTransactions: 1, memoryBytes: 4096, spilledBytes: 1_000_000 },
      },
      lastMessageAt: '2026-01-01T00:00:00.000Z',
    },
    transport: { type: 'in-process', bytesInFlight: 300 },
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
