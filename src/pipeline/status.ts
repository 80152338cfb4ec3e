import type { CopyProgress } from '../snapshot/initial.ts';

/** all = both ends in one process; capture ends at the transport, apply begins there. */
export type Role = 'all' | 'capture' | 'apply';
export type PipelineState = 'starting' | 'copying' | 'streaming' | 'stopping' | 'stopped';

/** One picture of a running pipeline: what `waltide status`, /metrics and the health checks are made from. LSNs as text. */
export interface PipelineStatus {
  readonly version: string;
  readonly pid: number;
  readonly role: Role;
  readonly state: PipelineState;
  readonly startedAt: string;
  /** Null in role apply. */
  readonly source: CaptureStatus | null;
  readonly transport: { readonly type: 'in-process' | 'kafka'; readonly bytesInFlight: number };
  readonly sinks: readonly SinkStatus[];
  readonly copy: readonly CopyProgress[];
  readonly memory: { readonly rssBytes: number; readonly heapBytes: number };
  /** What makes /healthz red: stages that have work and make no progress. Empty when all is well. */
  readonly stuck: readonly string[];
  /** True once streaming (or applying) has begun and nothing is stuck or failing: /readyz. */
  readonly ready: boolean;
}

export interface CaptureStatus {
  readonly slot: string;
  readonly publication: string;
  readonly systemIdentifier: string;
  readonly database: string;
  readonly connected: boolean;
  readonly serverLsn: string;
  readonly acknowledgedLsn: string;
  /** WAL between the server's end and what is acknowledged, in bytes. */
  readonly lagBytes: number;
  readonly events: number;
  readonly eventsPerSecond: number;
  readonly bytes: number;
  readonly reconnects: number;
  readonly lastMessageAt: string | null;
}

export interface SinkStatus {
  readonly name: string;
  readonly type: string;
  readonly appliedLsn: string;
  readonly lagBytes: number;
  /** Age of the oldest commit that is not in the sink yet, in seconds; 0 when all is. Null when unknown. */
  readonly lagSeconds: number | null;
  readonly events: number;
  readonly eventsPerSecond: number;
  readonly batches: number;
  readonly retries: number;
  readonly pendingEvents: number;
  readonly pendingBytes: number;
  readonly lastError: string | null;
  readonly tables: readonly { readonly name: string; readonly events: number }[];
  readonly stopped: readonly { readonly name: string; readonly reason: string }[];
}
