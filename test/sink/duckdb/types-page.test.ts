import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, test } from 'vitest';
import { isFresh } from '../../../docs/duckdb-types.ts';
import { damage, withDuckdb } from '../../support/compare.ts';

test('docs/duckdb-types.md is what docs/duckdb-types.ts writes: run `npm run docs` where this fails', () => {
  expect(isFresh()).toBe(true);
});

/** How many of each sign come back. */
async function stored(...statements: string[]): Promise<unknown> {
  const path = join(mkdtempSync(join(tmpdir(), 'waltide-test-')), 'signs.duckdb');
  await damage(path, ...statements, 'checkpoint');
  return withDuckdb(path, async (query) =>
    query('select v::varchar, count(*) from t where v = 0 group by 1 order by 1'),
  );
}

// Where this fails, DuckDB keeps the sign: then the page and the README need not say that it does not.
it('the page is right about 0 and -0: it is DuckDB itself, whatever the compression', async () => {
  const only = "insert into t select if(i % 2 = 0, '0', '-0') from range(10000) r(i)";
  expect(await stored('create table t (v double)', only)).toHaveLength(1);
  expect(await stored('create table t (v double using compression alp)', only)).toHaveLength(1);
  const among =
    "insert into t select case i % 3 when 0 then '0'::double when 1 then '-0'::double else i::double end from range(9999) r(i)";
  expect(await stored('create table t (v double)', among)).toEqual([
    ['-0.0', 3333n],
    ['0.0', 3333n],
  ]);
});
