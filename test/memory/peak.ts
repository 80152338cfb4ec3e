import { readFileSync } from 'node:fs';
import type { TestDatabase } from '../support/postgres.ts';
import { startWaltide } from '../support/waltide-process.ts';

/** 2 million rows of ordinary width in one transaction: half a gigabyte of WAL. */
export async function largeTransaction(database: TestDatabase, rows = 2_000_000): Promise<void> {
  await database.query(
    `insert into big select i, 'customer ' || i, i / 7.0, jsonb_build_object('k', i, 'note', repeat('x', 40)), now() from generate_series(1, ${rows}) i`,
  );
}

export const BIG_TABLE =
  'create table big (id bigint primary key, name text, amount numeric(12,2), payload jsonb, created_at timestamptz)';

/** Runs the CLI to its end; resolves with its exit code and the peak of its resident memory, as the kernel counted it. */
export async function peakRun(
  args: readonly string[],
): Promise<{ code: number | null; stderr: string; peakMegabytes: number }> {
  const { child, finished } = startWaltide(args);
  let peakKilobytes = 0;
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      peakKilobytes = Math.max(peakKilobytes, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0));
    } catch {
      // It has ended.
    }
  }, 50);
  const { code, stderr } = await finished;
  clearInterval(timer);
  return { code, stderr, peakMegabytes: peakKilobytes / 1024 };
}
