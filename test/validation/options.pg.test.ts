import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ValidationReport, ValidationRequest } from '../../src/validation/report.ts';
import { damage } from '../support/compare.ts';
import {
  catchUp,
  eventually,
  type RunningPipeline,
  start,
  type TestPipeline,
  testPipeline,
} from '../support/pipeline.ts';
import { createDatabase, type Row, type TestDatabase } from '../support/postgres.ts';

const ROWS = 60_000;

describe('validate, narrowed', () => {
  let database: TestDatabase;
  let test: TestPipeline;
  let running: RunningPipeline;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query(`
      create table person (id int primary key, name text, email text, updated_at timestamptz not null);
      insert into person select i, 'n' || i, i || '@example.org', timestamptz '2026-01-01' + i * interval '1 hour' from generate_series(1, ${ROWS}) i;
      create table visit (id int primary key, person int references person, at date);
      insert into visit select i, i, '2026-01-01' from generate_series(1, 300) i;
      create table slug (slug text collate "en-x-icu" primary key, n int);
      insert into slug select case when i % 2 > 0 then 'Ä' else 'a' end || i, i from generate_series(1, 3000) i;
      create table hidden (token text primary key, n int);
      insert into hidden values ('a', 1), ('b', 2);
      analyze`);
    test = testPipeline(
      database,
      {
        validation: {
          rules: [
            { name: 'named', sql: 'select id from person where name is null', on: 'both' },
            { name: 'no-future', sql: `select id from visit where "at" > '2026-06-01'`, on: 'sink' },
          ],
        },
      },
      {
        protect: {
          key: 'a key of no less than thirty-two bytes',
          rules: [
            { columns: ['public.person.email'], mask: 'hash' },
            { columns: ['public.hidden.token'], mask: 'hash' },
          ],
        },
      },
    );
    await catchUp(test.config);
    await damage(
      test.path,
      `update person set name = 'other' where id in (10, 50000)`,
      `update person set email = 'x' where id = 20`,
      'delete from person where id = 300',
      `update visit set "at" = '2027-01-01' where id = 9`,
      'update slug set n = -1 where n = 77',
      'delete from slug where n = 78',
    );
    running = start(test.config);
    await eventually('streaming', () => running.pipeline.status().state === 'streaming');
  }, 300_000);
  afterAll(async () => {
    await running?.stop();
    await database?.drop();
  });

  const validate = (request: ValidationRequest, signal = AbortSignal.timeout(110_000)): Promise<ValidationReport> =>
    running.pipeline.validate(request, { signal });
  const keys = (report: ValidationReport, table = 0): string[] =>
    report.tables[table]!.differences.map(({ key, kind }) => `${key.join()} ${kind}`).sort();

  it('by a key, printed as the server prints it', async () => {
    const hash = { tables: ['person'], checks: ['data_hash'] } as const;
    expect(keys(await validate({ ...hash, key: ['0010'] }))).toEqual(['10 different']);
    expect(await validate({ ...hash, key: ['11'] })).toMatchObject({ ok: true });
    expect(keys(await validate({ ...hash, key: ['300'] }))).toEqual(['300 missing']);
    await expect(validate({ ...hash, key: ['1', '2'] })).rejects.toMatchObject({ code: 'USAGE' });
    await expect(validate({ key: ['1'] })).rejects.toMatchObject({ code: 'USAGE' });
    // No range was digested.
    expect((await validate({ ...hash, key: ['11'] })).tables).toMatchObject([{ sourceDigest: null, sinkDigest: null }]);
  });

  it('refuses what cannot be compared before anything is read, and as a mistake of who asks', async () => {
    const [usage, hash] = [{ code: 'USAGE', class: 'config' }, { tables: ['person'], checks: ['data_hash'] } as const];
    const wrong: ValidationRequest[] = [
      { tables: ['nix'] },
      { sinks: ['nix'] },
      { resume: 'nix' },
      { ...hash, key: ["1' or 1=1"] },
      { ...hash, key: ['1', '2'] },
      { ...hash, since: 'the day after the feast' },
      { ...hash, since: '2026-01-01', sinceColumn: 'nix' },
      { ...hash, since: '2026-01-01', sample: 1 },
    ];
    for (const request of wrong) {
      await expect(running.pipeline.checkValidation(request), JSON.stringify(request)).rejects.toMatchObject(usage);
      await expect(validate(request), JSON.stringify(request)).rejects.toMatchObject(usage);
    }
    const bad = validate({ ...hash, key: ["1' or 1=1"] });
    await expect(bad).rejects.toThrow(`"1' or 1=1" is no value of column id of the key of public.person`);
    for (const request of [{}, hash, { ...hash, key: ['1'] }, { ...hash, since: 'yesterday' }, { ...hash, sample: 5 }])
      await running.pipeline.checkValidation(request);
  });

  it('by a time, and by a sample', async () => {
    const hash = { tables: ['person'], checks: ['data_hash'] } as const;
    expect(keys(await validate({ ...hash, since: '2030-01-01' }))).toEqual(['50000 different']);
    await expect(validate({ tables: ['slug'], since: '2030-01-01' })).rejects.toMatchObject({ code: 'USAGE' });
    const sampled = await validate({ ...hash, sample: 500 });
    expect(sampled.tables[0]).toMatchObject({ sourceRows: 500, extra: 0 });
  });

  it('compares masked columns by what leaves the source, and no table whose key is masked', async () => {
    const report = await validate({ tables: ['person', 'hidden'], checks: ['data_hash'] });
    expect(keys(report)).toEqual(['10 different', '20 different', '300 missing', '50000 different']);
    const [masked] = report.tables[0]!.differences.filter(({ key }) => key[0] === '20');
    expect(masked!.columns).toEqual([{ name: 'email', source: expect.not.stringContaining('@'), sink: 'x' }]);
    expect(report.leftOut).toEqual([
      { sink: 'analytics', table: 'public.hidden', why: 'column "token" of its key is masked', meant: true },
    ]);
    // Unless it was asked for by name, that is no fault: nobody could run a schedule over all tables.
    expect(await validate({ tables: ['hidd*'], checks: ['data_hash'] })).toMatchObject({ ok: true, tables: [] });
    expect(await validate({ tables: ['hidden'], checks: ['data_hash'] })).toMatchObject({ ok: false, tables: [] });
  });

  it('compares tables whose keys have another order in the sink', async () => {
    const report = await validate({ tables: ['slug'] });
    expect(keys(report)).toEqual(['a78 missing', 'Ä77 different']);
  });

  it('counts rows by their keys, follows references, asks rules', async () => {
    const report = await validate({
      tables: ['person', 'visit'],
      checks: ['row_count', 'referential_integrity', 'business_rules'],
    });
    expect(keys(report)).toEqual(['300 missing']);
    expect(report.tables[0]).toMatchObject({ sourceRows: ROWS, sinkRows: ROWS - 1 });
    expect(report.references).toMatchObject([
      { table: 'public.visit', references: 'public.person', orphans: [{ key: ['300'], rows: 1 }] },
    ]);
    expect(report.rules).toMatchObject([
      { rule: 'named', side: 'source', holds: true },
      { rule: 'named', side: 'analytics', holds: true },
      { rule: 'no-future', side: 'analytics', holds: false, violations: 1, rows: [[9]] },
    ]);
  });

  it('shares the digests among its sessions, goes on where one is lost, and leaves none', async () => {
    const sessions = (): Promise<readonly Row[]> =>
      database.query(
        `select pid from pg_stat_activity where application_name like '%validation' and datname = current_database() order by backend_start`,
      );
    const request = { tables: ['person'], checks: ['data_hash'] } as const;
    let most = 0;
    for (const end of ['by itself', 'lost', 'ended'] as const) {
      const stop = new AbortController();
      const validation = running.pipeline.validate(request, { signal: stop.signal });
      const outcome = validation.then(
        (report) => keys(report),
        () => 'ended',
      );
      await eventually('a second session', async () => {
        const pids = await sessions();
        most = Math.max(most, pids.length);
        if (pids.length < 2 && !(await Promise.race([outcome, null]))) return false;
        if (end === 'ended') stop.abort();
        if (end === 'lost') await database.query('select pg_terminate_backend($1)', [pids.at(-1)?.pid ?? 0]);
        return true;
      });
      const found = await outcome;
      if (end !== 'ended')
        expect(found, end).toEqual(['10 different', '20 different', '300 missing', '50000 different']);
      await eventually('no session', async () => (await sessions()).length === 0);
    }
    expect(most).toBeLessThanOrEqual(2);
  });

  it('goes on where it was ended', { timeout: 300_000 }, async () => {
    const stop = new AbortController();
    let id = '';
    const request = { tables: ['person'], checks: ['data_hash'], rowsPerSecondMax: 2000 } as const;
    const ended = running.pipeline.validate(request, { signal: stop.signal, onBegin: (begun) => (id = begun) });
    ended.catch(() => {});
    await eventually('a saved cursor', async () => {
      const rows = await database.query(
        'select 1 from waltide.validation_results where validation_id = $1 and cursor_key is not null',
        [id],
      );
      return rows.length > 0;
    });
    stop.abort();
    await expect(ended).rejects.toThrow();
    expect(await database.query('select state from waltide.validations where id = $1', [id])).toEqual([
      { state: 'cancelled' },
    ]);
    await database.query(`update waltide.validations set request = request - 'rowsPerSecondMax' where id = $1`, [id]);
    const resumed = await validate({ resume: id });
    expect(resumed.tables[0]).toMatchObject({ sourceRows: ROWS, sinkRows: ROWS - 1, missing: 1, different: 3 });
    await expect(validate({ resume: id })).rejects.toMatchObject({ code: 'USAGE' });
  });
});
