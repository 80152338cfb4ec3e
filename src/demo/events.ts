import type { TableComparison } from './compare.ts';

export interface DemoOptions {
  /** Rows to fill the shop with. */
  readonly rows: number;
  /** How long the live workload runs. */
  readonly durationMs: number;
  /** Keep the folder with both databases. */
  readonly keep: boolean;
  /** Command line of `waltide` itself, for the pipeline's own process. Default: the program that runs now. */
  readonly program?: readonly string[];
  /** For tests: called with both sides at rest, before they are compared. */
  readonly beforeCompare?: (place: { readonly url: string; readonly duckdbFile: string }) => Promise<void>;
}

export type StepName = 'source' | 'copy' | 'live' | 'catch-up' | 'compare';

export interface LiveSample {
  readonly elapsedSeconds: number;
  /** Changes committed in the source since the last sample, per second. */
  readonly committedPerSecond: number;
  /** Changes applied by the sink since the last sample, per second. */
  readonly appliedPerSecond: number;
  /** Age of the oldest commit that is not in the target yet, or of the last that came in; null before the first. */
  readonly lagMs: number | null;
  readonly totalEvents: number;
  /** False while the pipeline is down or starting again. */
  readonly streaming: boolean;
}

export interface Kept {
  readonly folder: string;
  readonly url: string;
  readonly duckdbFile: string;
  readonly configFile: string;
  /** Shell command that starts the kept PostgreSQL again. */
  readonly startCommand: string;
}

/** What the demo tells while it runs; whoever listens decides how it looks. */
export type DemoEvent =
  | { readonly type: 'step'; readonly step: StepName }
  | { readonly type: 'server'; readonly version: string; readonly port: number; readonly seconds: number }
  | { readonly type: 'filled'; readonly table: string; readonly rows: number }
  | { readonly type: 'filled-all'; readonly rows: number; readonly tables: number; readonly seconds: number }
  | {
      readonly type: 'copying';
      readonly table: string;
      readonly rows: number;
      readonly total: number;
      readonly seconds: number;
    }
  | { readonly type: 'copied'; readonly rows: number; readonly seconds: number; readonly startSeconds: number }
  | { readonly type: 'look'; readonly url: string; readonly configFile: string; readonly durationSeconds: number }
  | { readonly type: 'sample'; readonly sample: LiveSample }
  | { readonly type: 'schema-change'; readonly sql: string }
  | { readonly type: 'killed'; readonly pid: number }
  | { readonly type: 'restarted'; readonly pid: number; readonly slotReleasedMs: number }
  | { readonly type: 'recovered'; readonly recovery: Recovery }
  | { readonly type: 'live-over'; readonly interrupted: boolean }
  | { readonly type: 'caught-up'; readonly seconds: number }
  | { readonly type: 'comparing'; readonly table: string; readonly rows: number; readonly total: number }
  | { readonly type: 'compared'; readonly tables: readonly TableComparison[]; readonly seconds: number }
  | { readonly type: 'kept'; readonly kept: Kept };

export type Observer = (event: DemoEvent) => void;

/** Times since the kill. */
export interface Recovery {
  /** Until the server noticed that its client was gone. */
  readonly slotReleasedMs: number;
  /** Until the new process streamed. */
  readonly streamingMs: number;
  /** Until nothing committed more than a second ago was missing in the target. */
  readonly caughtUpMs: number;
}

export interface LagSummary {
  readonly p50: number;
  readonly p95: number;
  readonly max: number;
  /** Transactions measured. */
  readonly samples: number;
}

export interface DemoReport {
  /** True where every row of every table is equal. */
  readonly equal: boolean;
  readonly tables: readonly TableComparison[];
  readonly copy: { readonly rows: number; readonly seconds: number; readonly rowsPerSecond: number };
  readonly live: {
    readonly seconds: number;
    readonly transactions: number;
    readonly rolledBack: number;
    readonly inserts: number;
    readonly updates: number;
    readonly keyUpdates: number;
    readonly deletes: number;
    readonly events: number;
    readonly eventsPerSecond: number;
    /** From commit to visible in the target, outside the outage; null where nothing was measured. */
    readonly lagMs: LagSummary | null;
  };
  readonly schemaChange: string | null;
  /** Null where the demo ended before the kill. */
  readonly recovery: Recovery | null;
  /** Tables that the sink has set aside, and why. */
  readonly stopped: readonly string[];
  readonly peakRssBytes: number;
  readonly totalSeconds: number;
  readonly kept: Kept | null;
}
