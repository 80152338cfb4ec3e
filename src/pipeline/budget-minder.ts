import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { pauseSnapshots, resumeSnapshots } from '../postgres/snapshots.ts';
import { BUDGET_LEVELS, type BudgetLevel, type BudgetStatus } from './status.ts';

/** Tells snapshots that the budget paused from those that a person did. */
const PAUSED = 'paused until the WAL budget is at ease';

/** Begins the pipeline again, or ends it with `failure`; the slot is dropped. False where it cannot just now. */
type BeginAgain = (again: { reason: string; recopy: true; failure?: WaltideError }) => boolean;

/** Does what `walBudget.onBudget` asks for. */
export class BudgetMinder {
  readonly #config: SourceConfig;
  readonly #log: Log;
  readonly #beginAgain: BeginAgain;
  /** The slot was given up, and not every table has been copied through its successor yet. */
  #refilling = false;
  /** Null: another process may have left snapshots paused. */
  #paused: boolean | null = null;

  constructor(config: SourceConfig, log: Log, beginAgain: BeginAgain) {
    this.#config = config;
    this.#log = log;
    this.#beginAgain = beginAgain;
  }

  /** At each look at the slot. Rejects as queries do. */
  async mind({ level }: BudgetStatus, copying: boolean, client: pg.Client): Promise<void> {
    if (!copying && !atLeast(level, 'critical')) this.#refilling = false;
    const { onBudget } = this.#config.walBudget;
    // Whatever is asked for by now, snapshots that were paused for it go on some time.
    await this.#pause(onBudget === 'pause-snapshot' && atLeast(level, 'warning'), client);
    if (onBudget === 'drop-and-resnapshot' && atLeast(level, 'critical')) this.#giveUp();
  }

  /** How to go on after `failure`; null where only a person can. */
  remedy(failure: unknown): { reason: string; recopy: true } | null {
    const lost = failure instanceof WaltideError && failure.code === 'SLOT_LOST';
    if (!lost || this.#config.walBudget.onBudget !== 'drop-and-resnapshot' || this.#refilling) return null;
    this.#refilling = true;
    return { reason: failure.message, recopy: true };
  }

  #giveUp(): void {
    const { slot } = this.#config;
    if (this.#refilling) {
      const failure = new WaltideError(
        'SLOT_LOST',
        `the WAL budget was used up again before every table was copied; slot "${slot}" is dropped`,
        'Give the source more room (max_slot_wal_keep_size, walBudget.bytes), or copy when less is written; then start again: sinks keep their rows until then.',
      );
      this.#beginAgain({ reason: failure.message, recopy: true, failure });
      return;
    }
    const reason = `slot "${slot}" is dropped, since the WAL budget is used up (walBudget.onBudget: drop-and-resnapshot)`;
    this.#refilling = this.#beginAgain({ reason, recopy: true });
    if (this.#refilling)
      this.#log.error({ slot }, `${reason}; every table is filled again, and sinks keep their rows meanwhile`);
  }

  async #pause(pause: boolean, client: pg.Client): Promise<void> {
    // While it lasts, new ones are asked for.
    if (this.#paused === false && !pause) return;
    const { slot } = this.#config;
    const count = await (pause ? pauseSnapshots : resumeSnapshots)(client, slot, PAUSED);
    this.#paused = pause;
    if (count > 0)
      this.#log.warn(
        { slot, snapshots: count },
        pause ? `snapshots are ${PAUSED}` : 'snapshots go on: the WAL budget is at ease',
      );
  }
}

function atLeast(level: BudgetLevel, least: BudgetLevel): boolean {
  return BUDGET_LEVELS.indexOf(level) >= BUDGET_LEVELS.indexOf(least);
}
