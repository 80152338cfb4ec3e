import { expect, it, onTestFinished } from 'vitest';
import type { ValidationReport } from '../../src/validation/report.ts';
import { damage, withDuckdb } from '../support/compare.ts';
import { TYPES, TYPES_SQL } from '../support/every-type.ts';
import { inserts } from '../support/every-value.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';

/** DuckDB stores a segment of nothing but 0 and -0 as one constant: after a rewrite of the table -0 may be 0. */
const types = TYPES.map((type) => ({ ...type, values: type.values.filter((value) => value !== '-0') }));

/** Every value of every type is one digest on both sides, and in every column another value is another digest. */
it('compares every value of every type', { timeout: 300_000 }, async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  const test = testPipeline(database);
  const columns = types.map(({ type }, i) => `c${i} ${type}`).join(', ');
  await database.query(`${TYPES_SQL}; create table every (id int primary key, ${columns})`);
  await database.query(
    inserts(
      0,
      types.map(({ values }) => values),
    ),
  );
  await catchUp(test.config);
  const validate = async (): Promise<ValidationReport> => {
    const running = start(test.config);
    try {
      await eventually('streaming', () => running.pipeline.status().state === 'streaming');
      return await running.pipeline.validate({}, { signal: AbortSignal.timeout(150_000) });
    } finally {
      await running.stop();
    }
  };
  const equal = await validate();
  expect(equal.tables[0]!.differences).toEqual([]);
  expect(equal).toMatchObject({ ok: true, score: 100 });

  // Row 0 is NULL throughout, row 1 holds the first value of each.
  const set = types.map((_, i) => `c${i} = other.c${i}`).join(', ');
  await damage(
    test.path,
    `update every set ${set} from (select * from every where id = 1) as other where every.id = 0`,
  );
  const changed = await validate();
  expect(changed.tables[0]!.differences.map(({ key, kind }) => [key, kind])).toEqual([[['0'], 'different']]);
  expect(changed.tables[0]!.differences[0]!.columns.map(({ name }) => name)).toEqual(types.map((_, i) => `c${i}`));

  // What DuckDB's types cannot hold turns columns into text; they are compared as such.
  await damage(test.path, 'delete from every where id = 0');
  await database.query('delete from every where id = 0');
  await database.query(
    inserts(
      5000,
      types.map(({ wide }) => wide ?? []),
    ),
  );
  const text = await validate();
  expect(text.tables[0]!.differences).toEqual([]);
  expect(text.ok).toBe(true);
  const held = await withDuckdb(test.path, (query) => query('select count(*) from every where id >= 5000'));
  expect(Number(held[0]![0])).toBeGreaterThan(1);
});
