import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { DuckDBInstance } from '@duckdb/node-api';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { demoCommand } from '../../src/cli/commands/demo.ts';
import { CliContext, type Output } from '../../src/cli/context.ts';
import { compareDatabases } from '../../src/demo/canonical.ts';
import type { DemoOptions, DemoReport } from '../../src/demo/events.ts';
import { createDatabase } from '../support/postgres.ts';

const MAIN = fileURLToPath(new URL('../../dist/main.js', import.meta.url));
const TIMEOUT_MS = 180_000;

/** Everything that the demo makes goes below this folder, and every process of it names the folder. */
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'waltide-demo-test-'));
  chmodSync(folder, 0o755);
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function left(): { files: string[]; processes: string[] } {
  const processes = execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }).split('\n');
  return {
    // A copy of the server's programs is kept for the next time where they cannot be used in place.
    files: readdirSync(folder).filter((name) => !/^waltide-postgres-\d/.test(name)),
    processes: processes.filter((line) => line.includes(folder)),
  };
}

async function expectNothingLeft(): Promise<void> {
  // After a SIGKILL the guards need a moment.
  for (const end = Date.now() + 60_000; Date.now() < end && left().files.length + left().processes.length > 0; )
    await sleep(100);
  expect(left()).toEqual({ files: [], processes: [] });
}

interface Running {
  readonly finished: Promise<{ code: number | null; stdout: string; stderr: string }>;
  kill(signal: NodeJS.Signals): void;
  saw(text: string): Promise<void>;
}

function start(args: readonly string[]): Running {
  if (!existsSync(MAIN)) throw new Error('dist/ is missing: run npm run build first');
  const env = { ...process.env, TMPDIR: folder, WALTIDE_SOURCE_URL: 'postgres://nobody@127.0.0.1:1/none', PGPORT: '1' };
  const child = spawn(process.execPath, [MAIN, 'demo', ...args], { cwd: '/', env, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  let ended = false;
  const finished = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) =>
    child.on('close', (code) => {
      ended = true;
      resolve({ code, stdout, stderr });
    }),
  );
  const saw = async (text: string): Promise<void> => {
    while (!stdout.includes(text)) {
      if (ended) throw new Error(`ended before "${text}": ${stdout}${stderr}`);
      await sleep(20);
    }
  };
  return { finished, kill: (signal) => child.kill(signal), saw };
}

describe('waltide demo', () => {
  it('copies, follows, survives a kill, and finds every table equal', { timeout: TIMEOUT_MS }, async () => {
    const { code, stdout, stderr } = await start(['--rows', '3000', '--duration', '4']).finished;
    expect(stderr).toBe('');
    expect(code).toBe(0);
    const verdicts = stdout.match(/^ {3}\w+ +[\d,]+ +[\d,]+ +[0-9a-f]+ +[0-9a-f]+ +(.+)$/gm) ?? [];
    expect(verdicts).toHaveLength(6);
    expect(verdicts.filter((line) => !line.endsWith(' equal'))).toEqual([]);
    for (const text of ['kill -9', 'recovered', 'schema change', 'every value is equal'])
      expect(stdout).toContain(text);
    expect(stdout).not.toContain('\u001b');
    await expectNothingLeft();
  });

  it('leaves nothing behind when it is told to end, or killed', { timeout: TIMEOUT_MS }, async () => {
    const terminated = start(['--rows', '3000', '--duration', '60']);
    await terminated.saw('/s committed');
    terminated.kill('SIGTERM');
    expect((await terminated.finished).code).toBe(143);
    expect(left()).toEqual({ files: [], processes: [] });

    const killed = start(['--rows', '3000', '--duration', '60']);
    await killed.saw('/s committed');
    expect(left().processes.length).toBeGreaterThan(1);
    killed.kill('SIGKILL');
    await killed.finished;
    await expectNothingLeft();
  });

  it('exits with 1 and shows what differs', { timeout: TIMEOUT_MS }, async () => {
    const beforeCompare: DemoOptions['beforeCompare'] = async ({ duckdbFile }) => {
      await execute(duckdbFile, [
        'UPDATE customers SET signed_up_at = signed_up_at + INTERVAL 1 MICROSECOND WHERE id = 7',
        'DELETE FROM products WHERE sku = (SELECT min(sku) FROM products)',
      ]);
    };
    const { exitCode, report, text } = await inProcess({ beforeCompare, rows: 500, durationMs: 1000 });
    expect(exitCode).toBe(1);
    expect(report.equal).toBe(false);
    expect(report.tables.filter(({ equal }) => !equal).map(({ table }) => table)).toEqual(['customers', 'products']);
    expect(text).toMatch(/customers \(7\) signed_up_at: \d+ in the source, \d+ in the target/);
    expect(text).toContain('is missing in the target');
  });
});

/** The command of the sources, with the pipeline's process from dist. */
async function inProcess(seams: Partial<DemoOptions>): Promise<{ exitCode: number; report: DemoReport; text: string }> {
  const written = { stdout: '', stderr: '' };
  const output = (name: keyof typeof written): Output => ({
    write: (text) => {
      written[name] += text;
      return true;
    },
    once: () => undefined,
  });
  const io = { stdout: output('stdout'), stderr: output('stderr'), env: {}, cwd: folder };
  const context = new CliContext(io);
  const program = new Command().option('--json').exitOverride();
  program.addCommand(demoCommand(context, { program: [process.execPath, MAIN], ...seams }));
  await program.parseAsync(['--json', 'demo'], { from: 'user' });
  return { exitCode: context.exitCode, report: JSON.parse(written.stdout) as DemoReport, text: written.stderr };
}

async function execute(file: string, statements: readonly string[]): Promise<void> {
  const instance = await DuckDBInstance.create(file);
  const connection = await instance.connect();
  for (const statement of statements) await connection.run(statement);
  connection.closeSync();
  instance.closeSync();
}

const SHARED = `(id INTEGER, name TEXT, amount NUMERIC(10,2), seen TIMESTAMPTZ, tags TEXT[])`;
const ROWS = `(1, 'a', 1.10, '2024-01-01 00:00:00.000001+00', ARRAY['x', NULL]),
  (2, '', NULL, NULL, NULL), (10, '🙂', -0.5, NULL, ARRAY[]::TEXT[])`;

/** `planted` is run in DuckDB after both sides were made equal. */
async function compareWith(planted: readonly string[]): Promise<Awaited<ReturnType<typeof compareDatabases>>[number]> {
  const database = await createDatabase();
  const file = join(folder, 'target.duckdb');
  try {
    await database.query(`CREATE TABLE t ${SHARED}; ALTER TABLE t ADD PRIMARY KEY (id); INSERT INTO t VALUES ${ROWS}`);
    await execute(file, [`CREATE TABLE t ${SHARED}`, `INSERT INTO t VALUES ${ROWS}`, ...planted]);
    return (await compareDatabases(database.url, file))[0]!;
  } finally {
    await database.drop();
  }
}

describe('compareDatabases', () => {
  it('finds equal tables equal, whatever the order of their rows', async () => {
    const same = await compareWith([
      'DELETE FROM t WHERE id = 1',
      `INSERT INTO t SELECT * FROM (VALUES ${ROWS}) v(a, b, c, d, e) WHERE a = 1`,
    ]);
    expect(same).toMatchObject({ sourceRows: 3, targetRows: 3, equal: true, differences: [] });
    expect(same.sourceDigest).toBe(same.targetDigest);
  });

  it.each([
    [
      'a value',
      `UPDATE t SET amount = 1.11 WHERE id = 1`,
      { kind: 'different', key: '1', columns: [{ name: 'amount', source: '1.10', target: '1.11' }] },
    ],
    [
      'a microsecond',
      `UPDATE t SET seen = seen + INTERVAL 1 MICROSECOND WHERE id = 1`,
      { kind: 'different', key: '1' },
    ],
    [
      'NULL for an empty text',
      `UPDATE t SET name = NULL WHERE id = 2`,
      { kind: 'different', columns: [{ name: 'name', source: '', target: null }] },
    ],
    [
      'NULL for an empty array',
      `UPDATE t SET tags = NULL WHERE id = 10`,
      { kind: 'different', columns: [{ name: 'tags', source: '[]', target: null }] },
    ],
    ['a missing row', `DELETE FROM t WHERE id = 2`, { kind: 'missing', key: '2' }],
    ['a row too many', `INSERT INTO t VALUES (3, NULL, NULL, NULL, NULL)`, { kind: 'extra', key: '3' }],
    ['a row twice', `INSERT INTO t SELECT * FROM t WHERE id = 10`, { kind: 'extra', key: '10' }],
    ['a missing column', `ALTER TABLE t DROP COLUMN tags`, { kind: 'column', key: 'tags' }],
    ['a column too many', `ALTER TABLE t ADD COLUMN more INTEGER`, { kind: 'column', key: 'more' }],
  ])('finds %s', async (_what, planted, expected) => {
    const result = await compareWith([planted]);
    expect(result.equal).toBe(false);
    expect(result.differences[0]).toMatchObject(expected);
  });

  it('finds a table missing', async () => {
    expect(await compareWith(['DROP TABLE t'])).toMatchObject({ sourceRows: 3, targetRows: 0, equal: false });
  });
});
