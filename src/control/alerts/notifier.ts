import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../../config/schema.ts';
import { messageOf } from '../../errors.ts';
import { failpoint } from '../../failpoint.ts';
import type { Log } from '../../log.ts';
import { claimNotification, noteNotSent, noteSent } from '../../postgres/alert-notifications.ts';
import type { Sessions } from '../../postgres/sessions.ts';
import type { Notification } from './notification.ts';
import { SendError, type Webhook } from './webhook.ts';

/** Beyond the time of an attempt, for noting what became of it; then another process may try. */
const LEASE_GRACE_MS = 5000;
/** What another process has queued and not sent is found so late at most. */
const LOOK_MAX_MS = 15_000;
const LOOK_AFTER_ERROR_MS = 5000;

export interface NotifierOptions {
  readonly config: Config;
  readonly log: Log;
  readonly sessions: Sessions;
  readonly webhook: Webhook;
}

/** Sends what is queued for one webhook, one after another, until it is stopped. Other processes may do the same. */
export class Notifier {
  readonly #options: NotifierOptions;
  readonly #stop = new AbortController();
  #wake = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #failing = false;

  constructor(options: NotifierOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running = this.#run();
  }

  /** There is something new. */
  wake(): void {
    this.#wake.abort();
  }

  /** Ends after the attempt that is under way; what is due is still tried once, within `withinMs`. */
  async stop(withinMs: number): Promise<void> {
    this.#stop.abort();
    this.wake();
    const bound = new AbortController();
    const late = sleep(withinMs, undefined, { signal: bound.signal }).catch(() => {});
    await Promise.race([this.#running.then(() => this.#drain()).catch(() => {}), late]);
    bound.abort();
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      let waitMs = LOOK_MAX_MS;
      try {
        waitMs = await this.#drain();
      } catch (error) {
        this.#options.log.debug(`notifications: ${messageOf(error)}`);
        waitMs = LOOK_AFTER_ERROR_MS;
      }
      if (this.#stop.signal.aborted) return;
      await sleep(waitMs, undefined, { signal: this.#wake.signal }).catch(() => {});
      if (this.#wake.signal.aborted) this.#wake = new AbortController();
    }
  }

  /** Sends until nothing is due; resolves with how long to wait. Rejects as queries do. */
  async #drain(): Promise<number> {
    const { config, sessions, webhook } = this.#options;
    for (;;) {
      const leaseMs = webhook.timeoutMs + LEASE_GRACE_MS;
      const claimed = await sessions.use((client) =>
        claimNotification<Notification>(client, config.source.slot, webhook.name, leaseMs),
      );
      if ('dueInMs' in claimed) return Math.max(0, Math.min(LOOK_MAX_MS, claimed.dueInMs ?? LOOK_MAX_MS));
      await this.#send(claimed.id, claimed.attempts, claimed.payload);
    }
  }

  async #send(id: number, attempts: number, notification: Notification): Promise<void> {
    const { config, log, sessions, webhook } = this.#options;
    const { attemptsMax, firstMs, maxMs } = config.alerts.retry;
    const about = { webhook: webhook.name, alert: notification.data.id, event: notification.type };
    try {
      failpoint('before-notification');
      await webhook.send(`waltide-${config.source.slot}-${id}`, notification);
    } catch (error) {
      const reason = messageOf(error);
      const last = attempts >= attemptsMax;
      const asked = error instanceof SendError ? (error.retryAfterMs ?? 0) : 0;
      const retryInMs = Math.min(maxMs, Math.max(asked, firstMs * 2 ** (attempts - 1))) * (0.5 + Math.random() / 2);
      // An outage of an hour is one piece of news.
      const level = last ? 'error' : this.#failing ? 'debug' : 'warn';
      log[level](about, `the webhook was not told: it ${reason}; ${last ? 'given up' : 'trying again'}`);
      this.#failing = true;
      await sessions.use((client) => noteNotSent(client, { id, attempts }, reason, last ? null : retryInMs));
      return;
    }
    failpoint('after-notification');
    if (this.#failing) log.info(about, 'the webhook takes what it is told again');
    this.#failing = false;
    await sessions.use((client) => noteSent(client, id));
  }
}
