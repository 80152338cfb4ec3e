import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Arena, Sample } from './contender.ts';
import { cpuSeconds, TreeMeter, waitedCpuSeconds } from './usage.ts';

/** Often enough for VmHWM and seconds, rare enough not to show on two cores. */
const SAMPLE_INTERVAL_MS = 20;
const RUN_TIMEOUT_MS = 600_000;
const STOP_TIMEOUT_MS = 20_000;

export interface Command {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly slot: string;
  /** True once the last event is durable. Null = when the process exits. */
  readonly done: (() => Promise<boolean>) | null;
  /** False: the process runs for ever, and is ended once `done`. */
  readonly exits: boolean;
  readonly usesBroker: boolean;
  /** Names the moment of the last durable event where the contender itself tells it, in Unix ms; null where it does not. */
  readonly doneAt?: (output: Output) => number | null;
}

export interface Output {
  readonly stdout: string;
  readonly stderr: string;
}

export interface Measured {
  readonly sample: Sample;
  readonly output: Output;
}

/** Runs one contender and measures it, from its start to its last durable event. Rejects where it fails. */
export async function measure(arena: Arena, command: Command): Promise<Measured> {
  const logs = await openLogs(arena, command.name);
  const waitedBefore = waitedCpuSeconds();
  const brokerBefore = command.usesBroker && arena.kafka ? cpuSeconds(arena.kafka.pid) : null;
  const startedAt = Date.now();
  const child = spawn(command.command, command.args, {
    cwd: arena.dir,
    stdio: ['ignore', logs.stdout.fd, logs.stderr.fd],
  });
  arena.guard.watch(child.pid ?? null);
  try {
    const watched = await watch(arena, command, child, startedAt);
    const brokerAfter = brokerBefore === null ? null : cpuSeconds(arena.kafka!.pid) - brokerBefore;
    const exited = await end(child, command.exits);
    const output = await logs.read();
    if (command.exits && exited !== 0) throw new Error(`${command.name} ended with ${exited}:\n${tail(output)}`);
    const doneAt = command.doneAt?.(output) ?? watched.doneAt;
    // Exact where the process ended by itself; a server's shutdown is not part of its work.
    const cpuTotal = command.exits ? waitedCpuSeconds() - waitedBefore : watched.cpuAtDone;
    const sample: Sample = {
      seconds: (doneAt - watched.streamingAt) / 1000,
      secondsWithStart: (doneAt - startedAt) / 1000,
      cpuSeconds: cpuTotal - watched.cpuAtStreaming,
      cpuSecondsWithStart: cpuTotal,
      peakRssBytes: watched.peakRssBytes,
      serverCpuSeconds: watched.serverCpuSeconds,
      brokerCpuSeconds: brokerAfter,
    };
    return { sample, output };
  } finally {
    child.kill('SIGKILL');
    arena.guard.watch(null);
    await logs.close();
  }
}

interface Watched {
  readonly streamingAt: number;
  readonly doneAt: number;
  readonly cpuAtStreaming: number;
  readonly cpuAtDone: number;
  readonly peakRssBytes: number;
  readonly serverCpuSeconds: number;
}

/** Samples until the contender is done. Every contender's clock starts alike: when the server says its slot is active. */
async function watch(arena: Arena, command: Command, child: ChildProcess, startedAt: number): Promise<Watched> {
  let spawnError: Error | null = null;
  child.on('error', (error) => {
    spawnError = error;
  });
  const meter = new TreeMeter(child.pid ?? 0);
  let streamingAt = 0;
  let cpuAtStreaming = 0;
  let sender = 0;
  let serverCpuSeconds = 0;
  for (;;) {
    if (spawnError) throw spawnError;
    const running = child.exitCode === null && child.signalCode === null;
    if (running) meter.sample();
    if (sender === 0 && running) {
      sender = await senderOf(arena, command.slot);
      if (sender !== 0) {
        streamingAt = Date.now();
        cpuAtStreaming = meter.cpuSeconds;
      }
    }
    if (sender !== 0) serverCpuSeconds = Math.max(serverCpuSeconds, cpuSeconds(sender));
    const done = command.done === null ? !running : await command.done();
    if (done) {
      const doneAt = Date.now();
      if (streamingAt === 0) streamingAt = startedAt;
      meter.sample();
      return {
        streamingAt,
        doneAt,
        cpuAtStreaming,
        cpuAtDone: meter.cpuSeconds,
        peakRssBytes: meter.peakRssBytes,
        serverCpuSeconds,
      };
    }
    if (!running)
      throw new Error(`${command.name} ended before its work was done:\n${await lastLines(arena, command.name)}`);
    if (Date.now() - startedAt > RUN_TIMEOUT_MS)
      throw new Error(
        `${command.name} was not done after ${RUN_TIMEOUT_MS / 1000} s:\n${await lastLines(arena, command.name)}`,
      );
    await sleep(SAMPLE_INTERVAL_MS);
  }
}

/** The walsender that serves the slot; 0 while there is none. */
async function senderOf(arena: Arena, slot: string): Promise<number> {
  const sql = 'select coalesce(active_pid, 0) as pid from pg_replication_slots where slot_name = $1';
  const { rows } = await arena.client.query<{ pid: number }>(sql, [slot]);
  return rows[0]?.pid ?? 0;
}

async function end(child: ChildProcess, byItself: boolean): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const exited = once(child, 'exit');
  if (!byItself) child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await exited;
  clearTimeout(timer);
  return child.exitCode;
}

/** Files, not pipes: reading a chatty contender's output would cost the machine that is being measured. */
async function openLogs(arena: Arena, name: string) {
  const [stdout, stderr] = await Promise.all([
    open(join(arena.dir, `${name}.out`), 'w'),
    open(join(arena.dir, `${name}.err`), 'w'),
  ]);
  const read = async (): Promise<Output> => ({
    stdout: await readFile(join(arena.dir, `${name}.out`), 'utf8'),
    stderr: await readFile(join(arena.dir, `${name}.err`), 'utf8'),
  });
  const close = async () => {
    await Promise.all([stdout.close(), stderr.close()]);
  };
  return { stdout, stderr, read, close };
}

async function lastLines(arena: Arena, name: string): Promise<string> {
  const texts = await Promise.all(['out', 'err'].map((kind) => readFile(join(arena.dir, `${name}.${kind}`), 'utf8')));
  return tail({ stdout: texts[0]!, stderr: texts[1]! });
}

function tail(output: Output): string {
  const lines = `${output.stdout}\n${output.stderr}`.trim().split('\n');
  return lines
    .slice(-15)
    .map((line) => `  ${line.slice(0, 400)}`)
    .join('\n');
}
