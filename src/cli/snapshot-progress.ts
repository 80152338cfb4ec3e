import { isWaiting, type SnapshotRecord } from '../postgres/snapshots.ts';
import { secondsLeft } from '../snapshot/snapshot.ts';
import type { Output } from './context.ts';
import { formatBytes, formatCount, formatDuration, printable } from './output.ts';

const CLEAR_LINE = '\r\u001b[2K';
/** Elsewhere than on a terminal, a line for every so much. */
const LINE_INTERVAL_MS = 5000;

/** Shows how far snapshots are that another process makes: one line that is drawn again, with rate and time left. */
export class SnapshotReporter {
  readonly #output: Output;
  readonly #seen = new Map<string, { rows: number; at: number; rate: number }>();
  #lineAt = 0;
  readonly #lines = new Map<string, string>();

  constructor(output: Output) {
    this.#output = output;
  }

  note(record: SnapshotRecord): void {
    const { id, rows, bytes, state, finishedAt } = record;
    const now = Date.now();
    const before = this.#seen.get(id) ?? { rows, at: now, rate: 0 };
    const seconds = (now - before.at) / 1000;
    const rate = seconds > 1 ? (rows - before.rows) / seconds : before.rate;
    this.#seen.set(id, seconds > 1 || !this.#seen.has(id) ? { rows, at: now, rate } : before);
    const toGo = secondsLeft(record, rate);
    const left = toGo === null ? '' : `, ${formatDuration(toGo)} left`;
    const speed = rate > 0 ? `, ${formatCount(rate)}/s` : '';
    const waits = isWaiting(record) ? `; ${printable(record.error ?? '')}` : '';
    if (finishedAt) this.#lines.delete(id);
    else
      this.#lines.set(
        id,
        `${printable(`${record.schema}.${record.table}`)} ${state} ${formatCount(rows)} rows, ${formatBytes(bytes)}${speed}${left}${waits}`,
      );
    this.#draw(now);
  }

  /** Takes the line away. */
  end(): void {
    if (this.#output.isTTY) this.#output.write(CLEAR_LINE);
  }

  #draw(now: number): void {
    const text = [...this.#lines.values()].join('; ');
    if (this.#output.isTTY) this.#output.write(`${CLEAR_LINE}${text.slice(0, (this.#output.columns ?? 80) - 1)}\r`);
    else if (text && now - this.#lineAt >= LINE_INTERVAL_MS) {
      if (this.#lineAt > 0) this.#output.write(`${text}\n`);
      this.#lineAt = now;
    }
  }
}
