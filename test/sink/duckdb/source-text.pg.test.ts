import { DuckDBInstance } from '@duckdb/node-api';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { targetOf } from '../../../src/sink/duckdb/mapping.ts';
import { sourceTextSql } from '../../../src/sink/duckdb/source-text.ts';
import { createDatabase, type TestDatabase } from '../../support/postgres.ts';
import { type } from './support.ts';

/** Bits as the texts that PostgreSQL prints for them, and our expression on DuckDB's value of those texts. */
describe('the text of floating-point numbers is PostgreSQL’s', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database?.drop());

  async function compare(name: 'float4' | 'float8', numbers: readonly number[]): Promise<void> {
    const rows = await database.query(`select v::${name}::text as text from unnest($1::float8[]) as x (v)`, [numbers]);
    const expected = rows.map((row) => row.text as string);
    const target = targetOf(type(name), -1);
    const instance = await DuckDBInstance.create(':memory:');
    const connection = await instance.connect();
    const list = `unnest([${expected.map((text) => `'${text}'`).join(', ')}])`;
    await connection.run(`create table t as select CAST(v AS ${target.sql}) as v from (select ${list} as v)`);
    const found = await connection.runAndReadAll(`select ${sourceTextSql(target, 'v')} from t`);
    connection.closeSync();
    instance.closeSync();
    expect(found.getRows().map(([text]) => text)).toEqual(expected);
  }

  const view = new DataView(new ArrayBuffer(8));
  const double = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((bits) => {
    view.setBigUint64(0, bits);
    return view.getFloat64(0);
  });
  /** Where short texts lie half-way between two numbers: short integers times a power of ten, and their neighbours. */
  const sparse = (bits: number): fc.Arbitrary<number> =>
    fc
      .tuple(fc.bigInt({ min: 1n, max: 2n ** BigInt(bits) }), fc.nat({ max: 22 }), fc.integer({ min: -2, max: 2 }))
      .map(([digits, power, off]) => {
        view.setFloat64(0, Number(digits) * 10 ** power);
        view.setBigInt64(0, view.getBigInt64(0) + BigInt(off));
        return view.getFloat64(0);
      });
  const decade = fc.tuple(fc.double({ min: 1, max: 10, noNaN: true }), fc.integer({ min: -7, max: 20 }));
  const usual = decade.map(([mantissa, power]) => mantissa * 10 ** power);
  const seed = fc.sample(fc.integer(), 1)[0]!;

  it.each(['float4', 'float8'] as const)('%s', async (name) => {
    const generators = [double, usual, fc.integer().map((n) => n / 100), sparse(54), sparse(24), sparse(10)];
    const numbers = generators.flatMap((generator) => fc.sample(generator, { numRuns: 1000, seed }));
    numbers.push(1e23, -1e23, 0, -0, Number.NaN, Number.POSITIVE_INFINITY, 36028797018963984);
    for (const power of [50, 51, 52, 53])
      for (const sign of [1, -1]) numbers.push(sign * Number(2n ** BigInt(power) * 10n ** 23n));
    const fits =
      name === 'float8' ? numbers : numbers.filter((n) => Math.abs(n) < 3e38 && (n === 0 || Math.abs(n) > 2e-45));
    await compare(name, fits).catch((error: unknown) => {
      throw new Error(`seed ${seed}`, { cause: error });
    });
  });
});
