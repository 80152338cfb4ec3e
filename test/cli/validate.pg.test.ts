import { expect, it, onTestFinished } from 'vitest';
import { damage } from '../support/compare.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { cli, makeProject, start } from './support.ts';

it('asks the process that holds the sink, shows what differs, and repairs it', { timeout: 300_000 }, async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await database.query(
    `create table item (id int primary key, label text); insert into item select i, 'item ' || i from generate_series(1, 500) i`,
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
  await running.until(/streaming/i, 60_000);
  const found = await cli(project.dir, 'validate');
  expect(found.code, found.stderr).toBe(1);
  expect(found.stdout).toContain('analytics public.item 7: missing');
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
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining('matches no table that is captured')]);
  expect((await cli(project.dir, 'validate', '--checks', 'guess')).code).toBe(2);
});
