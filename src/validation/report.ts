import type { KeyText } from '../postgres/snapshots.ts';
import type { Orphan } from './validation.ts';

export type Check = 'row_count' | 'data_hash' | 'referential_integrity' | 'business_rules';
export const CHECKS: readonly Check[] = ['row_count', 'data_hash', 'referential_integrity', 'business_rules'];

export interface ValidationRequest {
  /** Patterns as in `source.tables`; empty for all. */
  readonly tables?: readonly string[] | undefined;
  /** Names; all that can be compared where left out. */
  readonly sinks?: readonly string[] | undefined;
  readonly checks?: readonly Check[] | undefined;
  /** Only the row with this key: PostgreSQL's text of each of its columns. */
  readonly key?: KeyText | undefined;
  /** Only rows whose `sinceColumn` is that time or later, as PostgreSQL reads it. */
  readonly since?: string | undefined;
  readonly sinceColumn?: string | undefined;
  /** Only so many rows of each table, chosen at random in the source. */
  readonly sample?: number | undefined;
  /** Brings the differing rows to the sink again, and compares them once more. */
  readonly repair?: boolean | undefined;
  readonly rowsPerSecondMax?: number | undefined;
  /** Id of a run that did not come to its end: what it has compared is not compared again. */
  readonly resume?: string | undefined;
}

export interface Difference {
  /** missing = not in the sink; extra = only there, or more than once; different = another value. */
  readonly kind: 'missing' | 'extra' | 'different';
  /** For a table without a key: the hash of the row. */
  readonly key: KeyText;
  /** Values that differ; long ones as `sha256 …`. */
  readonly columns: readonly { readonly name: string; readonly source: string | null; readonly sink: string | null }[];
}

/** How one table compares. */
export interface TableResult {
  readonly sink: string;
  readonly table: string;
  /** Of the rows looked at. */
  readonly sourceRows: number;
  readonly sinkRows: number;
  /** SHA-256 over the digests of all ranges; equal where no difference was found. Null where only some rows are compared. */
  readonly sourceDigest: string | null;
  readonly sinkDigest: string | null;
  readonly missing: number;
  readonly extra: number;
  readonly different: number;
  /** Rows that changed faster than they could be compared: neither proven equal nor different. */
  readonly unsettled: number;
  /** The first ones. */
  readonly differences: readonly Difference[];
  /** True where there were more differences than are looked for: the counts are lower bounds. */
  readonly truncated: boolean;
  /** Share of rows that are equal, in percent. */
  readonly score: number;
  /** The source was last read as of here, and the sink had passed it where anything differed. */
  readonly lsn: string;
  /** Columns that were not compared, since the sink does not hold them. */
  readonly columnsLeftOut: readonly string[];
  /** Rows that were brought to the sink again and are equal now. */
  readonly repaired: number;
  readonly bytesMoved: number;
  readonly durationMs: number;
}

/** Rows of the sink whose foreign key leads nowhere. */
export interface ReferenceResult {
  readonly sink: string;
  readonly table: string;
  readonly constraint: string;
  readonly references: string;
  /** Values of the foreign key that no row there has, the first ones, and in how many rows. */
  readonly orphans: readonly Orphan[];
}

export interface RuleResult {
  readonly rule: string;
  /** `source`, or the name of the sink. */
  readonly side: string;
  readonly holds: boolean;
  /** Rows that break it; the first ones. */
  readonly violations: number;
  readonly rows: readonly (readonly unknown[])[];
  /** Why the database did not answer, with what to do; null where it did. */
  readonly error: string | null;
}

export interface ValidationReport {
  readonly id: string;
  readonly ok: boolean;
  /** The lowest of all tables. */
  readonly score: number;
  readonly tables: readonly TableResult[];
  readonly references: readonly ReferenceResult[];
  readonly rules: readonly RuleResult[];
  /** Tables that were not compared; `meant` where the configuration makes them so, which is no fault unless they were named. */
  readonly leftOut: readonly {
    readonly sink: string;
    readonly table: string;
    readonly why: string;
    readonly meant: boolean;
  }[];
  readonly durationMs: number;
}

export interface ValidationProgress {
  readonly sink: string;
  readonly table: string;
  readonly rows: number;
  /** The planner's guess; 0 when it has none. */
  readonly estimatedRows: number;
  readonly differences: number;
}

/** Share of rows that are equal, in percent, rounded down at the second place so that 100 means all. */
export function scoreOf(rows: number, wrong: number): number {
  if (wrong === 0) return 100;
  return Math.max(0, Math.min(99.99, Math.floor((1 - wrong / Math.max(rows, wrong)) * 10_000) / 100));
}
