import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Column } from '../../src/event/relation.ts';
import { describeRelation, TypeCatalog } from '../../src/postgres/catalog.ts';
import { connect } from '../../src/postgres/connection.ts';
import { parseExpression } from '../../src/protect/expression.ts';
import { bindFilter } from '../../src/protect/filter.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';

const COLUMNS: Record<string, readonly [type: string, values: readonly (string | null)[]]> = {
  i: ['int', ['0', '1', '-7', '2147483647', null]],
  l: ['bigint', ['9007199254740993', '9007199254740992', '-1', '0', null]],
  n: ['numeric', ['1.0', '1.00', '-0.5', '1e30', 'NaN', 'Infinity', '-Infinity', null]],
  f: ['float8', ['1', '0.1', 'NaN', 'Infinity', '-Infinity', '-0', '1e-300', null]],
  r: ['real', ['0.1', '1', 'NaN', '16777217', null]],
  t: ['text', ['', 'a', 'A', 'ab', 'é', 'z%', '%', '_', "it's", '\\', 'line\nbreak', '😀', null]],
  c: ['char(4)', ['a', 'ab', '', null]],
  b: ['boolean', ['t', 'f', null]],
  d: ['date', ['2024-02-29', '1999-12-31', 'infinity', '-infinity', '0044-03-15 BC', null]],
  s: ['timestamp', ['2024-01-01 00:00:00', '2024-01-01 00:00:00.000001', 'infinity', null]],
  z: ['timestamptz', ['2024-01-01 00:00:00+00', '2023-12-31 23:59:59+00', '-infinity', null]],
  u: ['uuid', ['11111111-1111-1111-1111-111111111111', 'abcdefab-cdef-abcd-efab-cdefabcdefab', null]],
  m: ['mood', ['sad', 'ok', null]],
};

let database: TestDatabase;
let columns: readonly Column[];
let client: pg.Client;
let rows: readonly (string | null)[][];

beforeAll(async () => {
  database = await createDatabase();
  const list = Object.entries(COLUMNS).map(([name, [type]]) => `${name} ${type}`);
  await database.query("create type mood as enum ('sad', 'ok')");
  await database.query(`create table t (k int primary key, ${list.join(', ')})`);
  const random = new Random(1);
  const inserts: string[] = [];
  for (let k = 0; k < 300; k++) {
    const values = Object.values(COLUMNS).map(([, all]) => random.pick(all));
    inserts.push(
      `(${[k, ...values.map((value) => (value === null ? 'null' : `'${value.replaceAll("'", "''")}'`))].join(', ')})`,
    );
  }
  await database.query(`insert into t values ${inserts.join(', ')}`);
  client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
  await client.query("set timezone = 'UTC'; set extra_float_digits = 1");
  const [table] = await database.query("select 't'::regclass::oid::int as oid");
  const described = { oid: table!.oid as number, schema: 'public', table: 't', replicaIdentity: 'd' as const };
  ({ columns } = await describeRelation(client, new TypeCatalog(client), described, ['k', ...Object.keys(COLUMNS)]));
  const texts = columns.map(({ name }) => `${name}::text`).join(', ');
  rows = (
    await client.query<(string | null)[]>({ text: `select ${texts} from public.t order by t.k`, rowMode: 'array' })
  ).rows;
  // PostgreSQL's own output, which casts of booleans and char(n) are not.
  const at = columns.findIndex(({ name }) => name === 'b');
  rows = rows.map((row) => row.map((value, i) => (i === at && value !== null ? value[0]! : value)));
});
afterAll(async () => {
  await client.end();
  await database.drop();
});

/** Keys that the filter lets through, as PostgreSQL says and as we do. */
async function both(filter: string): Promise<readonly [postgres: number[], ours: number[]]> {
  const { rows: found } = await client.query<{ k: number }>(`select k from public.t where ${filter} order by k`);
  const bound = bindFilter(parseExpression(filter.replaceAll(' collate "C"', '')), columns, 't');
  const ours = rows.flatMap((row, k) => (bound((column) => row[column]) === true ? [k] : []));
  return [found.map(({ k }) => k), ours];
}

const FILTERS = [
  'i > 0',
  'i <= -7 or i is null',
  'l = 9007199254740993',
  'l > 9007199254740992',
  'n = 1',
  'n >= 1',
  'n < -0.25',
  'n = n',
  'f > 1',
  'f = 0',
  'f <> 0.1',
  'f <= 1e-300',
  'r = 0.1',
  'r >= 16777216',
  'r < f',
  'n < f',
  'i = n',
  'l between -1 and 5',
  'i in (0, 1, 5)',
  "t = ''",
  't collate "C" > \'a\'',
  't collate "C" <= \'é\'',
  "t like '%'",
  "t like 'a_'",
  "t like '%\\%'",
  "t like '%b%' or t like 'z\\%'",
  "t like '_'",
  "t not like 'a%'",
  "t = 'it''s'",
  "t in ('a', 'A', '%')",
  "not (t = 'a')",
  "c = 'a'",
  "c <> 'ab '",
  'b',
  'not b',
  'b = false',
  'b is not null and not b',
  "d > '2000-01-01'",
  "d < '0001-01-01'",
  "d = 'infinity'",
  "s >= '2024-01-01'",
  "s > '2024-01-01 00:00:00'",
  "z < '2024-01-01 00:00:00+00'",
  "z = '2024-01-01'",
  "u = 'ABCDEFAB-CDEF-ABCD-EFAB-CDEFABCDEFAB'",
  "u < 'a1111111-1111-1111-1111-111111111111'",
  "m = 'ok'",
  'm is null',
  '"t" is null and (i = 0 or i = 1)',
  "not (i > 0 and (t = 'a' or b))",
  'i > 0 and not (n > 0 or f > 0)',
  'TRUE = b',
  'i not between 0 and 1',
];

describe('filters', () => {
  it.each(FILTERS)('mean what they mean to PostgreSQL: %s', async (filter) => {
    const [postgres, ours] = await both(filter);
    expect(ours).toEqual(postgres);
  });

  it('combined at random', async () => {
    const random = new Random(7);
    const simple = FILTERS.map((filter) => `(${filter})`);
    const make = (depth: number): string => {
      if (depth === 0) return random.pick(simple);
      const [a, b] = [make(depth - 1), make(depth - 1)];
      return random.pick([`not ${a}`, `(${a} and ${b})`, `(${a} or ${b})`, `(not ${a} or ${b} and not ${b})`]);
    };
    for (let i = 0; i < 100; i++) {
      const filter = make(1 + random.int(3));
      const [postgres, ours] = await both(filter);
      expect(ours, filter).toEqual(postgres);
    }
  });

  it.each([
    ['i >', /a column or a value at character 4/],
    ['i = 1; drop table t', /a column, a value or a sign at character 6/],
    ['i = null', /is null or is not null/],
    ["i = 'one'", /compares number with "one"/],
    ['t = 5', /compares text with "5"/],
    ['i = t', /compares number with text/],
    ['d = z', /compares date with timestamptz/],
    ["d = 'yesterday'", /takes "yesterday" for a date/],
    ['nothing = 1', /names a column "nothing"/],
    ['1 = 1', /two values and no column/],
    ['pg_sleep(10)', /and, or or the end/],
    ['t like t', /a pattern/],
    [`${'('.repeat(200)}i = 1${')'.repeat(200)}`, /fewer parentheses/],
    ["t = 'open", /a column, a value or a sign/],
  ])('are refused where they make no sense: %s', (filter, message) => {
    expect(() => bindFilter(parseExpression(filter), columns, 't')).toThrow(message);
  });
});
