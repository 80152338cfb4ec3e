import type { Machine } from './arena.ts';
import type { Sample } from './contender.ts';

/** A contender's medians over all rounds. */
export interface Result {
  readonly id: string;
  readonly label: string;
  /** Empty where `error` says why. */
  readonly samples: readonly Sample[];
  readonly error: string | null;
}

export interface Figures {
  readonly eventsPerSecond: number;
  readonly eventsPerSecondWithStart: number;
  readonly cpuMicrosPerEvent: number;
  readonly cpuMicrosPerEventWithStart: number;
  readonly peakRssBytes: number;
  readonly serverMicrosPerEvent: number;
  readonly brokerMicrosPerEvent: number | null;
  readonly startSeconds: number;
}

export interface Target {
  readonly name: string;
  readonly value: number;
  readonly wanted: number;
  readonly atLeast: boolean;
  readonly unit: string;
}

/** Null where no round of it succeeded. */
export function figures(result: Result, events: number): Figures | null {
  if (result.samples.length === 0) return null;
  const of = (pick: (sample: Sample) => number) => median(result.samples.map(pick));
  const broker = result.samples[0]!.brokerCpuSeconds !== null;
  return {
    eventsPerSecond: events / of((sample) => sample.seconds),
    eventsPerSecondWithStart: events / of((sample) => sample.secondsWithStart),
    cpuMicrosPerEvent: (of((sample) => sample.cpuSeconds) * 1e6) / events,
    cpuMicrosPerEventWithStart: (of((sample) => sample.cpuSecondsWithStart) * 1e6) / events,
    peakRssBytes: of((sample) => sample.peakRssBytes),
    serverMicrosPerEvent: (of((sample) => sample.serverCpuSeconds) * 1e6) / events,
    brokerMicrosPerEvent: broker ? (of((sample) => sample.brokerCpuSeconds ?? 0) * 1e6) / events : null,
    startSeconds: of((sample) => sample.secondsWithStart - sample.seconds),
  };
}

/** The ratios that the project promises, as far as both sides of each were measured. */
export function targets(by: ReadonlyMap<string, Figures>): Target[] {
  const found: Target[] = [];
  const ratio = (
    name: string,
    a: string,
    b: string,
    pick: (of: Figures) => number,
    wanted: number,
    atLeast: boolean,
  ) => {
    const [above, below] = [by.get(a), by.get(b)];
    if (above && below) found.push({ name, value: pick(above) / pick(below), wanted, atLeast, unit: '×' });
  };
  const speed = (of: Figures) => of.eventsPerSecond;
  const cpu = (of: Figures) => of.cpuMicrosPerEvent;
  ratio('capture ÷ pg_recvlogical, events/s', 'capture', 'recvlogical', speed, 1.8, true);
  ratio('capture ÷ pg_recvlogical, CPU per event', 'capture', 'recvlogical', cpu, 0.5, false);
  ratio('→ Kafka ÷ Debezium, events/s', 'kafka', 'debezium', speed, 4, true);
  ratio('→ Kafka ÷ Debezium, CPU per event', 'kafka', 'debezium', cpu, 0.2, false);
  ratio('→ Kafka ÷ Debezium, peak RSS', 'kafka', 'debezium', (of) => of.peakRssBytes, 0.25, false);
  ratio('→ DuckDB ÷ pg_recvlogical, events/s', 'duckdb', 'recvlogical', speed, 1.2, true);
  for (const id of ['kafka', 'duckdb']) {
    const measured = by.get(id);
    if (measured)
      found.push({
        name: `start to streaming, ${id}`,
        value: measured.startSeconds,
        wanted: 2,
        atLeast: false,
        unit: ' s',
      });
  }
  return found;
}

export function passes({ value, wanted, atLeast }: Target): boolean {
  return atLeast ? value >= wanted : value <= wanted;
}

export function printMachine(machine: Machine): void {
  const memory = Math.round(machine.memoryBytes / 2 ** 30);
  console.log(
    `${machine.cores} cores (${machine.cpu}), ${memory} GiB, ${machine.system}, Node ${machine.node}, PostgreSQL ${machine.postgres}`,
  );
  if (machine.loadBefore > 0.5) {
    console.log(
      `WARNING: the load was ${machine.loadBefore.toFixed(2)} before we began: other work distorts every figure below.`,
    );
  }
}

export function printResults(results: readonly Result[], events: number): void {
  const rows = [
    [
      '',
      'events/s',
      '(with start)',
      'CPU µs/event',
      '(with start)',
      'peak RSS',
      'walsender µs',
      'broker µs',
      'start s',
    ],
  ];
  for (const result of results) {
    const of = figures(result, events);
    if (!of) {
      rows.push([result.label, `failed: ${result.error?.split('\n')[0] ?? ''}`]);
      continue;
    }
    rows.push([
      result.label,
      thousands(of.eventsPerSecond),
      thousands(of.eventsPerSecondWithStart),
      of.cpuMicrosPerEvent.toFixed(1),
      of.cpuMicrosPerEventWithStart.toFixed(1),
      `${Math.round(of.peakRssBytes / 2 ** 20)} MiB`,
      of.serverMicrosPerEvent.toFixed(1),
      of.brokerMicrosPerEvent?.toFixed(1) ?? '–',
      of.startSeconds.toFixed(2),
    ]);
  }
  printTable(rows);
}

export function printTargets(found: readonly Target[]): void {
  const rows = found.map((target) => [
    target.name,
    `${target.value.toFixed(2)}${target.unit}`,
    `${target.atLeast ? 'at least' : 'at most'} ${target.wanted}${target.unit}`,
    passes(target) ? 'PASS' : 'FAIL',
  ]);
  printTable(rows);
}

/** First column left, the others right, widths by the widest cell; a row with one other cell is a message. */
export function printTable(rows: readonly (readonly string[])[]): void {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      if (row.length !== 2) widths[i] = Math.max(widths[i] ?? 0, cell.length);
      else if (i === 0) widths[0] = Math.max(widths[0] ?? 0, cell.length);
    });
  }
  for (const row of rows) {
    console.log(
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    );
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function thousands(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** Nearest rank, of ascending values. */
export function percentile(values: readonly number[], fraction: number): number {
  return values[Math.max(0, Math.ceil(values.length * fraction) - 1)] ?? Number.NaN;
}

export function ascending(values: number[]): number[] {
  return values.sort((a, b) => a - b);
}
