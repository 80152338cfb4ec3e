import type { Log } from '../log.ts';
import { type SnapshotProgress, secondsLeft } from '../snapshot/snapshot.ts';
import type { Output } from './context.ts';
import { formatBytes, formatCount, formatDuration, printable } from './output.ts';

const REDRAW_MS = 100;
const LOG_INTERVAL_MS = 5000;
const BAR_WIDTH = 24;
const CLEAR_LINE = '\r\u001b[2K';

/**
 * Tells how the copy goes: a bar on a terminal, log lines with rate and time left elsewhere. Planner's estimates are
 * guesses, so a bar never claims to be full before the table is done.
 */
export class CopyReporter {
  readonly #output: Output;
  readonly #log: Log;
  /** When each table's was first seen under way. */
  readonly #started = new Map<string, number>();
  #toldAt = 0;
  #drawn = false;
  #tables = 0;
  #rows = 0;
  #firstAt = 0;

  constructor(output: Output, log: Log) {
    this.#output = output;
    this.#log = log;
  }

  /** For Pipeline's `onCopyProgress`; called often, tells seldom. */
  readonly note = (progress: SnapshotProgress): void => {
    const now = Date.now();
    if (this.#firstAt === 0) {
      this.#firstAt = now;
      this.#toldAt = now;
    }
    if (progress.state === 'paused') return;
    const started = this.#started.get(progress.table) ?? now;
    this.#started.set(progress.table, started);
    const seconds = Math.max((now - started) / 1000, 0.001);
    if (progress.done) {
      this.#started.delete(progress.table);
      // What failed or was cancelled is told by whoever knows why.
      if (progress.state === 'completed') this.#finish(progress, seconds);
      else this.#clear();
      return;
    }
    if (now - this.#toldAt < (this.#output.isTTY ? REDRAW_MS : LOG_INTERVAL_MS)) return;
    this.#toldAt = now;
    if (this.#output.isTTY) this.#draw(progress, seconds);
    else
      this.#log.info(
        {
          table: progress.table,
          rows: progress.rows,
          bytes: progress.bytes,
          rowsPerSecond: Math.round(progress.rows / seconds),
          ...left(progress, seconds),
        },
        'copying',
      );
  };

  /** Takes the bar away and, where anything was copied, says how much. */
  end(): void {
    this.#clear();
    if (this.#tables === 0) return;
    const seconds = (Date.now() - this.#firstAt) / 1000;
    if (this.#output.isTTY)
      this.#output.write(
        `copied ${formatCount(this.#rows)} rows of ${this.#tables} ${this.#tables === 1 ? 'table' : 'tables'} in ${formatDuration(seconds)}\n`,
      );
    this.#tables = 0;
  }

  #finish({ table, rows, bytes }: SnapshotProgress, seconds: number): void {
    this.#tables++;
    this.#rows += rows;
    const rate = rows / seconds;
    if (!this.#output.isTTY) {
      const fields = { table, rows, bytes, rowsPerSecond: Math.round(rate), seconds: Number(seconds.toFixed(1)) };
      this.#log.info(fields, 'table copied');
      return;
    }
    this.#clear();
    this.#output.write(
      `✓ ${printable(table)}  ${formatCount(rows)} rows, ${formatBytes(bytes)} in ${formatDuration(seconds)}\n`,
    );
  }

  #draw(progress: SnapshotProgress, seconds: number): void {
    const { table, rows, bytes, estimatedRows } = progress;
    const share = estimatedRows > 0 ? Math.min(rows / estimatedRows, 0.99) : null;
    const filled = Math.floor((share ?? 0) * BAR_WIDTH);
    const bar =
      share === null
        ? ''
        : ` ${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ${Math.floor(share * 100)
            .toString()
            .padStart(2)} %`;
    const { secondsLeft } = left(progress, seconds);
    const eta = secondsLeft === undefined ? '' : `, ${formatDuration(secondsLeft)} left`;
    const line = `  ${printable(table)}${bar}  ${formatCount(rows)} rows, ${formatBytes(bytes)}, ${formatCount(rows / seconds)}/s${eta}`;
    // A line that wraps could not be taken back. The cursor goes home, so that a log line begins at the left.
    this.#output.write(`${CLEAR_LINE}${line.slice(0, (this.#output.columns ?? 80) - 1)}\r`);
    this.#drawn = true;
  }

  #clear(): void {
    if (this.#drawn) this.#output.write(CLEAR_LINE);
    this.#drawn = false;
  }
}

/** Nothing where there is no estimate, or the table has outgrown it. */
function left({ rows, estimatedRows }: SnapshotProgress, seconds: number): { secondsLeft?: number } {
  const left = secondsLeft({ rows, estimatedRows }, rows / seconds);
  return left === null ? {} : { secondsLeft: left };
}
