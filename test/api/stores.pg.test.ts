import { existsSync, mkdirSync, mkdtempSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { writablePath } from '../../src/api/paths.ts';
import type { Config } from '../../src/config/schema.ts';
import { eventually } from '../support/pipeline.ts';
import { startWorld, type World } from './world.ts';

const dir = join(mkdtempSync(join(tmpdir(), 'waltide-api-')), 'exports');
let world: World;
beforeAll(async () => {
  world = await startWorld({ exportDir: dir, backupDir: dir });
});
afterAll(() => world.close());

it('exports below api.exportDir as a run, for operators', async () => {
  const body = { tables: ['orders'], partition_by: [], compression: 'snappy' };
  const denied = await world.call('POST /sinks/:name/export', {
    params: { name: 'analytics' },
    body,
    key: world.keys.viewer,
  });
  expect(denied.status).toBe(403);
  const answer = await world.call('POST /sinks/:name/export', {
    params: { name: 'analytics' },
    body,
    key: world.keys.operator,
  });
  expect(answer).toMatchObject({ status: 202, json: { sync_type: 'export:analytics' } });
  const { run_id: id } = answer.json as { run_id: string };
  const run = async () => (await world.call('GET /sync/runs/:id', { params: { id } })).json as { status: string };
  await eventually('it is exported', async () => (await run()).status !== 'in_progress');
  expect(await run()).toMatchObject({ status: 'success', records_processed: 50 });
  expect(existsSync(join(dir, 'analytics', 'latest', 'public', 'orders', 'data.parquet'))).toBe(true);
});

it('takes a condition in SQL from admins only', async () => {
  const body = { tables: ['orders'], to: 'some', where: 'id > 40' };
  const asked = (key: string) => world.call('POST /sinks/:name/export', { params: { name: 'analytics' }, body, key });
  expect((await asked(world.keys.operator)).status).toBe(403);
  const answer = await asked(world.keys.admin);
  expect(answer.status).toBe(202);
  const run = async () => (await world.call('GET /sync/runs/:id', { params: { id: answer.json.run_id } })).json;
  await eventually('it is exported', async () => (await run()).status !== 'in_progress');
  expect(await run()).toMatchObject({ status: 'success' });
});

it('writes nowhere else', async () => {
  mkdirSync(dir, { recursive: true });
  symlinkSync('/tmp', join(dir, 'link'));
  for (const to of ['/tmp/x', '../x', 'a/../../x', 'link', 'link/x', './x', 'a//x', 'a\\..\\x', 'a\0']) {
    const answer = await world.call('POST /sinks/:name/export', { params: { name: 'analytics' }, body: { to } });
    expect([400, 403], to).toContain(answer.status);
  }
  const unset = { config: { api: {} } as Config };
  await expect(writablePath(unset, 'exportDir', 'x')).rejects.toMatchObject({ code: 'FORBIDDEN' });
  await expect(writablePath(unset, 'exportDir', '/x')).rejects.toMatchObject({ code: 'FORBIDDEN' });
  expect(await writablePath({ ...unset, local: true }, 'exportDir', '/x')).toBe('/x');
  const none = await world.call('POST /sinks/:name/export', { params: { name: 'none' }, body: {} });
  expect(none.status).toBe(404);
});

it('backs up below api.backupDir as a run, for admins', async () => {
  const params = { name: 'analytics' };
  const denied = await world.call('POST /sinks/:name/backup', { params, body: {}, key: world.keys.operator });
  expect(denied.status).toBe(403);
  const outside = await world.call('POST /sinks/:name/backup', { params, body: { to: '../x.duckdb' } });
  expect(outside.status).toBe(400);
  const answer = await world.call('POST /sinks/:name/backup', { params, body: { to: 'daily/a.duckdb' } });
  expect(answer).toMatchObject({ status: 202, json: { sync_type: 'backup:analytics' } });
  const run = async () => (await world.call('GET /sync/runs/:id', { params: { id: answer.json.run_id } })).json;
  await eventually('it is done', async () => (await run()).status !== 'in_progress');
  expect(await run()).toMatchObject({ status: 'success', sync_metadata: { path: join(dir, 'daily/a.duckdb') } });
  expect(existsSync(join(dir, 'daily', 'a.duckdb'))).toBe(true);
});
