import type { HistogramStatus } from '../histogram.ts';
import type { BatchSizes } from '../sink/apply-status.ts';
import type { Losses } from '../sink/losses.ts';
import type { SnapshotProgress } from '../snapshot/snapshot.ts';
import type { ProtocolStatus } from '../source/source.ts';

/** all = both ends in one process; capture ends at the transport, apply begins there. */
export type Role = 'all' | 'capture' | 'apply';

export interface CopyStatus extends SnapshotProgress {
  /** At the rate until now; null where that is not known. */
  readonly secondsLeft: number | null;
}

/** resting = `source.follow` is false: sinks are open, and changes stay in the slot. */
export type PipelineState = 'starting' | 'copying' | 'streaming' | 'resting' | 'failed' | 'stopping' | 'stopped';

/** One picture of a running pipeline: what `waltide status`, /metrics and the health checks are made from. LSNs as text. */
export interface PipelineStatus {
  readonly version: string;
  readonly pid: number;
  readonly role: Role;
  readonly state: PipelineState;
  readonly startedAt: string;
  /** Why the state is `failed`, and what to do; else null. Nothing goes on until the process is started again. */
  readonly failure: string | null;
  /** Null in role apply. */
  readonly source: CaptureStatus | null;
  readonly transport: TransportStatus;
  readonly sinks: readonly SinkStatus[];
  readonly copy: readonly CopyStatus[];
  /** Of at most a second ago. */
  readonly memory: { readonly rssBytes: number; readonly heapBytes: number };
  /** What makes /healthz red: stages that have work and make no progress. Empty when all is well. */
  readonly stuck: readonly string[];
  /** True once streaming (or applying) has begun and nothing is stuck or failing: /readyz. */
  readonly ready: boolean;
}

export interface TransportStatus {
  readonly type: 'in-process' | 'kafka';
  readonly bytesInFlight: number;
  /** Changes that never came into the log, so that every sink lacks them. */
  readonly deadLetters: LetterStatus;
}

/** How far behind the source one stage of the road is. */
export interface StageLag {
  /** The stage has everything that was committed before. */
  readonly lsn: string;
  /** WAL between the server's end and `lsn`. */
  readonly lagBytes: number;
  /** Age of the oldest commit that the stage lacks, in seconds; 0 when it has all. Null when unknown. */
  readonly lagSeconds: number | null;
}

export interface CaptureStatus {
  readonly slot: string;
  readonly publication: string;
  readonly systemIdentifier: string;
  readonly database: string;
  readonly connected: boolean;
  readonly serverLsn: string;
  /** What the server has been told it may forget. */
  readonly acknowledgedLsn: string;
  /** Everything before it is durable downstream. */
  readonly durableLsn: string;
  /** WAL between the server's end and what is durable downstream, in bytes. */
  readonly lagBytes: number;
  /** WAL that is durable downstream and held back on purpose (`source.retain`), in bytes. */
  readonly heldBytes: number;
  /** Null until the slot has been looked at. */
  readonly budget: BudgetStatus | null;
  readonly events: number;
  readonly eventsPerSecond: number;
  readonly bytes: number;
  readonly batches: number;
  readonly sizes: { readonly rows: HistogramStatus; readonly bytes: HistogramStatus };
  /** Read, and given to the transport. */
  readonly captured: StageLag;
  /** Durable downstream: in Kafka, or in every sink. */
  readonly published: StageLag;
  readonly reconnects: number;
  /** After a connect the server decodes retained WAL once more before it sends anything: how far it is. Null where it is through. */
  readonly decoding: { readonly lsn: string; readonly until: string } | null;
  /** Null while not connected. */
  readonly protocol: ProtocolStatus | null;
  readonly lastMessageAt: string | null;
}

/** lost = the slot can never be used again. The others are shares of the budget, `notice` at half of `warnAt`. */
export type BudgetLevel = 'ok' | 'notice' | 'warning' | 'critical' | 'lost';
export const BUDGET_LEVELS: readonly BudgetLevel[] = ['ok', 'notice', 'warning', 'critical', 'lost'];

/** How long the source can still keep WAL for the slot. */
export interface BudgetStatus {
  readonly level: BudgetLevel;
  /** `reserved`, `extended`, `unreserved` or `lost`, as PostgreSQL has it. */
  readonly walStatus: string | null;
  /** PostgreSQL's `invalidation_reason` of a lost slot. */
  readonly invalidation: string | null;
  /** WAL that the server keeps for the slot. */
  readonly retainedBytes: number;
  /** The smaller of max_slot_wal_keep_size and `walBudget.bytes`; null where neither is set. */
  readonly budgetBytes: number | null;
  /** WAL that can still be written before the budget is used up; null where there is none. */
  readonly safeBytes: number | null;
  /** WAL that the server writes, by whomever; 0 until known. */
  readonly walBytesPerSecond: number;
  /** At the rate at which what is retained grows now; null where it does not grow, or there is no budget. */
  readonly secondsLeft: number | null;
}

export interface SinkStatus {
  readonly name: string;
  readonly type: string;
  readonly appliedLsn: string;
  readonly lagBytes: number;
  /** Age of the oldest commit that is not in the sink yet, in seconds; 0 when all is. Null when unknown. */
  readonly lagSeconds: number | null;
  /** What its apply loop has got. */
  readonly delivered: StageLag;
  /** From a heartbeat's commit in the source until the sink had applied it, in seconds; null where this process sends none. */
  readonly roundTripSeconds: number | null;
  readonly events: number;
  readonly eventsPerSecond: number;
  readonly batches: number;
  readonly sizes: BatchSizes;
  readonly retries: number;
  /** Source transactions made durable in the middle, larger than transactionBytesMax or than memory allows: once per part. */
  readonly splits: number;
  readonly pendingEvents: number;
  readonly pendingBytes: number;
  readonly lastError: string | null;
  readonly tables: readonly TableStatus[];
  readonly stopped: readonly { readonly name: string; readonly reason: string }[];
  /** Null for a sink that keeps no count of them. */
  readonly losses: Losses | null;
  /** closed = it is used. open = it failed again and again, and is left alone for a while. half-open = it is tried. */
  readonly breaker: 'closed' | 'open' | 'half-open';
  /** How often it has opened. */
  readonly breakerOpened: number;
  /** Changes that it refused, and nobody has retried or discarded. */
  readonly deadLetters: LetterStatus;
}

export interface LetterStatus {
  readonly open: number;
  /** Of these, to be applied again, since somebody asked for it. */
  readonly retrying: number;
  readonly oldestAt: string | null;
  readonly tables: readonly { readonly name: string; readonly open: number }[];
}

/** One table in one sink. */
export interface TableStatus {
  readonly name: string;
  /** Applied since the start. */
  readonly events: number;
  /** As of the sink, of changes of this table; what is not known to be of another table counts. Null where it is stopped. */
  readonly lagBytes: number | null;
  readonly lagSeconds: number | null;
  /** When the newest change that was applied had been committed; null where none was since the start. */
  readonly lastCommitAt: string | null;
}
