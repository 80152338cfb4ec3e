import type { WaltideError } from '../errors.ts';
import type { Begun, LastSync } from './runs.ts';

/** A run that this process is doing. */
export class OpenRun {
  readonly id: string;
  readonly syncType: string;
  readonly last: LastSync;
  /** Resolves once its end is recorded, or cannot be. */
  readonly ended: Promise<void>;
  readonly settle: () => void;
  /** True once its end is recorded. */
  finished = false;
  /** Why it may be another's by now. */
  lost: WaltideError | null = null;
  readonly #controller = new AbortController();
  readonly #onProgress: () => void;
  #records = 0;
  #latestAt: Date | null = null;
  #metadata: Record<string, unknown>;

  constructor(syncType: string, { id, last }: Begun, metadata: object, onProgress: () => void) {
    this.id = id;
    this.syncType = syncType;
    this.last = last;
    this.#metadata = { ...metadata };
    this.#onProgress = onProgress;
    let settle: () => void = () => {};
    this.ended = new Promise((resolve) => (settle = resolve));
    this.settle = settle;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  progress({ records, latest, metadata }: { records?: number; latest?: string | Date; metadata?: object }): void {
    if (records !== undefined && Number.isFinite(records)) this.#records = Math.max(0, records);
    if (metadata) Object.assign(this.#metadata, metadata);
    if (latest !== undefined) {
      this.#latestAt = latest instanceof Date ? latest : null;
      this.#metadata.latest = latest instanceof Date ? latest.toISOString() : latest;
    }
    this.#onProgress();
  }

  get state(): { records: number; metadata: object; latestAt: Date | null } {
    return { records: this.#records, metadata: this.#metadata, latestAt: this.#latestAt };
  }

  abort(reason: WaltideError): void {
    this.#controller.abort(reason);
  }
}
