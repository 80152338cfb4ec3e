import { afterEach, beforeEach, expect, test } from 'vitest';
import { migrate } from '../../src/postgres/control.ts';
import { withSession } from '../../src/postgres/session.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
beforeEach(async () => {
  database = await createDatabase();
  project = await makeProject({ source: { url: database.url, slot: database.name, tables: ['public.*'] } });
});
afterEach(async () => {
  await project.remove();
  await database.drop();
});

const alerts = (...argv: string[]) => cli(project.dir, 'alerts', ...argv);

test('are listed and acknowledged, without a process', async () => {
  expect(await alerts()).toMatchObject({ code: 0, stdout: 'no alerts\n' });
  const source = { url: database.url, slot: database.name, connectTimeoutMs: 10_000 };
  await withSession(source, 'test', migrate);
  await database.query(
    `insert into waltide.alerts (slot_name, rule, subject, state, severity, summary, since, opened_at, observed_at, observed_by)
     select $1, 'sink_lag', s, st, 'warning', 'sink is behind' || chr(27) || '[31m', now(), now(), now(), 'i'
     from (values ('a', 'firing'), ('b', 'resolved')) v (s, st)`,
    [database.name],
  );
  const { stdout } = await alerts();
  expect(stdout).toMatch(/^ *id +severity +state +since +rule +subject +summary +note/);
  expect(stdout).toMatch(/1 +warning +firing +\S+Z +sink_lag +a +sink is behind\\x1b\[31m$/m);
  expect(JSON.parse((await alerts('--all', '--json')).stdout)).toHaveLength(2);
  expect(await alerts('ack', '1', '--note', 'on it')).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^alert 1 is acknowledged: sink is behind/),
  });
  expect((await alerts()).stdout).toMatch(/acknowledged .* local:\S+: on it$/m);
  expect(await alerts('ack', '2')).toMatchObject({ code: 1, stderr: expect.stringContaining('alert 2 is resolved') });
  expect(await alerts('ack', '77')).toMatchObject({ code: 1, stderr: expect.stringContaining('there is no alert 77') });
  expect((await alerts('ack', 'x')).code).toBe(2);
  expect((await alerts('--limit', '0')).code).toBe(2);
});
