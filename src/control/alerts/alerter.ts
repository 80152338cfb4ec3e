import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import type { Log } from '../../log.ts';
import type { PipelineStatus } from '../../pipeline/status.ts';
import type { Sessions } from '../../postgres/sessions.ts';
import type { Companion } from '../companion.ts';
import { evaluate, type News } from './evaluate.ts';
import { Notifier } from './notifier.ts';
import { takeView } from './view.ts';
import { openWebhook } from './webhook.ts';

/** What the end of a process may wait for: a last look, and telling of it. */
const STOP_MAX_MS = 3000;

export interface AlerterOptions {
  readonly config: Config;
  readonly log: Log;
  readonly sessions: Sessions;
  /** Id of this instance, as in waltide.instances. */
  readonly instance: string;
  readonly role: string;
  readonly pipeline: { status(): PipelineStatus };
}

/** Looks at the rules every few seconds while a pipeline runs, and tells webhooks. Other processes of the slot may do the same. */
export class Alerter implements Companion {
  readonly #options: AlerterOptions;
  #notifiers: readonly Notifier[] = [];
  #timer: NodeJS.Timeout | null = null;
  #round: Promise<void> = Promise.resolve();
  #started = false;
  #stopped = false;
  #said = '';

  constructor(options: AlerterOptions) {
    this.#options = options;
  }

  /** Rejects with CONFIG_INVALID where a webhook's secret cannot be read. */
  async start(): Promise<void> {
    const { config } = this.#options;
    if (!config.alerts.enabled) return;
    const webhooks = config.alerts.webhooks.map(openWebhook);
    this.#notifiers = webhooks.map((webhook) => new Notifier({ ...this.#options, webhook }));
    this.#started = true;
    for (const notifier of this.#notifiers) notifier.start();
    // What is not connected yet has nothing to say.
    this.#lookIn(Math.min(1000, config.alerts.intervalMs));
  }

  async stop(): Promise<void> {
    if (this.#stopped || !this.#started) return;
    this.#stopped = true;
    if (this.#timer) clearTimeout(this.#timer);
    const bound = new AbortController();
    const late = sleep(STOP_MAX_MS, undefined, { signal: bound.signal }).catch(() => {});
    // Why it ends may be what somebody should know: a slot that is lost.
    await Promise.race([this.#round.then(() => this.#look(true)), late]);
    bound.abort();
    await Promise.all(this.#notifiers.map((notifier) => notifier.stop(STOP_MAX_MS)));
  }

  #lookIn(ms: number): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#look(false).then(() => this.#lookIn(this.#options.config.alerts.intervalMs));
    }, ms);
  }

  /** Never rejects: alerts must not stop what they are about. */
  async #look(ending: boolean): Promise<void> {
    const { config, log, sessions, instance, role, pipeline } = this.#options;
    try {
      const process = `${instance.replace(/:\d+:[0-9a-f]+$/, '')} (${role})`;
      const status = ending ? null : pipeline.status();
      const news = await sessions.use((open) =>
        evaluate(open, config.source.slot, instance, (client) => takeView(client, config, process, status)),
      );
      for (const one of news) tell(log, one);
      if (news.length > 0) for (const notifier of this.#notifiers) notifier.wake();
      this.#said = '';
    } catch (error) {
      const message = messageOf(error);
      // Before the pipeline has set up there are no tables; whatever else is in the way, it meets too, and says what becomes of it.
      const expected = ending || (error instanceof WaltideError && error.code === 'SOURCE_SETTINGS');
      if (message !== this.#said) log[expected ? 'debug' : 'warn'](`alerts cannot be looked at: ${message}`);
      this.#said = message;
    }
  }
}

function tell(log: Log, { event, alert }: News): void {
  const { rule, subject, severity, summary } = alert;
  if (event === 'resolved') log.info({ rule, subject }, `alert resolved: ${summary}`);
  else log[severity === 'critical' ? 'error' : 'warn']({ rule, subject, severity }, `alert ${event}: ${summary}`);
}
