import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DeadLetter, LetterFilter } from '../../src/dead-letter/table.ts';
import { countLetters, listLetters, requestRetry } from '../../src/dead-letter/table.ts';
import { RejectedBatchError } from '../../src/errors.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { withSession } from '../../src/postgres/session.ts';
import { withDuckdb } from '../support/compare.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, start, type TestPipeline, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

const letters = ({ config }: TestPipeline, filter: LetterFilter = {}): Promise<DeadLetter[]> =>
  withSession(config.source, 'test', (client) => listLetters(client, config.source.slot, filter, { max: 10_000 }));
const count = ({ config }: TestPipeline, filter: LetterFilter = {}): Promise<number> =>
  withSession(config.source, 'test', (client) => countLetters(client, config.source.slot, filter));
const retry = ({ config }: TestPipeline, filter: LetterFilter = {}, force = false): Promise<number[]> =>
  withSession(config.source, 'test', (client) => requestRetry(client, config.source.slot, filter, force));

/** Refuses whole batches for the rows whose second column says `poison`, without a word about which, until it is healed. */
class PickySink extends MemorySink {
  healed = false;
  calls = 0;

  constructor() {
    super('picky');
    this.before = async ({ events }) => {
      this.calls++;
      const refused = (event: (typeof events)[number]): boolean =>
        (event.relation?.columns.length ?? 0) > 1 && event.after?.text(1) === 'poison';
      if (!this.healed && events.some(refused)) throw new RejectedBatchError('the store answered 422');
    };
  }

  get keys(): string[] {
    return this.events.filter(({ op }) => 'cur'.includes(op)).map(({ key }) => key!);
  }
}

describe('a sink that cannot tell what it refuses', () => {
  const rows = Array.from({ length: 100_000 }, (_, i) => i + 1);
  const isPoison = (id: number): boolean => id % 200 === 7;

  it('applies every good row in order, lists all poison, and takes it when it is retried', {
    timeout: 300_000,
  }, async () => {
    await database.query('create table t (id int primary key, v text)');
    const test = testPipeline(database, { sinks: [] });
    const sink = new PickySink();
    await catchUp(test.config, { sinks: [sink] });
    await database.query(
      "insert into t select i, case when i % 200 = 7 then 'poison' else 'good' end from generate_series(1, 100000) i",
    );
    expect(await catchUp(test.config, { sinks: [sink] })).toEqual([]);
    expect(sink.keys.map(Number)).toEqual(rows.filter((id) => !isPoison(id)));
    const listed = await letters(test);
    expect(listed.map(({ row }) => JSON.parse(row)[0]).map(Number)).toEqual(rows.filter(isPoison));
    expect(listed[0]).toMatchObject({
      sink: 'picky',
      schema: 'public',
      table: 't',
      op: 'c',
      before: null,
      after: { id: '7', v: 'poison' },
      code: 'SINK_REJECTED',
      message: 'the store answered 422',
      attempts: 1,
      state: 'open',
    });

    sink.healed = true;
    const running = start(test.config, { sinks: [sink] });
    await eventually(
      '500 open letters in the status',
      () => running.pipeline.status().sinks[0]?.deadLetters.open === 500,
    );
    expect(await retry(test)).toHaveLength(500);
    await eventually('all are retried', async () => (await count(test, { states: ['retried'] })) === 500);
    await running.stop();
    expect(sink.keys.map(Number).sort((a, b) => a - b)).toEqual(rows);
  });
});

describe('DuckDB', () => {
  it('lists what does not fit, and takes it once the column was widened', { timeout: 300_000 }, async () => {
    await database.query('create table t (id int primary key, n numeric(6,2), v text)');
    const test = testPipeline(database);
    for (const sink of test.config.sinks) sink.onUnrepresentable = 'dead-letter';
    await catchUp(test.config);
    await database.query(
      `insert into t select i, case when i % 200 = 7 then 'NaN' else i / 100.0 end::numeric(6,2), 'v' || i from generate_series(1, 100000) i`,
    );
    expect(await catchUp(test.config)).toEqual([]);
    const of = (sql: string): Promise<unknown[][]> =>
      withDuckdb(test.path, (query) => query(sql)) as Promise<unknown[][]>;
    expect(await of('select count(*) from t')).toEqual([[99_500n]]);
    expect(await count(test, { states: ['open'] })).toBe(500);

    await database.query('alter table t alter n type numeric');
    await database.query("update t set v = 'later' where id = 207");
    const running = start(test.config);
    await eventually('the change has come', async () => (await count(test, { states: ['resolved'] })) === 1);
    expect(await retry(test)).toHaveLength(499);
    await eventually('all are retried', async () => (await count(test, { states: ['retried'] })) === 499);
    await running.stop();
    expect(await of("select count(*), count(*) filter (n = 'NaN'), count(*) filter (v = 'later') from t")).toEqual([
      [100_000n, 500n, 1n],
    ]);
  });

  it('changes nothing but the letter where a forced retry is refused again', { timeout: 300_000 }, async () => {
    await database.query('create table t (id int primary key, n numeric(6,2), v text)');
    const test = testPipeline(database);
    for (const sink of test.config.sinks) sink.onUnrepresentable = 'dead-letter';
    await catchUp(test.config);
    await database.query(`insert into t values (1, 'NaN', 'bad'), (2, 'NaN', 'bad'), (3, 3, 'good')`);
    await catchUp(test.config);
    await database.query(`update t set n = 1, v = 'right' where id = 1`);
    await catchUp(test.config);
    const [resolved, open] = await letters(test);
    expect([resolved!.state, open!.state]).toEqual(['resolved', 'open']);
    const running = start(test.config);
    await eventually('streaming', () => running.pipeline.status().state === 'streaming');
    expect(await retry(test, {}, true)).toEqual([resolved!.id, open!.id]);
    await eventually('both are refused', async () => (await letters(test)).every(({ attempts }) => attempts === 2));
    expect(await letters(test)).toMatchObject([
      { state: 'resolved', closedBy: resolved!.closedBy, message: expect.stringContaining('column "n"') },
      { state: 'open', message: expect.stringContaining('column "n"') },
    ]);
    await eventually('the status says so', () => running.pipeline.status().sinks[0]?.deadLetters.open === 1);
    // Once it fits, it is as the letter has it.
    await database.query(`alter table t alter n type numeric; insert into t values (4, 4, 'more')`);
    const [{ lsn } = {}] = await database.query('select pg_current_wal_insert_lsn()::text as lsn');
    await running.pipeline.waitFor(parseLsn(lsn as string), { timeoutMs: 120_000 });
    await running.stop();
    const rows = await withDuckdb(test.path, (query) => query('select id, v from t order by id'));
    expect(rows).toEqual([
      [1, 'right'],
      [3, 'good'],
      [4, 'more'],
    ]);
  });

  it('lists what is refused after a replay in the same process, too', { timeout: 300_000 }, async () => {
    await database.query('create table t (id int primary key, n numeric(6,2))');
    const test = testPipeline(database, {}, { retain: { bytes: 1e9 } });
    for (const sink of test.config.sinks) sink.onUnrepresentable = 'dead-letter';
    await catchUp(test.config);
    const [{ lsn } = {}] = await database.query('select pg_current_wal_lsn()::text as lsn');
    await database.query("insert into t values (1, 1), (2, 'NaN')");
    const running = start(test.config);
    await eventually('its letter is there', async () => (await count(test, { states: ['open'] })) === 1);
    await eventually('it is applied', () => running.pipeline.status().sinks[0]!.events > 0);
    await running.pipeline.replay({ sink: 'analytics', tables: null, from: { lsn: parseLsn(lsn as string) } });
    await database.query("insert into t values (3, 'NaN'); update t set n = 2 where id = 2");
    await eventually('the new one is listed', async () =>
      (await letters(test, { states: ['open'] })).some(({ row }) => row.includes('3')),
    );
    await eventually('what was mended is settled', async () => (await count(test, { states: ['open'] })) === 1);
    await running.stop();
  });
});
