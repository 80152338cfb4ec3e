import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { type ControlFile, readControlFiles } from '../src/api/control-file.ts';
import { API_BASE } from '../src/api/route.ts';
import type { ConfigInput } from '../src/config/schema.ts';
import { haveMaven } from '../test/support/maven.ts';
import { type Arena, createSlot } from './contender.ts';
import { connectArgs } from './debezium.ts';
import { TopicWatch } from './kafka-topic.ts';
import { findPgRecvlogical, pgRecvlogicalArgs } from './pg-recvlogical.ts';
import { common, waltideArgs, writeConfig } from './waltide.ts';

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;
/** Adds at most this much to what is measured, and leaves a core mostly idle. */
const DUCKDB_POLL_MS = 4;

/** A road from a committed row to the eye of a reader. */
export interface Probe {
  readonly id: string;
  readonly label: string;
  /** Of the 99th percentile; null for those that are only there to compare with. */
  readonly targetMs: number | null;
  readonly usesKafka: boolean;
  unavailable(): string;
  /** Starts the road; `seen` is to be called with each row's id as soon as it is visible at the far end. */
  start(arena: Arena, seen: (id: number) => void): Promise<Running>;
}

export interface Running {
  /** Called once the first row is committed, for far ends that exist only then, such as a topic. */
  follow?(): Promise<void>;
  stop(): Promise<void>;
}

/** The least that any receiver can take: the bytes as they arrive. */
export function recvlogicalProbe(): Probe {
  return {
    ...{ id: 'recvlogical', label: 'pg_recvlogical, bytes in a pipe', targetMs: null, usesKafka: false },
    unavailable: () => (findPgRecvlogical() ? '' : 'pg_recvlogical is not installed'),
    async start(arena, seen) {
      const slot = 'latency_recvlogical';
      await createSlot(arena.client, slot);
      const child = spawn(findPgRecvlogical()!, pgRecvlogicalArgs(arena.url, slot, '-'), {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      let rest = '';
      child.stdout.on('data', (data: Buffer) => {
        const text = rest + data.toString('latin1');
        let end = 0;
        for (const match of text.matchAll(/row-(\d+);/g)) {
          seen(Number(match[1]));
          end = match.index + match[0].length;
        }
        // A name cut in two by the pipe is found when its other half comes.
        rest = text.slice(Math.max(end, text.length - 30));
      });
      return { stop: () => end(child) };
    },
  };
}

export function kafkaProbe(): Probe {
  return {
    ...{ id: 'kafka', label: 'Waltide → Kafka → kafkajs consumer', targetMs: 50, usesKafka: true },
    unavailable: () => haveMaven().why,
    async start(arena, seen) {
      const name = 'latency_kafka';
      const transport = { type: 'kafka' as const, brokers: arena.kafka!.brokers, topicPrefix: 'latency' };
      const child = await startWaltide(arena, name, { ...common(arena, name), transport }, ['--role', 'capture']);
      return followTopic(arena, 'latency.public.bench', child, seen);
    },
  };
}

/** The peer, tuned for latency. */
export function debeziumProbe(): Probe {
  return {
    ...{ id: 'debezium', label: 'Debezium → Kafka → kafkajs consumer', targetMs: null, usesKafka: true },
    unavailable: () => haveMaven().why,
    async start(arena, seen) {
      const name = 'latency_debezium';
      await createSlot(arena.client, name);
      const tuning = { heapMb: 1024, pollIntervalMs: 10, tunedFor: 'latency' as const };
      const args = await connectArgs(arena, { name, slot: name, prefix: name, ...tuning });
      const child = launch(arena, name, 'java', args);
      return followTopic(arena, `${name}.public.bench`, child, seen);
    },
  };
}

/** Polls the running process through its control address, which is what `waltide query` and applications do. */
export function duckdbProbe(): Probe {
  return {
    ...{ id: 'duckdb', label: 'Waltide → DuckDB → query', targetMs: 150, usesKafka: false },
    unavailable: () => '',
    async start(arena, seen) {
      const name = 'latency_duckdb';
      const path = join(arena.dir, 'latency.duckdb');
      const config = { ...common(arena, name), sinks: [{ name: 'bench', type: 'duckdb' as const, path }] };
      const child = await startWaltide(arena, name, config, []);
      const control = await controlOf(config.stateDir!, child, arena, name);
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      let stopped = false;
      let last = 0;
      const polling = (async () => {
        while (!stopped) {
          const newest = await newestId(control, agent).catch(() => last);
          for (let id = last + 1; id <= newest; id++) seen(id);
          last = Math.max(last, newest);
          await sleep(DUCKDB_POLL_MS);
        }
      })();
      const stop = async () => {
        stopped = true;
        await polling;
        agent.destroy();
        await end(child);
      };
      return { stop };
    },
  };
}

/** Rows are inserted in the order of their ids, each committed before the next. */
export async function newestId(control: ControlFile, agent: Agent, table = 'bench'): Promise<number> {
  const sql = `select coalesce(max(id), 0)::integer from main.${table}`;
  const answer = (await post(control, agent, '/sinks/bench/query', { sql })) as { rows: unknown[][] };
  return Number(answer.rows[0]?.[0]);
}

/** Asks a running process by its control address, over a connection that is kept. Rejects with what it says. */
export async function post(control: ControlFile, agent: Agent, path: string, body: object): Promise<unknown> {
  const headers = { authorization: `Bearer ${control.token}`, 'content-type': 'application/json' };
  const outgoing = request(control.url + API_BASE + path, { method: 'POST', agent, headers });
  outgoing.end(JSON.stringify(body));
  const [response] = (await once(outgoing, 'response')) as [AsyncIterable<Buffer> & { statusCode?: number }];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  if (response.statusCode! >= 300) throw new Error(text);
  return JSON.parse(text);
}

/** Sets up (an empty copy), then starts the real program as a user would. */
export async function startWaltide(
  arena: Arena,
  name: string,
  config: ConfigInput,
  more: string[],
): Promise<ChildProcess> {
  const file = await writeConfig(arena.dir, name, config);
  await promisify(execFile)(process.execPath, waltideArgs('setup', file), {
    cwd: arena.dir,
    timeout: START_TIMEOUT_MS,
  });
  return launch(arena, name, process.execPath, waltideArgs('run', file, ...more));
}

export function launch(arena: Arena, name: string, command: string, args: string[]): ChildProcess {
  const log = openSync(join(arena.dir, `${name}.log`), 'w');
  const child = spawn(command, args, { cwd: arena.dir, stdio: ['ignore', log, log] });
  arena.guard.watch(child.pid ?? null);
  child.on('exit', () => arena.guard.watch(null));
  return child;
}

async function followTopic(
  arena: Arena,
  name: string,
  child: ChildProcess,
  seen: (id: number) => void,
): Promise<Running> {
  const topic = new TopicWatch(arena.kafka!.brokers, name);
  await topic.connect();
  let unfollow = async () => {};
  return {
    async follow() {
      const deadline = Date.now() + START_TIMEOUT_MS;
      while ((await topic.records()) === 0) {
        if (child.exitCode !== null || Date.now() > deadline) throw new Error(`No record came to topic ${name}.`);
        await sleep(100);
      }
      unfollow = await topic.follow((value) => {
        const after = value && (JSON.parse(value.toString()) as { after: { id: number | string } | null }).after;
        if (after) seen(Number(after.id));
      });
    },
    async stop() {
      await unfollow();
      await topic.disconnect();
      await end(child);
    },
  };
}

export async function controlOf(
  stateDir: string,
  child: ChildProcess,
  arena: Arena,
  name: string,
): Promise<ControlFile> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    const found = (await readControlFiles(stateDir)).find(({ pid }) => pid === child.pid);
    if (found) return found;
    if (child.exitCode !== null || Date.now() > deadline) {
      const log = readFileSync(join(arena.dir, `${name}.log`), 'utf8');
      throw new Error(`Waltide left no control address in ${stateDir}:\n${log.slice(-2_000)}`);
    }
    await sleep(20);
  }
}

export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await exited;
  clearTimeout(timer);
}
