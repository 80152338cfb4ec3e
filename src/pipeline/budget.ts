import type { Config } from '../config/schema.ts';
import type { SlotInfo, WalUse } from '../postgres/slot.ts';
import type { BudgetLevel, BudgetStatus } from './status.ts';

export type WalBudgetConfig = Config['source']['walBudget'];

/** One look at the slot, at a time in Unix milliseconds. */
export interface BudgetReading {
  readonly atMs: number;
  readonly slot: SlotInfo;
  readonly wal: WalUse;
}

/** A rate over less than a minute would follow every checkpoint. */
const WINDOW_MS = 60_000;

/** Makes levels, rates and an ETA out of readings. Pure. */
export class WalBudget {
  readonly #config: WalBudgetConfig;
  readonly #readings: BudgetReading[] = [];

  constructor(config: WalBudgetConfig) {
    this.#config = config;
  }

  assess(reading: BudgetReading): BudgetStatus {
    const { slot, wal } = reading;
    this.#readings.push(reading);
    while (this.#readings.length > 2 && reading.atMs - this.#readings[0]!.atMs > WINDOW_MS) this.#readings.shift();
    const first = this.#readings[0]!;
    const seconds = (reading.atMs - first.atMs) / 1000;
    const rate = (bytes: number): number => (seconds > 0 ? bytes / seconds : 0);
    const retainedBytes = slot.retainedBytes ?? 0;
    const budgetBytes = budgetOf(this.#config, wal);
    const safeBytes = budgetBytes === null ? null : safeOf(budgetBytes, retainedBytes, slot);
    const growth = rate(retainedBytes - (first.slot.retainedBytes ?? 0));
    return {
      level: this.#level(slot, retainedBytes, budgetBytes),
      walStatus: slot.walStatus,
      invalidation: slot.invalidation,
      retainedBytes,
      budgetBytes,
      safeBytes,
      walBytesPerSecond: rate(Number(wal.lsn - first.wal.lsn)),
      secondsLeft: safeBytes !== null && growth > 0 ? safeBytes / growth : null,
    };
  }

  #level(slot: SlotInfo, retained: number, budget: number | null): BudgetLevel {
    if (slot.invalidation !== null) return 'lost';
    // The next checkpoint takes it, whatever we count.
    if (slot.walStatus === 'unreserved') return 'critical';
    if (budget === null) return 'ok';
    const share = retained / budget;
    const { warnAt, criticalAt } = this.#config;
    return share >= criticalAt ? 'critical' : share >= warnAt ? 'warning' : share >= noticeAt(warnAt) ? 'notice' : 'ok';
  }
}

function noticeAt(warnAt: number): number {
  return warnAt / 2;
}

/** Null where nothing bounds what a slot may retain, but the disk. */
function budgetOf({ bytes }: WalBudgetConfig, { keepBytes }: WalUse): number | null {
  if (bytes === undefined) return keepBytes;
  return keepBytes === null ? bytes : Math.min(bytes, keepBytes);
}

function safeOf(budget: number, retained: number, slot: SlotInfo): number {
  return Math.max(0, Math.min(budget - retained, slot.safeWalBytes ?? Number.POSITIVE_INFINITY));
}

/** What may be held back on purpose so that holding back alone never raises an alarm. */
export function retainableBytes(config: WalBudgetConfig, wal: WalUse): number {
  const budget = budgetOf(config, wal);
  return budget === null ? Number.POSITIVE_INFINITY : budget * noticeAt(config.warnAt) * 0.9;
}
