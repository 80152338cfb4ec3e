import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Relation } from '../event/relation.ts';
import type { Log } from '../log.ts';
import type { Sink } from '../sink/sink.ts';
import type { ValidationProgress, ValidationRequest } from './report.ts';
import type { SourceReader } from './source.ts';
import type { Digestible } from './validation.ts';

/** A sink that can be compared. */
export interface ValidatedSink extends Pick<Sink, 'name' | 'query'> {
  readonly digests: Digestible;
  /** Resolves once the sink has applied everything that was committed before that LSN. */
  readonly passed: (lsn: Lsn, signal: AbortSignal) => Promise<void>;
}

/** What becomes of tables on their way out of the source, as far as it can be compared. */
export interface Treatment {
  /** Why the table's rows cannot be compared at all; null where they can. */
  refuses(relation: Relation): string | null;
  /** Null for a column that leaves as it is. */
  maskOf(relation: Relation, column: string): ((text: string) => string) | null;
  /** Rows of somebody's query in the source, as they may be shown. Rejects as the query does. */
  query(client: pg.Client, query: { readonly text: string; readonly values: unknown[] }): Promise<unknown[][]>;
  /** What may be told of the server's refusal of such a query. */
  refusalOf(error: unknown): string;
}

/** One run, and what all its parts share. */
export interface ValidationRun {
  readonly id: string;
  readonly config: Config;
  readonly request: ValidationRequest;
  readonly source: SourceReader;
  readonly treatment: Treatment;
  /** A session that may write. */
  readonly control: pg.Client;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: ValidationProgress) => void;
}
