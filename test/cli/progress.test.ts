import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Output } from '../../src/cli/context.ts';
import { CopyReporter } from '../../src/cli/progress.ts';
import type { SnapshotProgress } from '../../src/snapshot/snapshot.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function reporter(isTTY: boolean): { reporter: CopyReporter; lines: Record<string, unknown>[]; text: () => string } {
  let text = '';
  const lines: Record<string, unknown>[] = [];
  const log = pino(
    { base: null },
    { write: (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>) },
  );
  const write = (part: string): boolean => {
    text += part;
    return true;
  };
  const output: Output = { isTTY, columns: 80, write, once: () => undefined };
  return { reporter: new CopyReporter(output, log), lines, text: () => text };
}

const copy = (rows: number, done = false, estimatedRows = 1000): SnapshotProgress => ({
  table: 'public.a',
  kind: 'initial',
  state: done ? 'completed' : 'running',
  rows,
  bytes: rows * 10,
  estimatedRows,
  done,
});

test('a bar on a terminal, never full before the end, never wider than the screen, taken away at the end', () => {
  const { reporter: progress, text } = reporter(true);
  progress.note(copy(1));
  for (const rows of [500, 2000]) {
    vi.advanceTimersByTime(1000);
    progress.note(copy(rows));
  }
  expect(text()).toContain('50 %');
  expect(text()).toContain('500 rows, 4.9 kB, 500/s');
  expect(text()).toContain('1.0 s left');
  expect(text()).toContain('99 %');
  for (const line of text().split('\r')) expect(line.replace('\u001b[2K', '').length).toBeLessThan(80);
  progress.note(copy(2000, true));
  progress.end();
  expect(text()).toMatch(/✓ public\.a {2}2,000 rows[\s\S]*copied 2,000 rows of 1 table in 2\.0 s\n$/);
});

test('log lines every few seconds elsewhere', () => {
  const { reporter: progress, lines, text } = reporter(false);
  for (let i = 0; i <= 100; i++) {
    progress.note(copy(i * 10, false, 2000));
    vi.advanceTimersByTime(100);
  }
  progress.note(copy(1010, true));
  progress.end();
  expect(text()).toBe('');
  expect(lines.map((line) => line.msg)).toEqual(['copying', 'copying', 'table copied']);
  expect(lines[0]).toMatchObject({ table: 'public.a', rows: 500, bytes: 5000, rowsPerSecond: 100, secondsLeft: 15 });
});

test('nothing copied, nothing said', () => {
  const { reporter: progress, text } = reporter(true);
  progress.end();
  expect(text()).toBe('');
});
