import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import ts from 'typescript';
import type { ConfigInput } from '../src/config/schema.ts';
import { type Arena, type Contender, createSlot, PUBLICATION } from './contender.ts';
import { TopicWatch } from './kafka-topic.ts';
import { type Command, measure, type Output } from './measure.ts';
import { verifyDuckdb, verifyTopic } from './verify.ts';

const ROOT = resolve(import.meta.dirname, '..');
/** What users run: compiled, by plain Node. tsx would add its own CPU. */
const MAIN = join(ROOT, 'dist/waltide.cjs');
const SETUP_TIMEOUT_MS = 120_000;

/** Compiles `dist`, so that a benchmark never measures old code. */
export async function build(): Promise<void> {
  await promisify(execFile)('npx', ['tsc', '-p', 'tsconfig.build.json'], { cwd: ROOT });
}

/** Decodes to typed events and throws them away. */
export function waltideCapture(): Contender {
  const slotOf = (round: number) => `bench_capture_${round}`;
  return {
    id: 'capture',
    label: 'Waltide capture only',
    unavailable: () => '',
    prepare: (arena, round) => createSlot(arena.client, slotOf(round)),
    async run(arena, round, goal) {
      const slot = slotOf(round);
      const script = await compileCaptureOnly();
      const args = [script, arena.url, slot, PUBLICATION, goal.endLsn];
      const name = `capture-${round}`;
      const { sample, output } = await measure(arena, {
        ...{ name, command: process.execPath, args, slot },
        ...{ done: null, exits: true, usesBroker: false, doneAt: captureDoneAt },
      });
      const counted = JSON.parse(output.stdout) as { inserts: number; updates: number };
      if (counted.inserts !== goal.inserts || counted.updates !== goal.updates) {
        throw new Error(`It saw ${output.stdout.trim()}, not ${goal.inserts} inserts and ${goal.updates} updates.`);
      }
      return sample;
    },
  };
}

export function waltideKafka(): Contender {
  const configOf = (arena: Arena, round: number): ConfigInput => ({
    ...common(arena, `kafka_${round}`),
    transport: { type: 'kafka', brokers: arena.kafka!.brokers, topicPrefix: `waltide${round}` },
  });
  return {
    id: 'kafka',
    label: 'Waltide → Kafka',
    unavailable: () => '',
    prepare: (arena, round) => setup(arena, `kafka_${round}`, configOf(arena, round)),
    async run(arena, round, goal) {
      const topic = new TopicWatch(arena.kafka!.brokers, `waltide${round}.public.bench`);
      await topic.connect();
      try {
        // Two more: the copy of the empty table is a beginning and an end.
        const done = async () => (await topic.records()) > goal.events + 1;
        const { sample } = await measure(arena, { ...runCommand(arena, `kafka_${round}`, true), done });
        await verifyTopic(topic, goal);
        return sample;
      } finally {
        await topic.disconnect();
      }
    },
  };
}

export interface Variant {
  readonly id: string;
  readonly label: string;
  readonly transport: { readonly exactlyOnce?: boolean; readonly transactions?: { readonly enabled: boolean } };
}

export const VARIANTS: readonly Variant[] = [
  { id: 'plain', label: 'Kafka, at least once', transport: {} },
  { id: 'marks', label: 'with the transaction topic', transport: { transactions: { enabled: true } } },
  { id: 'once', label: 'exactly once', transport: { exactlyOnce: true } },
  {
    id: 'both',
    label: 'exactly once, with the transaction topic',
    transport: { exactlyOnce: true, transactions: { enabled: true } },
  },
];

/** To Kafka in several ways, measured alike: offsets would count the markers of Kafka's transactions as well. */
export function waltideKafkaUntilCaughtUp({ id, label, transport }: Variant): Contender {
  return {
    id,
    label,
    unavailable: () => '',
    prepare: (arena, round) =>
      setup(arena, `${id}_${round}`, {
        ...common(arena, `${id}_${round}`),
        transport: { type: 'kafka', brokers: arena.kafka!.brokers, topicPrefix: `${id}${round}`, ...transport },
      }),
    async run(arena, round) {
      const { sample } = await measure(arena, { ...runCommand(arena, `${id}_${round}`, true), doneAt: caughtUpAt });
      return sample;
    },
  };
}

export function waltideDuckdb(): Contender {
  const pathOf = (arena: Arena, round: number) => join(arena.dir, `bench-${round}.duckdb`);
  return {
    id: 'duckdb',
    label: 'Waltide → DuckDB, in-process',
    unavailable: () => '',
    prepare: (arena, round) =>
      setup(arena, `duckdb_${round}`, {
        ...common(arena, `duckdb_${round}`),
        sinks: [{ name: 'bench', type: 'duckdb', path: pathOf(arena, round) }],
      }),
    async run(arena, round, goal) {
      const { sample } = await measure(arena, { ...runCommand(arena, `duckdb_${round}`, false), doneAt: caughtUpAt });
      await verifyDuckdb(pathOf(arena, round), goal);
      return sample;
    },
  };
}

/** Everything a run needs besides transport and sinks. `name` is unique in the benchmark. */
export function common(
  arena: Pick<Arena, 'url' | 'dir'>,
  name: string,
): Pick<ConfigInput, 'source' | 'stateDir' | 'metrics' | 'log'> {
  return {
    source: { url: arena.url, slot: `bench_${name}`, publication: `bench_${name}`, tables: ['public.bench'] },
    stateDir: join(arena.dir, `state-${name}`),
    metrics: { enabled: false },
    log: { level: 'info', format: 'json' },
  };
}

/** Writes the config file and lets Waltide make its slot and finish the copy of the empty table. */
export async function setup(arena: Arena, name: string, config: ConfigInput): Promise<void> {
  const file = await writeConfig(arena.dir, name, config);
  if (!existsSync(MAIN)) throw new Error('dist/waltide.cjs is not there: run `npm run build`.');
  await promisify(execFile)(process.execPath, [MAIN, 'setup', '--config', file], {
    cwd: arena.dir,
    timeout: SETUP_TIMEOUT_MS,
  });
}

export async function writeConfig(dir: string, name: string, config: ConfigInput): Promise<string> {
  const file = join(dir, `waltide-${name}.json`);
  await writeFile(file, JSON.stringify(config, null, 2));
  return file;
}

/** How a user's shell or our own latency benchmark starts it. */
export function waltideArgs(command: string, file: string, ...more: string[]): string[] {
  return [MAIN, command, '--config', file, ...more];
}

function runCommand(arena: Arena, name: string, kafka: boolean): Command {
  const role = kafka ? ['--role', 'capture'] : [];
  const args = waltideArgs('run', join(arena.dir, `waltide-${name}.json`), '--until-caught-up', ...role);
  return { name, command: process.execPath, args, slot: `bench_${name}`, done: null, exits: true, usesBroker: kafka };
}

/** `caught up` in the log is the moment of the last durable event; closing files and connections comes after. */
function caughtUpAt({ stderr }: Output): number | null {
  const line = stderr.split('\n').find((text) => text.includes('"caught up'));
  return line ? Date.parse((JSON.parse(line) as { time: string }).time) : null;
}

function captureDoneAt({ stdout }: Output): number {
  return (JSON.parse(stdout) as { doneAt: number }).doneAt;
}

/** capture-only.ts as plain JavaScript that imports the compiled sources. */
export async function compileCaptureOnly(): Promise<string> {
  const source = await readFile(join(ROOT, 'bench/capture-only.ts'), 'utf8');
  const target = { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true };
  const { outputText } = ts.transpileModule(source, { compilerOptions: target });
  // By absolute paths: .cache may be a link that work trees share.
  const script = outputText.replaceAll(/from '\.\.\/src\/(.*)\.ts'/g, `from '${join(ROOT, 'dist')}/$1.js'`);
  const dir = join(ROOT, '.cache/bench');
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, 'capture-only.mjs'), script);
  return join(dir, 'capture-only.mjs');
}
