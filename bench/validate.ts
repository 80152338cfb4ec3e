import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { compareDatabases } from '../src/demo/canonical.ts';
import { cli, makeProject, start } from '../test/cli/support.ts';
import { damage } from '../test/support/compare.ts';
import { catchUp, testPipeline } from '../test/support/pipeline.ts';
import { createDatabase, startPostgres } from '../test/support/postgres.ts';

/*
 * `waltide validate` beside PyPI's data-diff (a virtual environment in .cache, made when absent) and beside a full compare,
 * on the same tables in the same run: `npx tsx bench/validate.ts --rows 1000000 --differing 10`. Times of data-diff are
 * without starting Python, those of Waltide without starting Node; the process that holds the sink runs before. What a
 * validation adds to that process's memory is its peak less what the process had before. CPU is of both databases and who compares.
 */

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '1000000' },
    differing: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '3' },
    workers: { type: 'string', default: '2' },
    'data-diff': { type: 'boolean', default: true },
  },
  allowNegative: true,
});
const rows = Number(values.rows);
const differing = Number(values.differing);
const COLUMNS = ['customer', 'status', 'amount', 'note', 'placed_at'];

const here = dirname(fileURLToPath(import.meta.url));
const venv = join(here, '../.cache/data-diff');
const python = join(venv, 'bin/python');
if (values['data-diff'] && !existsSync(python)) {
  execFileSync('python3', ['-m', 'venv', venv], { stdio: 'inherit' });
  const packages = ['data-diff==0.11.2', 'dbt-core<1.9', 'psycopg2-binary', 'duckdb'];
  execFileSync(join(venv, 'bin/pip'), ['install', '-q', ...packages], { stdio: 'inherit' });
}

interface Answer {
  readonly seconds: number;
  readonly differences: number;
  readonly rssBytes: number;
  readonly cpuSeconds: number;
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const server = await startPostgres({ shared_buffers: '512MB' });
const database = await createDatabase(server.url);
try {
  say(`${rows} rows, ${cpus().length} × ${cpus()[0]!.model}, load before ${load()}`);
  await database.query(`create table orders (id bigint primary key, customer int not null, status text not null, amount numeric(12,2) not null,
    note text, placed_at timestamptz not null)`);
  await database.query(
    `insert into orders select i, i % 50000, (array['new', 'paid', 'shipped'])[1 + i % 3], (i % 100000) / 7.0,
       case when i % 3 > 0 then 'note number ' || i end, timestamptz '2026-01-01' + i * interval '1.234567 s' from generate_series(1, $1::int) i`,
    [rows],
  );
  await database.query('vacuum analyze orders');
  const { config, path } = testPipeline(database);
  await catchUp(config);
  const { url, slot, publication } = config.source;
  const project = await makeProject({
    source: { url, slot, publication, tables: ['*.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path }],
    transport: { type: 'in-process' },
    validation: { workers: Number(values.workers) },
  });
  const equal = await rounds(project.dir);
  say(`waltide validate, equal rows: ${describe(equal)}`);
  if (values['data-diff']) {
    const others = Array.from({ length: Number(values.rounds) }, () => dataDiff(url, path));
    const best = others.reduce((a, b) => (a.seconds < b.seconds ? a : b));
    say(
      `data-diff, equal rows: ${best.seconds.toFixed(2)} s, CPU ${best.cpuSeconds.toFixed(2)} s, ${mebibytes(best.rssBytes)}, ${best.differences} differences; load ${load()}`,
    );
    say(
      `  ${(best.seconds / equal.seconds).toFixed(1)} times faster, with ${(equal.cpuSeconds / best.cpuSeconds).toFixed(2)} of its CPU; RSS ${(equal.rssBytes / best.rssBytes).toFixed(2)} of it, added ${(equal.addedBytes / best.rssBytes).toFixed(2)}`,
    );
  }
  const step = Math.floor(rows / differing);
  await damage(
    path,
    ...Array.from({ length: differing }, (_, i) => `update orders set note = 'x' where id = ${1 + i * step}`),
  );
  const found = await rounds(project.dir);
  say(`waltide validate, ${differing} differing rows: ${describe(found)}`);
  const begun = performance.now();
  const [full] = await compareDatabases(url, path);
  const fullSeconds = (performance.now() - begun) / 1000;
  const [{ bytes }] = (await database.query(`select pg_table_size('orders')::float8 as bytes`)) as [{ bytes: number }];
  const finding = Math.max(0.001, found.seconds - equal.seconds);
  say(`full compare: ${fullSeconds.toFixed(2)} s, ${full!.differenceCount} differences; load ${load()}`);
  say(
    `  whole validation ${(fullSeconds / found.seconds).toFixed(1)} times faster; after its digest pass ${(fullSeconds / finding).toFixed(1)} times`,
  );
  say(`  moved ${((100 * found.bytesMoved) / bytes).toFixed(3)}% of the table's ${mebibytes(bytes)}`);
  await project.remove();
} finally {
  await database.drop();
  await server.stop();
}

interface Measured extends Answer {
  /** By the first validation of the process, which is the one that adds most. */
  readonly addedBytes: number;
  /** The share of both databases' and the process's CPU that is PostgreSQL's. */
  readonly serverSeconds: number;
  readonly bytesMoved: number;
}

/** The best of some, through the command line, by the process that holds the sink. */
async function rounds(dir: string): Promise<Measured> {
  const running = start(dir, 'run');
  try {
    await running.until(/streaming/i, 600_000);
    const pid = running.child.pid!;
    // What starting took is given back by then.
    await new Promise((resolve) => setTimeout(resolve, 5000));
    peak(pid);
    const before = memory(pid, 'VmRSS');
    let addedBytes = 0;
    let best: Measured | null = null;
    for (let i = 0; i < Number(values.rounds); i++) {
      const [serverBefore, ownBefore] = [serverCpu(), cpu(pid)];
      const { stdout, stderr } = await cli(dir, 'validate', '--checks', 'data_hash', '--json');
      const { tables } = JSON.parse(stdout || `{"error": ${JSON.stringify(stderr)}}`);
      const [{ duration_ms: ms, missing, extra, different, bytes_moved: bytesMoved }] = tables;
      const rssBytes = peak(pid);
      if (i === 0) addedBytes = rssBytes - before;
      const serverSeconds = serverCpu() - serverBefore;
      const cpuSeconds = serverSeconds + cpu(pid) - ownBefore;
      const measured = {
        ...{ seconds: ms / 1000, differences: missing + extra + different },
        ...{ bytesMoved, rssBytes, addedBytes, cpuSeconds, serverSeconds },
      };
      if (best === null || measured.seconds < best.seconds) best = measured;
    }
    return best!;
  } finally {
    running.child.kill('SIGTERM');
    await running.end();
  }
}

function memory(pid: number, name: 'VmHWM' | 'VmRSS'): number {
  return Number(new RegExp(`${name}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024;
}

/** Most memory that the process has had, and from here on. */
function peak(pid: number): number {
  const bytes = memory(pid, 'VmHWM');
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  return bytes;
}

/** Seconds of the process, in ticks of 10 ms; with those of children that have ended. */
function cpu(pid: number, children = false): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
    .map(Number);
  return (fields[11]! + fields[12]! + (children ? fields[13]! + fields[14]! : 0)) / 100;
}

/** The server and all its processes, also those that have ended. */
function serverCpu(): number {
  const pid = server.pid!;
  const alive = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
  let seconds = cpu(pid, true);
  for (const one of alive) if (existsSync(`/proc/${one}/stat`)) seconds += cpu(Number(one));
  return seconds;
}

function dataDiff(url: string, path: string): Answer {
  const address = url.replace('postgres:', 'postgresql:');
  const arguments_ = [join(here, 'data-diff.py'), address, path, 'orders', 'id', ...COLUMNS];
  const before = serverCpu();
  const answer = JSON.parse(
    execFileSync(python, arguments_, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
  );
  return { ...answer, cpuSeconds: answer.cpuSeconds + serverCpu() - before };
}

function describe({
  seconds,
  cpuSeconds,
  serverSeconds,
  rssBytes,
  addedBytes,
  bytesMoved,
  differences,
}: Measured): string {
  return `${seconds.toFixed(2)} s, CPU ${cpuSeconds.toFixed(2)} s (PostgreSQL ${serverSeconds.toFixed(2)} s), ${mebibytes(rssBytes)} of which ${mebibytes(addedBytes)} are added, ${differences} differences, ${mebibytes(bytesMoved)} moved; load ${load()}`;
}

function load(): string {
  return loadavg()[0]!.toFixed(1);
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
