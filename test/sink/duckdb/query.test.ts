import { readdir, readlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { WaltideError } from '../../../src/errors.ts';
import { changes, directory, openSink, relation } from './support.ts';

const item = relation('item', [
  ['id', 'int8'],
  ['at', 'timestamptz'],
  ['doc', 'jsonb'],
  ['f', 'float8'],
]);
const LIMITS = { rowsMax: 100, timeoutMs: 10_000 };

describe('a query', () => {
  test('gives columns and JSON-friendly values', async () => {
    const sink = await openSink();
    await sink.apply(
      changes(
        ['c', item, ['9007199254740993', '2026-11-22 03:00:00.5+00', '{"a": 1}', '0.5']],
        ['c', item, ['2', null, null, 'NaN']],
      ),
    );
    const result = await sink.query!(
      'SELECT *, id::HUGEINT AS h, [id] AS l, 1.10::DECIMAL(5,2) AS d FROM item ORDER BY id DESC',
      LIMITS,
    );
    expect(result.columns).toEqual(['id', 'at', 'doc', 'f', 'h', 'l', 'd']);
    expect(JSON.parse(JSON.stringify(result.rows[0]))).toEqual([
      '9007199254740993',
      '2026-11-22 03:00:00.5+00',
      '{"a": 1}',
      0.5,
      '9007199254740993',
      ['9007199254740993'],
      '1.10',
    ]);
    expect(result.rows[1]!.slice(0, 4)).toEqual(['2', null, null, 'NaN']);
    expect(result.truncated).toBe(false);
  });

  test('infinite dates are infinite, also inside of others', async () => {
    const sink = await openSink();
    const { rows } = await sink.query!(
      `SELECT 'infinity'::DATE, '-infinity'::DATE, ['infinity'::DATE, '2026-01-01'], {'d': '-infinity'::DATE}, '-infinity'::TIMESTAMP, '5881580-07-10'::DATE`,
      LIMITS,
    );
    const list = ['infinity', '2026-01-01'];
    expect(rows).toEqual([['infinity', '-infinity', list, { d: '-infinity' }, '-infinity', '5881580-07-10']]);
  });

  test('stops at rowsMax without computing the rest', async () => {
    const sink = await openSink();
    const result = await sink.query!('SELECT range AS n FROM range(100000000000)', {
      rowsMax: 3000,
      timeoutMs: 10_000,
    });
    expect([result.rows.length, result.truncated, result.rows.at(-1)]).toEqual([3000, true, ['2999']]);
    expect((await sink.query!('SELECT 1 WHERE false', LIMITS)).truncated).toBe(false);
  });

  test('stops at the timeout, and applying goes on meanwhile', async () => {
    const sink = await openSink();
    const slow = sink.query!('SELECT sum(a.range * b.range) FROM range(10000000) a, range(100000) b', {
      rowsMax: 1,
      timeoutMs: 500,
    });
    slow.catch(() => undefined);
    await sink.apply(changes(['c', item, ['1', null, null, null]]));
    const error = await slow.catch((thrown: WaltideError) => thrown);
    expect(error).toMatchObject({ code: 'SINK_QUERY', message: 'the query took longer than 500 ms' });
    expect((await sink.rows('SELECT count(*) FROM item'))[0]).toEqual(['1']);
  });

  test.each([
    ['', /is empty/],
    [' ;; ', /is empty/],
    ['selec 1', /syntax error at or near "selec"/],
    ['select (', /syntax error at end of input/],
    ['select 1; select 2', /holds 2 statements/],
  ])('says what is wrong with %j', async (sql, message) => {
    const sink = await openSink();
    await expect(sink.query!(sql, LIMITS)).rejects.toMatchObject({
      code: 'SINK_QUERY',
      message: expect.stringMatching(message),
    });
  });

  test('ends when the sink closes', async () => {
    const sink = await openSink();
    const slow = sink.query!('SELECT sum(a.range * b.range) FROM range(10000000) a, range(100000) b', {
      rowsMax: 1,
      timeoutMs: 60_000,
    });
    const error = slow.catch((thrown: WaltideError) => thrown);
    await new Promise((resolve) => setTimeout(resolve, 200));
    await sink.close();
    expect(await error).toMatchObject({ code: 'SINK_QUERY', message: 'the sink was closed while the query ran' });
  });

  test.runIf(process.platform === 'linux')('leaves nothing behind that keeps the file locked', async () => {
    const sink = await openSink();
    await sink.apply(changes(['c', item, ['1', null, null, null]]));
    await sink.query!('SELECT range FROM range(100000000)', { rowsMax: 5, timeoutMs: 5000 });
    await sink.query!('FROM item', LIMITS);
    await sink.query!("SELECT error('no')", LIMITS).catch(() => undefined);
    await sink.query!('DELETE FROM item', LIMITS).catch(() => undefined);
    await sink.query!('SELECT sum(a.range) FROM range(10000000) a, range(100000) b', {
      rowsMax: 5,
      timeoutMs: 50,
    }).catch(() => undefined);
    await sink.close();
    const files = await Promise.all(
      (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')),
    );
    expect(files.filter((file) => file.startsWith(sink.path))).toEqual([]);
  });

  test.each([
    'SHOW TABLES',
    'DESCRIBE item',
    'EXPLAIN SELECT * FROM item',
    'FROM _waltide.offsets',
    'SELECT table_name, state FROM _waltide.tables',
    'WITH a AS (SELECT 1 AS x) SELECT * FROM a',
  ])('may be %s', async (sql) => {
    const sink = await openSink();
    await sink.apply(changes(['t', item]));
    expect((await sink.query!(sql, LIMITS)).columns.length).toBeGreaterThan(0);
  });

  test('cannot write, whatever it looks like', async () => {
    const sink = await openSink();
    const file = join(await directory(), 'secret.csv');
    await writeFile(file, 'a,b\n1,2\n');
    await sink.apply(changes(['c', item, ['1', null, null, null]]));
    for (const sql of [
      'DELETE FROM item',
      'INSERT INTO item (id) VALUES (2)',
      'EXPLAIN ANALYZE DELETE FROM item',
      'CREATE TABLE x (a INT)',
      'CREATE TEMP TABLE x (a INT)',
      'DROP TABLE item',
      'SELECT 1; DELETE FROM item',
      'COMMIT',
      'CHECKPOINT',
      'PRAGMA memory_limit = "1MB"',
      "SET memory_limit = '1MB'",
      `COPY item TO '${file}'`,
      `SELECT * FROM read_csv('${file}')`,
      `SELECT * FROM read_text('${file}')`,
      `SELECT * FROM '${file}'`,
      `ATTACH '${file}.db'`,
      "SELECT * FROM glob('/*')",
      'INSTALL httpfs',
      'FROM force_checkpoint()',
      'FROM _waltide_rows(1)',
      'UPDATE _waltide.offsets SET commit_lsn = 0',
      'SELECT nonsense FROM nowhere',
      '',
    ]) {
      const error = await sink.query!(sql, LIMITS).catch((thrown: WaltideError) => thrown);
      expect([sql, (error as WaltideError).code]).toEqual([sql, 'SINK_QUERY']);
    }
    expect(await sink.rows('SELECT count(*) FROM item')).toEqual([['1']]);
    await sink.apply(changes(['d', item, null, ['1', null, null, null]]));
    expect(await sink.rows('SELECT count(*) FROM item')).toEqual([['0']]);
  });
});
