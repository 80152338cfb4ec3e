import type { Batch } from '../event/batch.ts';
import type { Lsn } from '../event/lsn.ts';

/** Where changes come from. */
export interface Source {
  /**
   * Batches in commit order, until `signal` aborts; acknowledging goes on until `close`. Pulling is the backpressure:
   * nothing is read from the server while the caller holds the last batch. Lost connections are mended inside, with
   * no event lost or repeated; the iteration throws only what a person must mend.
   */
  stream(signal: AbortSignal): AsyncGenerator<Batch>;
  /**
   * Everything before `durable` is durable downstream, and need not be streamed again; the server may forget what is
   * before `lsn`, which is less where WAL is retained on purpose. Neither goes back. Sent on a timer.
   */
  acknowledge(lsn: Lsn, durable: Lsn): void;
  /** Resolves once the last acknowledgement is on its way and the slot released, within a few seconds. */
  close(): Promise<void>;
}

/** What the source can tell of itself, for status and liveness. */
export interface SourceStatus {
  readonly connected: boolean;
  /** End of the server's WAL as far as the last message told. */
  readonly serverLsn: Lsn;
  readonly acknowledgedLsn: Lsn;
  /** When the last byte came from the server, in Unix milliseconds; 0 for never. */
  readonly lastMessageAt: number;
  readonly reconnects: number;
  /** How far the server is with WAL that it decodes anew before it sends anything; null where it is beyond. */
  readonly decoding: { readonly lsn: Lsn; readonly until: Lsn } | null;
  /** Null while not connected. */
  readonly protocol: ProtocolStatus | null;
}

/** How transactions come, and what is gathered of those that have not committed. */
export interface ProtocolStatus {
  readonly version: number;
  readonly streaming: 'off' | 'on' | 'parallel';
  readonly twoPhase: boolean;
  readonly openTransactions: number;
  readonly memoryBytes: number;
  readonly spilledBytes: number;
  /** Why streaming is off though it was asked for; null where it is not. */
  readonly degraded: string | null;
}
