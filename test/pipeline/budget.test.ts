import { describe, expect, it } from 'vitest';
import { type BudgetReading, retainableBytes, WalBudget } from '../../src/pipeline/budget.ts';
import type { SlotInfo } from '../../src/postgres/slot.ts';

const CONFIG = { warnAt: 0.6, criticalAt: 0.85, onBudget: 'alert', intervalMs: 1000 } as const;

function reading(
  atMs: number,
  retainedBytes: number,
  rest: Partial<SlotInfo> = {},
  keepBytes: number | null = null,
): BudgetReading {
  const slot: SlotInfo = {
    name: 's',
    plugin: 'pgoutput',
    database: 'd',
    active: true,
    activePid: 1,
    confirmedFlushLsn: 0n,
    restartLsn: 0n,
    walStatus: 'reserved',
    temporary: false,
    invalidation: null,
    inactiveSince: null,
    failover: false,
    synced: false,
    retainedBytes,
    safeWalBytes: null,
    ...rest,
  };
  return { atMs, slot, wal: { lsn: BigInt(atMs * 10), keepBytes } };
}

describe('the WAL budget', () => {
  it('has levels by share, and none without a bound', () => {
    const budget = new WalBudget({ ...CONFIG, bytes: 1000 });
    const levels = [299, 300, 600, 850, 2000].map((bytes, i) => budget.assess(reading(i, bytes)).level);
    expect(levels).toEqual(['ok', 'notice', 'warning', 'critical', 'critical']);
    expect(new WalBudget(CONFIG).assess(reading(0, 1e12))).toMatchObject({
      level: 'ok',
      budgetBytes: null,
      safeBytes: null,
    });
  });

  it('takes the smaller of what the server and what the configuration allow', () => {
    expect(new WalBudget({ ...CONFIG, bytes: 1000 }).assess(reading(0, 10, {}, 500)).budgetBytes).toBe(500);
    expect(new WalBudget({ ...CONFIG, bytes: 100 }).assess(reading(0, 10, {}, 500)).budgetBytes).toBe(100);
    expect(new WalBudget(CONFIG).assess(reading(0, 10, { safeWalBytes: 333 }, 500))).toMatchObject({
      budgetBytes: 500,
      safeBytes: 333,
    });
  });

  it('tells when the budget is used up, from how fast what is retained grows', () => {
    const budget = new WalBudget({ ...CONFIG, bytes: 10_000 });
    expect(budget.assess(reading(0, 1000)).secondsLeft).toBeNull();
    expect(budget.assess(reading(10_000, 2000))).toMatchObject({ secondsLeft: 80, walBytesPerSecond: 10_000 });
    expect(budget.assess(reading(20_000, 500)).secondsLeft).toBeNull();
  });

  it('forgets rates older than a minute', () => {
    const budget = new WalBudget({ ...CONFIG, bytes: 1_000_000 });
    budget.assess(reading(0, 0));
    budget.assess(reading(50_000, 500_000));
    budget.assess(reading(100_000, 500_000));
    expect(budget.assess(reading(150_000, 500_000)).secondsLeft).toBeNull();
  });

  it('believes the server: unreserved is critical, invalidated is lost', () => {
    const budget = new WalBudget(CONFIG);
    expect(budget.assess(reading(0, 1, { walStatus: 'unreserved' })).level).toBe('critical');
    expect(budget.assess(reading(1, 1, { invalidation: 'wal_removed' }))).toMatchObject({
      level: 'lost',
      invalidation: 'wal_removed',
    });
  });

  it('leaves less to hold back on purpose than would raise a level', () => {
    expect(retainableBytes({ ...CONFIG, bytes: 1000 }, { lsn: 0n, keepBytes: null })).toBeLessThan(300);
    expect(retainableBytes(CONFIG, { lsn: 0n, keepBytes: null })).toBe(Number.POSITIVE_INFINITY);
  });
});
