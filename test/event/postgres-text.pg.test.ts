import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatArray, parseArray } from '../../src/event/array-text.ts';
import { formatDate, formatTimestamp, parseDate, parseTimestamp } from '../../src/event/temporal.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { arrayOf, baseTypeOf, relationOf, rowOf } from './fixtures.ts';
import { event, valueBytes } from './json-fixtures.ts';

const seed = Number(process.env.WALTIDE_TEST_SEED ?? Date.now() % 1_000_000);

/** The server is the oracle: what it prints is what the codec takes for canonical. */
describe(`the texts that PostgreSQL prints, seed ${seed}`, () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query(`alter database ${database.name} set timezone = 'UTC'`);
  });
  afterAll(() => database?.drop());

  const texts = async (sql: string, parameter: unknown): Promise<string[]> => {
    return (await database.query(sql, [parameter])).map((row) => row.text as string);
  };

  it('of arrays are read and written the same', async () => {
    const unit = fc.constantFrom(
      '"',
      '\\',
      '{',
      '}',
      ',',
      ' ',
      '\t',
      '\n',
      '\v',
      '\f',
      '\r',
      '\u0001',
      '\u00a0',
      'a',
      'é',
      '𝄞',
    );
    const leaf = fc.oneof(fc.string({ unit, maxLength: 4 }), fc.constantFrom('', 'NULL', 'nUll', 'NULLS'));
    const samples = fc.sample(fc.array(fc.option(leaf), { maxLength: 5 }), { numRuns: 500, seed });
    const sql = `select (select array_agg(e order by n) from jsonb_array_elements_text(a) with ordinality as x (e, n))::text as text
      from jsonb_array_elements($1::jsonb) with ordinality as y (a, n) where jsonb_array_length(a) > 0 order by n`;
    const printed = await texts(sql, JSON.stringify(samples));
    const expected = samples.filter((items) => items.length > 0);
    const relation = relationOf([['v', arrayOf(baseTypeOf('text'))]]);
    expect(printed).toHaveLength(expected.length);
    printed.forEach((text, i) => {
      const array = parseArray(text);
      expect(array).toEqual({ lowerBounds: [1], dims: [expected[i]!.length], elements: expected[i] });
      expect(formatArray(array)).toBe(text);
      const json = JSON.parse(valueBytes(event('c', relation, null, rowOf(relation, [text]))).toString());
      expect(json.after.v).toEqual(expected[i]);
    });
  });

  it('of dates of every era are the calendar’s', async () => {
    const days = fc.sample(fc.integer({ min: -2_440_588, max: 2_145_031_948 }), { numRuns: 500, seed });
    days.push(-2_440_588, -719_163, -719_162, 0, 2_932_896, 2_932_897);
    const printed = await texts(
      `select (date '1970-01-01' + d)::text as text from unnest($1::int[]) with ordinality as x (d, n) order by n`,
      days,
    );
    expect(printed).toEqual(days.map(formatDate));
    expect(printed.map(parseDate)).toEqual(days);
  });

  it('of timestamps of every era are the calendar’s', async () => {
    const micros = fc.sample(fc.bigInt({ min: -210_866_803_200_000_000n, max: 9_223_371_331_199_999_999n }), {
      numRuns: 500,
      seed,
    });
    micros.push(-210_866_803_200_000_000n, 0n, -1n, 9_007_199_254_740_993n, -62_135_596_800_000_001n);
    const sql = `select (timestamptz '1970-01-01 00:00:00+00' + make_interval(days => (m / 86400000000)::int) + (m % 86400000000) * interval '1 microsecond')::text as text
      from unnest($1::bigint[]) with ordinality as x (m, n) order by n`;
    const printed = await texts(sql, micros.map(String));
    expect(printed).toEqual(micros.map((value) => formatTimestamp(value, '+00')));
    expect(printed.map(parseTimestamp)).toEqual(micros);
  });
});
