import { formatBytes, formatCount, formatDuration } from '../output.ts';
import { type Line, line, type Span, type Style, span, sparkline, table, wrap } from './line.ts';
import { courseKey, type DashboardState, type Picture, tableKey } from './model.ts';
import type { SinkReading, StatusReading } from './reading.ts';

/* The parts of the dashboard, each as lines. Pure. */

const SPARK_WIDTH = 16;
const UNKNOWN = '–';

function title(text: string, rest = ''): Line {
  return line(span(text, 'bold'), rest && '  ', span(rest, 'dim'));
}

function duration(seconds: number | null): string {
  return seconds === null || !Number.isFinite(seconds) ? UNKNOWN : formatDuration(Math.max(0, seconds));
}

/** How long ago, to whole units; nothing where that is not known. */
function ago(at: string, nowMs: number): string {
  const seconds = Math.round((nowMs - Date.parse(at)) / 1000);
  return Number.isFinite(seconds) ? `${duration(Math.max(1, seconds))} ago` : '';
}

const right = (title: string, drop?: number) => ({ title, align: 'right' as const, ...(drop && { drop }) });
const count = (value: number, style: Style | null = null): Span => span(formatCount(value), style);
/** A number that should be 0. */
const badCount = (value: number): Span => count(value, value > 0 ? 'red' : null);

export function processLines({ processes, silent }: Picture, nowMs: number): Line[] {
  return [
    ...processes.flatMap(({ name, status }) => oneProcess(name, status, nowMs)),
    ...silent.map((reason) => line(span('● silent', 'yellow'), '  ', reason)),
  ];
}

function stateOf({ state, stuck, failure, ready, sinks }: StatusReading): Span {
  if (failure !== null) return span('● failed', 'red');
  if (stuck.length > 0) return span('● stuck', 'red');
  const bad = sinks.some(({ stopped, breaker }) => stopped.length > 0 || breaker !== 'closed');
  return span(`● ${state}`, ready && !bad ? 'green' : 'yellow');
}

function oneProcess(name: string, status: StatusReading, nowMs: number): Line[] {
  const { pid, role, version, startedAt, memory, source, stuck, failure, copy, transport } = status;
  const upSeconds = (nowMs - Date.parse(startedAt)) / 1000;
  const facts = [name || `pid ${pid}`, `role ${role}`, `up ${duration(upSeconds)}`, formatBytes(memory.rssBytes)];
  const lines = [line(stateOf(status), `  ${facts.join('  ')}  `, span(`waltide ${version}`, 'dim'))];
  for (const reason of [...(failure === null ? [] : [failure]), ...stuck]) lines.push(line('  ', span(reason, 'red')));
  if (source) {
    const connected = source.connected ? 'connected' : 'not connected';
    lines.push(
      line(
        `  source ${source.database} by ${source.slot}, `,
        span(connected, source.connected ? null : 'yellow'),
        `; ${formatCount(source.eventsPerSecond)}/s, ${formatCount(source.events)} events, lag ${formatBytes(source.lagBytes)}`,
        `, ${transport.type}, ${formatBytes(transport.bytesInFlight)} in flight`,
      ),
    );
    if (source.budget) lines.push(budgetLine(source.budget));
  }
  if (transport.deadLetters.open > 0)
    lines.push(line('  ', span('dead letters', 'red'), ` before any sink: ${formatCount(transport.deadLetters.open)}`));
  for (const { table: name, rows, estimatedRows, secondsLeft, state } of copy.filter(({ done }) => !done)) {
    const share = estimatedRows > rows ? ` of about ${formatCount(estimatedRows)}` : '';
    const left = secondsLeft === null ? '' : `, ${duration(secondsLeft)} left`;
    lines.push(line('  ', span('copying', 'cyan'), ` ${name}: ${formatCount(rows)} rows${share}${left}, ${state}`));
  }
  return lines;
}

const LEVELS: Record<string, Style> = { ok: 'green', notice: 'cyan', warning: 'yellow', critical: 'red', lost: 'red' };

function budgetLine(budget: NonNullable<NonNullable<StatusReading['source']>['budget']>): Line {
  const { level, retainedBytes, budgetBytes, secondsLeft } = budget;
  const of = budgetBytes === null ? '' : ` of ${formatBytes(budgetBytes)}`;
  const left = secondsLeft === null ? '' : `, used up in ${duration(secondsLeft)}`;
  const style = Object.hasOwn(LEVELS, level) ? LEVELS[level]! : null;
  return line('  WAL budget ', span(level, style), `: retains ${formatBytes(retainedBytes)}${of}${left}`);
}

export function alertLines({ records }: Picture, width: number, nowMs: number): Line[] {
  const alerts = records?.alerts ?? null;
  if (alerts === null) return [];
  if (alerts.length === 0) return [title('ALERTS', 'none')];
  const rows = alerts.map(({ rule, subject, severity, state, summary, since }) => [
    span(severity, severity === 'critical' ? 'red' : severity === 'warning' ? 'yellow' : 'cyan'),
    span(rule),
    span(subject),
    span(state, state === 'acknowledged' ? 'dim' : null),
    span(ago(since, nowMs)),
    span(summary),
  ]);
  const columns = [
    { title: 'severity' },
    { title: 'alert', least: 10 },
    { title: 'of', least: 8, drop: 1 },
    { title: 'state', drop: 3 },
    { title: 'since', drop: 2 },
    { title: 'what', least: 30 },
  ];
  return [title('ALERTS', formatCount(alerts.length)), ...table(columns, rows, width)];
}

export function sinkLines(state: DashboardState, { processes }: Picture, width: number): Line[] {
  const all = processes.flatMap(({ name, status }) => status.sinks.map((sink) => ({ process: name, sink })));
  if (all.length === 0) return [];
  // A course that has only begun says nothing.
  const courses = all.some(
    ({ process, sink }) => (state.courses.get(courseKey(process, sink.name))?.rates.length ?? 0) > 1,
  );
  const rows = all.map(({ process, sink }) => {
    const { rates, lags } = state.courses.get(courseKey(process, sink.name)) ?? { rates: [], lags: [] };
    return [
      ...[span(sink.name), breakerOf(sink), span(formatBytes(sink.lagBytes)), span(duration(sink.lagSeconds))],
      ...(courses ? [span(sparkline(lags, SPARK_WIDTH), 'dim')] : []),
      count(sink.eventsPerSecond),
      ...(courses ? [span(sparkline(rates, SPARK_WIDTH), 'cyan')] : []),
      ...[count(sink.events), count(sink.pendingEvents), badCount(sink.deadLetters.open), count(sink.retries)],
    ];
  });
  const columns = [
    ...[{ title: 'sink', least: 8 }, { title: 'state' }, right('lag'), right('seconds')],
    ...(courses ? [{ title: 'lag until now', drop: 7 }] : []),
    right('events/s'),
    ...(courses ? [{ title: 'rate until now', drop: 4 }] : []),
    ...[right('events', 3), right('pending', 5), right('letters'), right('retries', 6)],
  ];
  const lines = [title('SINKS'), ...table(columns, rows, width)];
  for (const { sink } of all) {
    if (sink.lastError !== null)
      lines.push(...wrap(line('  ', span('last error', 'red'), ` of ${sink.name}: ${sink.lastError}`), width));
    for (const { name, reason } of sink.stopped)
      lines.push(...wrap(line('  ', span('stopped', 'red'), ` in ${sink.name}: ${name}: ${reason}`), width));
  }
  return lines;
}

function breakerOf({ breaker, stopped, lastError }: SinkReading): Span {
  if (breaker !== 'closed') return span(`breaker ${breaker}`, 'red');
  if (lastError !== null) return span('failing', 'red');
  return stopped.length > 0 ? span('tables stopped', 'yellow') : span('good', 'green');
}

/** Tables that need somebody come first, then those of which most comes in. */
export function tableLines(state: DashboardState, { processes }: Picture, width: number): Line[] {
  const all = processes.flatMap(({ name: process, status }) =>
    status.sinks.flatMap((sink) => tablesOf(sink, status).map((one) => ({ process, sink: sink.name, ...one }))),
  );
  if (all.length === 0) return [];
  const rank = ({ stopped, letters }: (typeof all)[number]): number => (stopped ? 2 : letters > 0 ? 1 : 0);
  const sorted = all.sort((a, b) => rank(b) - rank(a) || compare(a.name, b.name) || compare(a.sink, b.sink));
  const rows = sorted.map(({ process, sink, name, events, lagSeconds, letters, stopped, copying }) => {
    const rate = state.tableRates.get(tableKey(process, sink, name));
    return [
      span(name),
      span(sink),
      stopped ? span('stopped', 'red') : copying ? span('copying', 'cyan') : span('streaming', 'green'),
      span(duration(lagSeconds)),
      span(rate === undefined ? UNKNOWN : formatCount(rate)),
      count(events),
      badCount(letters),
    ];
  });
  const columns = [
    { title: 'table', least: 16 },
    { title: 'sink', least: 6, drop: 2 },
    { title: 'state', drop: 1 },
    ...[right('lag'), right('events/s'), right('events', 3), right('letters')],
  ];
  return [title('TABLES', formatCount(all.length)), ...table(columns, rows, width)];
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

function tablesOf({ tables, stopped, deadLetters }: SinkReading, { copy }: StatusReading) {
  const applied = new Map(tables.map((one) => [one.name, one]));
  const letters = new Map(deadLetters.tables.map((one) => [one.name, one.open]));
  const halted = new Set(stopped.map(({ name }) => name));
  const copying = new Set(copy.filter(({ done }) => !done).map((one) => one.table));
  return [...new Set([...applied.keys(), ...letters.keys(), ...halted, ...copying])].map((name) => ({
    ...{ name, events: applied.get(name)?.events ?? 0, lagSeconds: applied.get(name)?.lagSeconds ?? null },
    letters: letters.get(name) ?? 0,
    ...{ stopped: halted.has(name), copying: copying.has(name) },
  }));
}

const RUN_STATES: Record<string, Style> = { success: 'green', error: 'red', in_progress: 'cyan' };

function runState(status: string): Span {
  const word = status === 'in_progress' ? 'running' : status;
  return span(word, Object.hasOwn(RUN_STATES, status) ? RUN_STATES[status]! : null);
}

export function syncTypeLines({ records, recordsError }: Picture, width: number, nowMs: number): Line[] {
  if (records === null)
    return recordsError === null
      ? []
      : [title('RUNS'), ...wrap(line('  ', span('not known', 'yellow'), `: ${recordsError}`), width)];
  const instances = `${formatCount(records.instances)} ${records.instances === 1 ? 'instance' : 'instances'}`;
  if (records.statistics.length === 0) return [title('SYNC TYPES, LAST 24 H', `no runs, ${instances}`)];
  const rows = records.statistics.map((one) => [
    span(one.sync_type),
    count(one.runs),
    count(one.in_progress),
    span(one.success_rate === null ? UNKNOWN : `${one.success_rate.toFixed(1)} %`),
    badCount(one.errors),
    span(duration(one.duration_seconds_average)),
    count(one.records),
    runState(one.last_status),
    span(ago(one.last_at, nowMs)),
  ]);
  const columns = [
    { title: 'sync type', least: 24 },
    right('runs'),
    right('running', 3),
    right('success'),
    right('errors', 2),
    right('average'),
    right('records', 4),
    { title: 'last' },
    { title: 'began', drop: 1 },
  ];
  return [title('SYNC TYPES, LAST 24 H', instances), ...table(columns, rows, width)];
}

export function runLines({ records }: Picture, width: number, nowMs: number): Line[] {
  if (records === null || records.runs.length === 0) return [];
  const rows = records.runs.map((run) => [
    span(run.id),
    span(run.sync_type),
    runState(run.status),
    count(run.records_processed),
    span(duration(run.duration_seconds)),
    span(ago(run.sync_timestamp, nowMs)),
    span(run.error_message ?? '', 'red'),
  ]);
  const columns = [
    { title: 'run', align: 'right' as const },
    { title: 'sync type', least: 14 },
    { title: 'status' },
    { title: 'records', align: 'right' as const },
    { title: 'took', align: 'right' as const, drop: 1 },
    { title: 'began', drop: 2 },
    { title: 'error', least: 10 },
  ];
  return [title('LAST RUNS'), ...table(columns, rows, width)];
}
