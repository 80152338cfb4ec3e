import type { Config } from '../config/schema.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Offset } from '../event/offset.ts';

/* What is done with a store beside applying to it: the words that sinks, runs, commands and routes share. */

export type ParquetCompression = Config['exports']['compression'];

export interface ExportRequest {
  /** As the source has them, `schema.table`; null for all that the sink follows. */
  readonly tables: readonly string[] | null;
  /** A directory for exports of this sink alone, absolute. */
  readonly to: string;
  /** Columns that every one of the tables has; none for one file per table. */
  readonly partitionBy: readonly string[];
  readonly compression: ParquetCompression;
  /** Most rows of a row group. */
  readonly rowGroupSize: number;
  /** A condition of the store's SQL, on every table. */
  readonly where: string | null;
  /** How many exports stay in `to`, this one included. */
  readonly keep: number;
}

/** Whose store it is. */
export interface StoreOwner {
  readonly sink: string;
  readonly systemIdentifier: string;
  readonly database: string;
  readonly slot: string;
}

export interface ExportedTable {
  readonly schema: string;
  readonly table: string;
  readonly rows: number;
  readonly bytes: number;
  /** Relative to the export, with slashes. */
  readonly files: readonly string[];
  /** Why the sink does not follow it any more: its rows are of an earlier time. Null where it follows. */
  readonly notFollowed: string | null;
}

/** `manifest.json` of an export. */
export interface ExportManifest {
  readonly format: 'waltide-export';
  readonly version: 1;
  readonly owner: StoreOwner;
  /** The rows are those of the source as of this LSN: whatever was committed before is in, on every table. */
  readonly lsn: string;
  readonly exportedAt: string;
  readonly compression: ParquetCompression;
  readonly rowGroupSize: number;
  readonly partitionBy: readonly string[];
  readonly where: string | null;
  readonly rows: number;
  readonly bytes: number;
  readonly tables: readonly ExportedTable[];
}

export interface Exported {
  /** The export's own directory, below the one that was asked for. */
  readonly path: string;
  readonly manifest: ExportManifest;
}

export interface BackedUp {
  readonly path: string;
  readonly bytes: number;
  readonly lsn: string;
  readonly tables: readonly { readonly schema: string; readonly table: string; readonly rows: number }[];
}

export interface Optimized {
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** What was done, in words. */
  readonly done: readonly string[];
}

/** What a sink may be able to do with its store while it is applied to. */
export interface Upkeep {
  /** The store as it is between two transactions, offsets included, which it resolves with; rows are applied meanwhile. */
  copyTo?(path: string, signal: AbortSignal): Promise<readonly Offset[]>;
  /** Makes it smaller, or faster to read; nothing is applied meanwhile. */
  optimize?(signal: AbortSignal): Promise<Optimized>;
}

export interface UpkeepWatch {
  readonly signal: AbortSignal;
  /** Rows dealt with so far. */
  note(rows: number): void;
}

export interface RestoreRequest {
  readonly from: string;
  /** What the store must be of. */
  readonly owner: Omit<StoreOwner, 'sink'>;
  /**
   * Asked before anything is changed, with where the backup stands: null where the stream goes on from there, or why every
   * table is to be filled anew, since changes of after it are gone. Throws where it is not to be restored.
   */
  decide(lsn: Lsn): string | null;
}

export interface Restored extends Pick<BackedUp, 'path' | 'tables'> {
  /** What was in its place, under another name; null where nothing was. */
  readonly keptAs: string | null;
  readonly lsn: Lsn;
  /** What `decide` said. */
  readonly refill: string | null;
}
