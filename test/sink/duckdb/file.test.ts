import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import type { WaltideError } from '../../../src/errors.ts';
import type { Offset } from '../../../src/event/offset.ts';
import { createDuckdbSink } from '../../../src/sink/duckdb/duckdb-sink.ts';
import { withDuckdb } from '../../support/compare.ts';
import { smallDisk } from '../../support/small-disk.ts';
import { changes, config, delivery, directory, events, IDENTITY, openSink, relation } from './support.ts';

const item = relation('item', [
  ['id', 'int8'],
  ['v', 'text'],
]);
const create = (path: string) => createDuckdbSink(config(path), pino({ level: 'silent' }));
const failure = (promise: Promise<unknown>): Promise<WaltideError> =>
  promise.then(
    () => Promise.reject(new Error('it did not fail')),
    (error: WaltideError) => error,
  );

describe('opening', () => {
  test('creates the directory and the file, and starts from nothing', async () => {
    const path = join(await directory(), 'deep', 'er', 'sink.duckdb');
    const sink = create(path);
    const instance = expect.stringMatching(/^[0-9a-f-]{36}@\d+:\d+$/);
    expect(await sink.open(IDENTITY)).toEqual({ instance, offsets: [], timeline: 1, stopped: [], tables: [] });
    await sink.close();
    expect(existsSync(path)).toBe(true);
  });

  test('is the same store after a restart and another place, and not the same as its copy', async () => {
    const folder = await directory();
    const [first, moved, copied] = ['a', 'b', 'c'].map((name) => join(folder, name)) as [string, string, string];
    const instanceOf = async (path: string): Promise<string> => {
      const sink = create(path);
      const { instance } = await sink.open(IDENTITY);
      await sink.close();
      return instance!;
    };
    const instance = await instanceOf(first);
    expect(await instanceOf(first)).toBe(instance);
    await rename(first, moved);
    expect(await instanceOf(moved)).toBe(instance);
    await copyFile(moved, copied);
    const copy = await instanceOf(copied);
    expect(copy).not.toBe(instance);
    expect(copy.split('@')[0]).toBe(instance.split('@')[0]);
  });

  test('gives back offsets and stopped tables', async () => {
    const sink = await openSink();
    const offsets: Offset[] = [
      {
        partition: 'topic:0',
        position: { commitLsn: 18446744073709551615n, seq: 4294967296 },
        next: 9223372036854775807n,
      },
      { partition: "odd'name", position: { commitLsn: 5n, seq: 0 }, next: null },
    ];
    await sink.apply({ events: [], bytes: 0, offsets, complete: true });
    await sink.stopTable(item, "it's broken", { snapshotGoesOn: false, refill: false });
    await sink.close();
    const again = create(sink.path);
    const state = await again.open({ ...IDENTITY, timeline: 2 });
    expect([...state.offsets].sort((a, b) => (a.partition < b.partition ? 1 : -1))).toEqual(offsets);
    expect(state.stopped).toEqual([{ schema: 'public', table: 'item', reason: "it's broken" }]);
    await again.close();
  });

  test.each([
    ['cluster', { systemIdentifier: '999' }, 'cluster 7311, not 999'],
    ['slot', { slot: 'other' }, 'slot "waltide", not "other"'],
    ['database', { database: 'prod' }, 'database "shop", not "prod"'],
  ])('is refused for another %s', async (_name, other, message) => {
    const sink = await openSink();
    await sink.close();
    const error = await failure(create(sink.path).open({ ...IDENTITY, ...other }));
    expect(error.code).toBe('CLUSTER_MISMATCH');
    expect(error.message).toContain(message);
    expect(error.help).toContain('new path');
    const right = create(sink.path);
    await right.open(IDENTITY);
    await right.close();
  });

  test('is refused for a file that is not of DuckDB, and for a directory', async () => {
    const at = await directory();
    await writeFile(join(at, 'text'), 'certainly not a database\n'.repeat(1000));
    await mkdir(join(at, 'folder'));
    await writeFile(join(at, 'plain'), '');
    for (const name of ['text', 'folder', 'plain/below']) {
      const error = await failure(create(join(at, name)).open(IDENTITY));
      expect([name, error.code]).toEqual([name, 'SINK_INVALID']);
      expect(error.message).toContain(name.split('/')[0]);
    }
  });

  test('is refused while this or another process has the file open, and says which', async () => {
    const sink = await openSink();
    const here = await failure(create(sink.path).open(IDENTITY));
    expect([here.code, here.message]).toEqual([
      'SINK_LOCKED',
      expect.stringContaining(`this process (${process.pid})`),
    ]);
    await sink.apply(changes(['c', item, ['1', 'a']]));
    await sink.close();

    const script = `import('@duckdb/node-api').then(async ({ DuckDBInstance: D }) => { globalThis.db = await D.create(process.argv[1]); console.log('open'); setInterval(() => {}, 1000); })`;
    const child = spawn(process.execPath, ['-e', script, sink.path], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await new Promise((resolve) => child.stdout.once('data', resolve));
      const there = await failure(create(sink.path).open(IDENTITY));
      expect([there.code, there.message]).toEqual(['SINK_LOCKED', expect.stringContaining(`process ${child.pid}`)]);
    } finally {
      child.kill('SIGKILL');
    }
  });
});

describe('offsets', () => {
  test('never go back, and move without events', async () => {
    const sink = await openSink();
    const save = (commitLsn: bigint, seq: number, next: bigint | null) =>
      sink.apply({
        events: [],
        bytes: 0,
        offsets: [{ partition: 'p', position: { commitLsn, seq }, next }],
        complete: true,
      });
    const stored = () => sink.rows('SELECT commit_lsn, seq, "next" FROM _waltide.offsets');
    await save(10n, 3, 5n);
    await save(10n, 2, 9n);
    await save(9n, 99, 9n);
    expect(await stored()).toEqual([['10', '3', '5']]);
    await save(10n, 3, 6n);
    expect(await stored()).toEqual([['10', '3', '6']]);
    await save(11n, 0, 6n);
    expect(await stored()).toEqual([['11', '0', '6']]);
  });

  test('of a delivery that fails are not saved, nor any of its rows and tables', async () => {
    const sink = await openSink();
    const good = changes(['c', item, ['1', 'a']]);
    await sink.apply(good);
    const before = await sink.rows('SELECT commit_lsn FROM _waltide.offsets');
    const other = relation('other', [
      ['id', 'text'],
      ['ID', 'text'],
    ]);
    const wider = relation('item', [
      ['id', 'int8'],
      ['v', 'text'],
      ['w', 'text'],
    ]);
    await failure(
      sink.apply(
        delivery(
          events([
            ['c', wider, ['2', 'b', 'c']],
            ['d', wider, null, ['1', null, null]],
            ['c', other, ['1', '2']],
          ]),
        ),
      ),
    );
    expect(await sink.rows('SELECT * FROM item')).toEqual([['1', 'a']]);
    expect(await sink.rows('SELECT table_name FROM _waltide.tables')).toEqual([['item']]);
    expect(await sink.rows('SELECT commit_lsn FROM _waltide.offsets')).toEqual(before);
    const better = relation('other', [['id', 'text']]);
    await sink.apply(changes(['c', better, ['5']], ['c', wider, ['2', 'b', 'c']]));
    expect(await sink.rows('SELECT * FROM item ORDER BY id')).toEqual([
      ['1', 'a', null],
      ['2', 'b', 'c'],
    ]);
  });
});

test('a process killed in the middle of applying leaves rows and offset that agree', { timeout: 300_000 }, async () => {
  const at = await directory();
  const path = join(at, 'sink.duckdb');
  const script = fileURLToPath(new URL('kill-child.ts', import.meta.url));
  let applied = 0n;
  for (let round = 0; round < 8; round++) {
    const child = spawn(process.execPath, ['--import', 'tsx', script, path], { stdio: ['ignore', 'pipe', 'inherit'] });
    let said = '';
    await new Promise<void>((resolve) =>
      child.stdout.on('data', (chunk: Buffer) => {
        said += chunk.toString();
        // Every other time once it has applied something, so that there is something to lose.
        if (said.includes(round % 2 === 0 ? 'open' : 'applied')) resolve();
      }),
    );
    await new Promise((resolve) => setTimeout(resolve, 30 + Math.random() * 700));
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('exit', resolve));
    const sink = await openSink(path);
    // Transaction n inserts ids (n-1)*1000 … and updates `round` of every id before: see the child.
    const [[lsn]] = (await sink.rows('SELECT coalesce(max(commit_lsn), 0) FROM _waltide.offsets')) as [[string]];
    const known = (await sink.rows("SELECT count(*) FROM _waltide.tables WHERE table_name = 'item'"))[0]![0] === '1';
    const [count, distinct, least] = known
      ? (await sink.rows('SELECT count(*), count(DISTINCT id), min(v) FILTER (id < 500) FROM item'))[0]!
      : ['0', '0', null];
    expect([count, distinct]).toEqual([String(BigInt(lsn) * 1000n), String(BigInt(lsn) * 1000n)]);
    if (known) expect(least).toBe(`tx ${lsn}`);
    expect(BigInt(lsn)).toBeGreaterThanOrEqual(applied);
    applied = BigInt(lsn);
    await sink.close();
  }
  expect(applied).toBeGreaterThan(0n);
  expect((await readdir(at)).filter((name) => name.startsWith('sink.duckdb.tmp'))).toEqual([]);
});

test('a long value gets all of the memory limit, then what it takes; a longer one is set aside', async () => {
  const sink = await openSink();
  const long = (mb: number, bytes: number) => ({ ...changes(['c', item, [String(mb), 'x'.repeat(mb << 20)]]), bytes });
  await sink.apply(long(20, 20 << 20));
  await sink.apply(long(60, 60 << 20));
  await sink.apply(long(125, 125 << 20));
  await sink.apply(long(300, 300 << 20));
  await sink.close();
  // Reading such values takes memory, too: more than the sink's limit has for queries.
  await withDuckdb(sink.path, async (query) => {
    expect(await query('SELECT id::int, length(v)::int FROM item ORDER BY id')).toEqual(
      [20, 60, 125].map((mb) => [mb, mb << 20]),
    );
    expect(await query('SELECT "after" FROM _waltide.dead_letters')).toEqual([
      [`{"id":"300","v":{"bytes":${300 << 20}}}`],
    ]);
  });
});

test('a full disk is SINK_FULL, loses nothing, and passes once there is room', {
  timeout: 300_000,
}, async (context) => {
  const at = await directory();
  const disk = smallDisk(at, '12m');
  if (!disk) return context.skip('mounting a small tmpfs takes root');
  try {
    const sink = await openSink(join(at, 'sink.duckdb'));
    const noise = (n: number) => Array.from({ length: 30 }, (_, i) => Math.sin(n * 31 + i).toString(36)).join('');
    const big = (from: number) =>
      changes(...Array.from({ length: 3000 }, (_, i) => ['c', item, [String(from + i), noise(from + i)]] as const));
    let rows = 0;
    let error: WaltideError | null = null;
    while (!error && rows < 100_000) {
      error = await sink.apply(big(rows)).then(
        () => null,
        (thrown: WaltideError) => thrown,
      );
      if (!error) rows += 3000;
    }
    expect([error?.code, error?.retry]).toEqual(['SINK_FULL', true]);
    disk.grow('200m');
    await sink.apply(big(rows));
    expect(await sink.rows('SELECT count(*), count(DISTINCT id) FROM item')).toEqual([
      [String(rows + 3000), String(rows + 3000)],
    ]);
    await sink.close();
    const again = await openSink(join(at, 'sink.duckdb'));
    expect(await again.rows('SELECT count(*) FROM item')).toEqual([[String(rows + 3000)]]);
    await again.close();
  } finally {
    disk.remove();
  }
});
