import { expect, it, onTestFinished } from 'vitest';
import { damage } from '../support/compare.ts';
import { catchUp, eventually, testPipeline } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { cli, makeProject, start } from './support.ts';

it('asks the process that holds the sink, shows what differs, and repairs it', { timeout: 300_000 }, async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await database.query(
    `create table item (id int primary key, label text); insert into item select i, 'item ' || i from generate_series(1, 500) i;
     create table stamped (id int primary key, updated_at timestamptz not null);
     insert into stamped values (1, now() - interval '3 hours'), (2, now() - interval '1 hour');
     create table "\x1b[31mEVIL\x07" (id int primary key); insert into "\x1b[31mEVIL\x07" select generate_series(1, 8000)`,
  );
  const { config, path } = testPipeline(database);
  const { url, slot, publication } = config.source;
  const project = await makeProject({
    source: { url, slot, publication, tables: ['*.*'], heartbeatIntervalMs: 500 },
    sinks: [{ name: 'analytics', type: 'duckdb', path }],
    validation: { rules: [{ name: 'labelled', sql: 'select id from item where label is null', on: 'both' }] },
  });
  onTestFinished(() => project.remove());

  const alone = await cli(project.dir, 'validate');
  expect([alone.code, alone.stderr]).toEqual([1, expect.stringContaining('no running process holds a sink')]);
  await catchUp(config);
  await damage(path, 'delete from item where id = 7', `update item set label = 'other' where id = 8`);

  const running = start(project.dir, 'run');
  onTestFinished(async () => {
    running.child.kill('SIGTERM');
    await running.end();
  });
  await running.until(/"streaming"/);
  // It is busiest right then, and nobody waits for its answer for long.
  await eventually('it answers', async () => (await cli(project.dir, 'status')).stdout.includes('streaming'));
  const found = await cli(project.dir, 'validate');
  expect(found.code, found.stderr).toBe(1);
  expect(found.stdout, found.stderr).toContain('analytics public.item 7: missing');
  expect(found.stdout).toContain('analytics public.item 8: different; label item 8 is other');
  expect(found.stdout).toContain('rule labelled in source: holds');
  expect(found.stdout).toContain('not equal: score 99.6%');
  const one = await cli(project.dir, 'validate', 'item', '--key', '8', '--checks', 'data_hash', '--json');
  expect(JSON.parse(one.stdout)).toMatchObject({ ok: false, tables: [{ table: 'public.item', different: 1 }] });
  const repaired = await cli(project.dir, 'validate', '--repair');
  expect([repaired.code, repaired.stdout]).toEqual([
    0,
    expect.stringContaining('everything that was compared is equal'),
  ]);
  const wrong = await cli(project.dir, 'validate', 'nothing');
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining('matches no table that is captured')]);
  const runs = () => database.query('select count(*)::int as n from waltide.sync_history where status = $1', ['error']);
  for (const options of [
    ['nix'],
    ['--sink', 'nix'],
    ['item', '--key', "1' or 1=1"],
    ['stamped', '--since', 'some day'],
    ['item', '--since', '2h'],
    ['--resume', 'nix'],
  ]) {
    const refused = await cli(project.dir, 'validate', ...options);
    expect([refused.code, refused.stderr], options.join(' ')).toEqual([2, expect.not.stringContaining('--resume ID')]);
    expect(refused.stderr).not.toContain('goes on with it');
  }
  expect(await runs()).toEqual([{ n: 0 }]);
  for (const [since, rows] of [
    ['2h', 1],
    ['90 minutes ago', 1],
    ['4h', 2],
    ['yesterday', 2],
  ] as const) {
    const some = await cli(project.dir, 'validate', 'stamped', '--since', since, '--checks', 'data_hash', '--json');
    expect(JSON.parse(some.stdout), some.stdout).toMatchObject({ ok: true, tables: [{ source_rows: rows }] });
  }
  // A name of the source reaches no terminal as it is.
  const slow = await cli(project.dir, 'validate', '*EVIL*', '--checks', 'data_hash', '--rows-per-second-max', '1000');
  expect(slow.code, slow.stderr).toBe(0);
  expect(slow.stderr).toContain('public.\\x1b[31mEVIL\\x07: ');
  for (const raw of ['\x07', '\x1b']) expect(slow.stderr + slow.stdout).not.toContain(raw);
  expect((await cli(project.dir, 'validate', '--checks', 'guess')).code).toBe(2);
});
