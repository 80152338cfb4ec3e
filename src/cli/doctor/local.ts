import { constants } from 'node:fs';
import { access, open, stat, statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname } from 'node:path';
import type { Config, DuckdbSinkConfig } from '../../config/schema.ts';
import { messageOf } from '../../errors.ts';
import { formatBytes, printable } from '../output.ts';
import { type Check, type Finding, fail, ok, type Subject, skip, warn } from './check.ts';
import { kafkaChecks } from './kafka.ts';

const FREE_MIN_BYTES = 1024 ** 3;
const DEFAULT_METRICS_PORT = 9464;

/** What can be told without PostgreSQL. */
export function localChecks(config: Config): Check<Subject>[] {
  const sinks = config.sinks.map((sink) => ({
    name: `sink ${sink.name}`,
    run: (subject: Subject) => duckdbFile(sink, subject),
  }));
  return [...kafkaChecks(config), ...sinks, { name: 'stateDir', run: stateDir }, { name: 'metrics', run: metricsPort }];
}

async function duckdbFile({ name, path }: DuckdbSinkConfig, { found }: Subject): Promise<Finding> {
  const holder = found.running.find(({ status }) => status.sinks.some((sink) => sink.name === name));
  if (holder) return ok(`${path} is held open by the running process ${holder.file.pid}`);
  const space = await freeSpace(path);
  const info = await stat(path).catch(() => null);
  if (!info) {
    const problem = await creatable(path);
    return problem
      ? fail(`${path} cannot be created: ${problem}`, 'Make the folder writable for this user, or choose another path.')
      : (space ?? ok(`${path} will be created`));
  }
  if (!info.isFile()) return fail(`${path} is not a file`, 'Choose another path.');
  const closed = await access(path, constants.R_OK | constants.W_OK).then(() => null, messageOf);
  if (closed) return fail(`${path} cannot be written: ${closed}`, 'Make file and folder writable for this user.');
  if (info.size > 0 && !(await looksLikeDuckdb(path)))
    return fail(
      `${path} is not a DuckDB file`,
      'Choose another path; Waltide never overwrites a file that is not its own.',
    );
  const refused = info.size === 0 ? null : await tryOpen(path);
  if (refused && /lock/i.test(refused))
    return fail(
      `${path} is locked: ${printable(refused)}`,
      'Close the program that has it open; DuckDB allows one writer per file.',
    );
  if (refused)
    return fail(
      `${path} cannot be opened: ${printable(refused)}`,
      'Restore it from a backup, or move it away and copy anew with `waltide run --recopy`.',
    );
  return space ?? ok(`${path} can be opened`);
}

/** "DUCK" after the 8 bytes of the first block's checksum. */
async function looksLikeDuckdb(path: string): Promise<boolean> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(12), 0, 12, 0);
    return bytesRead === 12 && buffer.toString('latin1', 8) === 'DUCK';
  } finally {
    await file.close();
  }
}

/** Null = it opened. Read-only takes a shared lock, so a writer is noticed and nothing is changed. */
async function tryOpen(path: string): Promise<string | null> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  try {
    const instance = await DuckDBInstance.create(path, {
      access_mode: 'READ_ONLY',
      autoinstall_known_extensions: 'false',
      autoload_known_extensions: 'false',
    });
    instance.closeSync();
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

/** Null = a file can be made there, with its folder. */
async function creatable(path: string): Promise<string | null> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const info = await stat(folder).catch(() => null);
    if (!info && dirname(folder) !== folder) continue;
    if (!info?.isDirectory()) return `${folder} is not a folder`;
    return access(folder, constants.W_OK | constants.X_OK).then(() => null, messageOf);
  }
}

async function freeSpace(path: string): Promise<Finding | null> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const space = await statfs(folder).catch(() => null);
    if (!space && dirname(folder) !== folder) continue;
    const free = space ? space.bavail * space.bsize : Number.POSITIVE_INFINITY;
    return free < FREE_MIN_BYTES
      ? warn(`only ${formatBytes(free)} are free in ${folder}`, 'Make room, or choose a path on another disk.')
      : null;
  }
}

async function stateDir({ config }: Subject): Promise<Finding> {
  const problem = await creatable(`${config.stateDir}/x`);
  return problem
    ? fail(`${config.stateDir} cannot be written: ${problem}`, 'Set stateDir to a folder that this user may write.')
    : ok(config.stateDir);
}

async function metricsPort({ config: { metrics }, found }: Subject): Promise<Finding> {
  if (!metrics.enabled) return ok('turned off');
  if (found.running.length > 0) return skip('a process is running, and may serve them');
  const problem = await new Promise<string | null>((resolve) => {
    const server = createServer();
    server.once('error', (error) => resolve(messageOf(error)));
    server.listen(metrics.port, metrics.host, () => server.close(() => resolve(null)));
  });
  const where = `${metrics.host}:${metrics.port}`;
  if (!problem) return ok(`${where} is free`);
  if (metrics.port === DEFAULT_METRICS_PORT && /EADDRINUSE/.test(problem))
    return warn(
      `${where} is in use; the next free port is taken instead`,
      'Set metrics.port, so that Prometheus knows where to look.',
    );
  return fail(
    `${where} cannot be listened on: ${problem}`,
    'Set metrics.host and metrics.port to an address that is free, or metrics.enabled: false.',
  );
}
