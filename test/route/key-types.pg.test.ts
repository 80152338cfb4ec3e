import { afterAll, beforeAll, expect, it } from 'vitest';
import { TYPES_SQL } from '../support/every-type.ts';
import { held, literal, printed } from '../support/every-value.ts';
import { catchUp, type TestPipeline, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { askForSnapshot } from '../support/snapshots.ts';

/*
 * Goal: a key may be of any type that has an order. Method: per type a table with a TOASTed value, whose rows are
 * inserted, changed, moved to another key, deleted and put under a key that was free; then read again in chunks of two,
 * so that the cursor stands at every value. The oracle is what the server prints.
 */
const KEYS: Readonly<Record<string, readonly string[]>> = {
  mood: ['sad', 'it\'s "so" so', 'two words', 'a,b', 'ümlaut 😀', '', '{x}', 'null'],
  uuid: [
    '00000000-0000-0000-0000-000000000000',
    'ffffffff-ffff-ffff-ffff-ffffffffffff',
    '7fffffff-0000-8000-0000-000000000001',
    '80000000-0000-0000-8000-000000000000',
  ],
  text: ['', ' ', 'a', 'A', 'ä', 'a\tb\nc', '\\N', "'", '😀', 'NULL'],
  'varchar(5)': ['', 'b', 'ab', 'äöü', '"'],
  'char(5)': ['', 'ab', 'b', ' a'],
  name: ['', 'B', 'a', '"q"'],
  '"char"': ['', 'a', 'b', '\\377'],
  citext: ['B', 'a', 'C', 'ä', ''],
  mail: ['B', 'a', 'C', 'ä', ''],
  bytea: ['\\x', '\\x00', '\\xff00', '\\x5c5c', '\\x0a'],
  int8: ['-9223372036854775808', '-1', '0', '9007199254740993', '9223372036854775807'],
  oid: ['0', '1', '2147483648', '4294967295'],
  tiny: ['1', '2', '50', '99'],
  numeric: ['NaN', 'Infinity', '-Infinity', '1e400', '0.10', '-0.0001', '5'],
  'numeric(6,2)': ['-9999.99', '0', '0.01', '9999.99', '1.5'],
  float8: ['NaN', 'Infinity', '-Infinity', '0', '5e-324', '0.1', '-1e300'],
  float4: ['NaN', 'Infinity', '-Infinity', '0', '1e-45', '0.1'],
  money: ['-92233720368547758.08', '0', '1234.5', '1'],
  date: ['infinity', '-infinity', '4714-11-24 BC', '0001-01-01', '5874897-12-31'],
  time: ['00:00:00', '24:00:00', '23:59:59.999999', '12:34:56.5'],
  timetz: ['00:00:00+00', '24:00:00-15:59:59', '12:34:56.789012+05:45:10', '01:02:03+15:59'],
  timestamp: ['infinity', '-infinity', '4714-11-24 00:00:00 BC', '1969-12-31 23:59:59.999999', '2026-01-01'],
  timestamptz: [
    'infinity',
    '-infinity',
    '4714-11-24 00:00:00+00 BC',
    '2026-11-22 03:04:05.1+00',
    '2026-11-22 03:04:05+02',
  ],
  interval: ['0', '-1 mon', '1 year -2 mons +3 days -04:05:06.789012', '00:00:00.000001'],
  inet: ['10.0.0.1', '10.0.0.1/8', '::1', 'fe80::1/64'],
  macaddr: ['08:00:2b:01:02:03', '00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff', '08:00:2b:01:02:04'],
  'bit(3)': ['000', '101', '111', '001'],
  varbit: ['', '1', '0', '01'],
  pg_lsn: ['0/0', 'FFFFFFFF/FFFFFFFF', '16/B374D848', '0/1'],
  jsonb: ['{"b": 1}', 'null', '[1.50]', '"x"', '1e300'],
  'text[]': ['{}', '{a,NULL}', '{"a b"}', '{{a},{b}}'],
  'mood[]': ['{}', '{sad}', '{"two words",NULL}', '{""}'],
  pair: ['(,)', '(1,"a ""b"" \\\\ c")', '(-1,)', '(2,"")'],
  int4range: ['empty', '[1,5)', '(,)', '[1,)'],
  tsvector: ['', 'a', "'a''b':1A", 'b'],
  ltree: ['', 'Top', 'Top.Science', 'a.b'],
};
const TYPES = Object.keys(KEYS);
const table = (index: number): string => `k${index}`;

let database: TestDatabase;
let pipeline: TestPipeline;
beforeAll(async () => {
  database = await createDatabase();
  await database.query(TYPES_SQL);
  for (const [i, type] of TYPES.entries()) {
    await database.query(`create table ${table(i)} (id int not null, k ${type} primary key, v text, big text);
      alter table ${table(i)} alter big set storage external`);
    // The last value is kept for a row that moves there.
    for (const [at, value] of KEYS[type]!.slice(0, -1).entries())
      await database.query(
        `insert into ${table(i)} values (${at}, ${literal(value)}, 'copied', repeat('${at}é', 2000))`,
      );
  }
  pipeline = testPipeline(database, { snapshot: { chunkRows: 2, tablesIntervalMs: 500 } });
  expect(await catchUp(pipeline.config)).toEqual([]);
}, 180_000);
afterAll(() => database?.drop());

async function differing(): Promise<string[]> {
  const found: string[] = [];
  for (const [i, type] of TYPES.entries()) {
    const { rows } = await held(pipeline.path, table(i));
    const source = await printed(database.url, table(i));
    if (JSON.stringify(rows) !== JSON.stringify(source))
      found.push(`${type}: ${JSON.stringify(rows)}, but ${JSON.stringify(source)}`.replace(/(..é)(\1)+/g, '$1…'));
  }
  return found;
}

it('finds rows by keys of every type: changed, moved, deleted, and another under a key that was free', async () => {
  for (const [i, type] of TYPES.entries()) {
    const [first, last] = [KEYS[type]![0]!, KEYS[type]!.at(-1)!].map(literal);
    await database.query(`
      begin;
      update ${table(i)} set v = 'changed' where id = 2;
      delete from ${table(i)} where id = 1;
      update ${table(i)} set k = ${last} where id = 0;
      insert into ${table(i)} values (100, ${first}, 'put', 'small');
      commit`);
  }
  expect(await catchUp(pipeline.config)).toEqual([]);
  expect(await differing()).toEqual([]);
});

it('reads tables again in chunks, by keys of every type', async () => {
  for (let i = 0; i < TYPES.length; i++) {
    await askForSnapshot(database, pipeline.config, table(i));
    await database.query(`update ${table(i)} set v = v || '!' where id = 100`);
  }
  expect(await catchUp(pipeline.config)).toEqual([]);
  expect(await differing()).toEqual([]);
  const ends = await database.query(
    'select table_name, state, rows_done::int as rows, error from waltide.snapshots order by 1',
  );
  for (const [i, type] of TYPES.entries())
    expect(
      ends.find((one) => one.table_name === table(i)),
      type,
    ).toMatchObject({
      state: 'completed',
      rows: KEYS[type]!.length - 1,
      error: null,
    });
});
