import type { Config } from '../config/schema.ts';
import { type AlertCount, countAlerts } from '../postgres/alerts.ts';
import { listInstances } from '../postgres/instances.ts';
import { listSyncStatus, type SyncStatus } from '../postgres/runs.ts';
import type { Sessions } from '../postgres/sessions.ts';
import { latestScores, type StoredScore } from '../postgres/validations.ts';
import { type QueuedOperations, queuedOperations } from '../write/store.ts';

/** Several may scrape, each of them every few seconds. */
const TTL_MS = 10_000;
/** A scrape does not wait for a server that hangs. */
const ANSWER_MS = 2_000;

export type { StoredScore };

/** What is in the control schema, for all processes alike. */
export interface StoredPicture {
  readonly slot: string;
  readonly alerts: readonly AlertCount[];
  readonly instances: number;
  readonly syncTypes: readonly SyncStatus[];
  readonly scores: readonly StoredScore[];
  /** Null where no writes are queued here. */
  readonly writes: QueuedOperations | null;
}

/** Reads the control schema for scrapes, and for nobody else: without one, nothing is asked. */
export class Stored {
  readonly #sessions: Sessions;
  readonly #config: Config;
  #last: { readonly picture: Promise<StoredPicture | null>; readonly at: number } | null = null;

  constructor(sessions: Sessions, config: Config) {
    this.#sessions = sessions;
    this.#config = config;
  }

  /** As of ten seconds ago at most; null where PostgreSQL does not answer in time. Never rejects. */
  async read(): Promise<StoredPicture | null> {
    const now = performance.now();
    if (!this.#last || now - this.#last.at > TTL_MS) this.#last = { picture: this.#ask().catch(() => null), at: now };
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<null>((resolve) => {
      timer = setTimeout(resolve, ANSWER_MS, null);
    });
    try {
      return await Promise.race([this.#last.picture, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #ask(): Promise<StoredPicture> {
    const { source, writes } = this.#config;
    return this.#sessions.use(async (client) => ({
      slot: source.slot,
      alerts: await countAlerts(client, source.slot),
      instances: (await listInstances(client, false)).length,
      syncTypes: await listSyncStatus(client),
      scores: await latestScores(client, source.slot),
      writes: writes.enabled ? await queuedOperations(client, source.slot) : null,
    }));
  }
}
