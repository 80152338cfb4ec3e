import type { StepName } from './events.ts';

const BAR_WIDTH = 30;

export function milliseconds(value: number): string {
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

export function bar(done: number, total: number): string {
  const share = Math.min(done / Math.max(total, 1), 1);
  const filled = Math.floor(share * BAR_WIDTH);
  return `${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ${String(Math.floor(share * 100)).padStart(3)} %`;
}

/** Logarithmic: milliseconds stay visible beside an outage of seconds. */
export function sparkline(values: readonly number[]): string {
  return values
    .map((lag) => '▁▂▃▄▅▆▇█'[Math.min(7, Math.max(0, Math.floor(Math.log10(Math.max(lag, 1)) * 2)))])
    .join('');
}

/** What each step shows, and why it matters. */
export const STEPS: Readonly<Record<StepName, readonly [title: string, why: string]>> = {
  source: [
    'A shop in PostgreSQL',
    'A real server, and types that are easily got wrong: exact money, microseconds, JSON, arrays, bytes, ranges.',
  ],
  copy: [
    'The first copy into DuckDB',
    'A replication slot comes first, then every row as of that very point: nothing falls in between.',
  ],
  live: [
    'Live changes',
    'Orders, payments, returns, prices, stock moves. Lag is the time from a commit to its being visible in DuckDB.',
  ],
  'catch-up': ['The shop closes', 'What is still under way is applied, and the pipeline stops in order.'],
  compare: [
    'Every row compared',
    'Both sides are read in the order of their keys; digests are SHA-256 over the canonical text of every value.',
  ],
};
