import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { notePosition, saveMarks } from '../postgres/positions.ts';
import { connectSource, slotSide } from '../postgres/session.ts';
import { readSlot, readWalUse, slotLost } from '../postgres/slot.ts';
import { retainableBytes, WalBudget } from './budget.ts';
import type { RetainWindow } from './retain.ts';
import { BUDGET_LEVELS, type BudgetStatus } from './status.ts';

/** A row of waltide.positions a minute: a time is found to a minute, and a replay begins a little early. */
const POSITION_INTERVAL_MS = 60_000;
/** A look that takes longer hangs on a connection that is gone. */
const LOOK_MAX_MS = 30_000;
const STOP_MAX_MS = 2000;

export interface SlotWatchOptions {
  readonly config: SourceConfig;
  readonly retain: RetainWindow;
  /** How far the slot (under DURABLE) and the sinks are now. */
  readonly marks: () => ReadonlyMap<string, Lsn>;
  readonly log: Log;
  /** At each look. Not awaited by whoever streams. */
  readonly onLook: (status: BudgetStatus, client: pg.Client) => Promise<void>;
}

/** Looks at the slot every few seconds, in a session of its own, and never in the way of streaming. */
export class SlotWatch {
  readonly #options: SlotWatchOptions;
  readonly #budget: WalBudget;
  #client: pg.Client | null = null;
  /** Where the slot is on another server. */
  #slotClient: pg.Client | null = null;
  #timer: NodeJS.Timeout | null = null;
  #look: { readonly done: Promise<void>; readonly since: number } | null = null;
  #status: BudgetStatus | null = null;
  #positionAt = Number.NEGATIVE_INFINITY;
  #warned = '';

  constructor(options: SlotWatchOptions) {
    this.#options = options;
    this.#budget = new WalBudget(options.config.walBudget);
  }

  /** As of the last look; null before the first, and while there is no slot. */
  get status(): BudgetStatus | null {
    return this.#status;
  }

  start(): void {
    this.#timer = setInterval(() => this.#tick(), this.#options.config.walBudget.intervalMs);
    this.#timer.unref();
    this.#tick();
  }

  async stop(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    const last = (async () => {
      await this.#look?.done;
      if (this.#client) await this.#note(this.#client, true);
    })().catch((error: unknown) => this.#options.log.debug(`last look at the slot: ${messageOf(error)}`));
    const late = new Promise((resolve) => setTimeout(resolve, STOP_MAX_MS).unref());
    await Promise.race([last, late]);
    await this.#hangUp();
  }

  #tick(): void {
    if (this.#look) {
      if (performance.now() - this.#look.since > LOOK_MAX_MS) void this.#hangUp();
      return;
    }
    const done = this.#lookAt()
      .catch(async (error: unknown) => {
        await this.#hangUp();
        const message = messageOf(error);
        // Streaming meets the same fault, and says what becomes of it.
        if (message !== this.#warned) this.#options.log.warn(`the slot cannot be watched: ${message}`);
        this.#warned = message;
      })
      .finally(() => {
        this.#look = null;
      });
    this.#look = { done, since: performance.now() };
  }

  async #lookAt(): Promise<void> {
    const { config, retain } = this.#options;
    this.#client ??= await connectSource(config, 'watch');
    const client = this.#client;
    if (config.primaryUrl) this.#slotClient ??= await connectSource(slotSide(config), 'watch');
    const slot = await readSlot(this.#slotClient ?? client, config.slot);
    const wal = await readWalUse(this.#slotClient ?? client);
    retain.bytesMax = retainableBytes(config.walBudget, wal);
    const before = this.#status;
    this.#status = slot && this.#budget.assess({ atMs: Date.now(), slot, wal });
    if (this.#status && this.#status.level !== (before?.level ?? 'ok'))
      tell(this.#options.log, config.slot, this.#status, before);
    if (this.#status) await this.#options.onLook(this.#status, client);
    await this.#note(client, false);
    this.#warned = '';
  }

  /** What a later start, or a replay, will want to know. */
  async #note(client: pg.Client, last: boolean): Promise<void> {
    const { config, marks } = this.#options;
    const due = performance.now() - this.#positionAt >= POSITION_INTERVAL_MS;
    // Where WAL is held back on purpose, the next start begins at the mark: it had better be near.
    if (!due && !last && config.retain === undefined) return;
    const { rows } = await client.query<{ standby: boolean }>('SELECT pg_catalog.pg_is_in_recovery() AS standby');
    if (rows[0]!.standby) return;
    const now = [...marks()].filter(([, lsn]) => lsn > 0n);
    if (now.length > 0) await saveMarks(client, config.slot, new Map(now));
    if (!due && !last) return;
    this.#positionAt = performance.now();
    await notePosition(client);
  }

  async #hangUp(): Promise<void> {
    const clients = [this.#client, this.#slotClient];
    this.#client = this.#slotClient = null;
    await Promise.all(clients.map((client) => client?.end().catch(() => {})));
  }
}

function tell(log: Log, slot: string, status: BudgetStatus, before: BudgetStatus | null): void {
  const { level, invalidation, retainedBytes, budgetBytes, safeBytes, secondsLeft } = status;
  const fields = {
    slot,
    level,
    retainedBytes,
    budgetBytes,
    safeBytes,
    secondsLeft: secondsLeft && Math.round(secondsLeft),
  };
  if (level === 'lost') {
    const { message, help } = slotLost(slot, invalidation ?? 'lost');
    log.error(fields, `${message}. ${help}`);
    return;
  }
  const rank = (of: BudgetStatus | null): number => BUDGET_LEVELS.indexOf(of?.level ?? 'ok');
  const text = `the WAL budget is at level ${level}`;
  if (rank(status) < rank(before)) log.info(fields, `${text} again`);
  else if (level === 'notice') log.info(fields, text);
  else if (level === 'warning')
    log.warn(fields, `${text}: see which sink is behind (\`waltide status\`), or raise max_slot_wal_keep_size`);
  else
    log.error(
      fields,
      `${text}: soon the slot is lost, or the disk of the source full. See which sink is behind (\`waltide status\`), or raise max_slot_wal_keep_size`,
    );
}
