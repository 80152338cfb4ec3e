import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { API_BASE } from '../../src/api/route.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { cli, makeProject, type Running, start } from './support.ts';

let database: TestDatabase;
let project: Awaited<ReturnType<typeof makeProject>>;
beforeAll(async () => {
  database = await createDatabase();
  await database.query('create table items (id int primary key)');
  project = await makeProject({
    source: { url: database.url, slot: database.name, publication: database.name, tables: ['*.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'analytics.duckdb' }],
    api: { enabled: true, port: 0 },
  });
});
afterAll(async () => {
  await project?.remove();
  await database?.drop();
});

describe('waltide api-key', () => {
  test('create prints the key once, list shows no secret, revoke takes it back', async () => {
    expect((await cli(project.dir, 'api-key', 'list')).stdout).toContain('no keys yet');
    const created = await cli(project.dir, 'api-key', 'create', 'ci', '--role', 'operator', '--expires', '90d');
    expect(created).toMatchObject({ code: 0, stdout: expect.stringMatching(/^waltide_[0-9a-f]{12}_[0-9a-f]{64}\n$/) });
    const secret = created.stdout.trim().split('_')[2]!;
    const listed = await cli(project.dir, 'api-key', 'list', '--json');
    expect(listed.stdout).not.toContain(secret);
    expect(JSON.parse(listed.stdout)).toMatchObject([{ name: 'ci', role: 'operator', revokedAt: null }]);
    const twice = await cli(project.dir, 'api-key', 'create', 'ci');
    expect(twice).toMatchObject({ code: 2, stderr: expect.stringContaining('already') });
    expect((await cli(project.dir, 'api-key', 'revoke', 'ci')).code).toBe(0);
    expect((await cli(project.dir, 'api-key', 'list')).stdout).toContain('revoked');
    expect((await cli(project.dir, 'api-key', 'revoke', 'ci')).code).toBe(1);
    expect((await cli(project.dir, 'api-key', 'create', 'ci')).code).toBe(0);
  });

  test.each([
    ['a name with blanks', ['create', 'a b']],
    ['a role that is none', ['create', 'x', '--role', 'root']],
    ['a time that is none', ['create', 'x', '--expires', 'soon']],
  ])('%s is wrong usage', async (_what, argv) => {
    expect((await cli(project.dir, 'api-key', ...argv)).code).toBe(2);
  });
});

describe('waltide run with api.enabled', () => {
  let running: Running;
  let url: string;
  beforeAll(async () => {
    running = start(project.dir, 'run');
    await running.until(/"apiAddress":"[^"]+"/);
    url = /"apiAddress":"([^"]+)"/.exec(running.output.stderr)![1]!;
    await running.until(/"streaming"/);
  });
  afterAll(async () => {
    running?.child.kill('SIGTERM');
    expect((await running.end()).code).toBe(0);
  });

  test('serves it with keys, and the reader page to everyone', async () => {
    const { stdout } = await cli(project.dir, 'api-key', 'create', 'admin', '--role', 'admin');
    const headers = { authorization: `Bearer ${stdout.trim()}` };
    await eventually('it is ready', async () => {
      const status = await fetch(`${url}${API_BASE}/sync/status`, { headers });
      return status.status === 200 && ((await status.json()) as { ready: boolean }).ready;
    });
    expect((await fetch(`${url}${API_BASE}/sync/status`)).status).toBe(401);
    const page = await fetch(`${url}/api/v1/docs`);
    expect(page.headers.get('content-type')).toContain('text/html');
    expect(await page.text()).toContain('/api/v1/data-sync/sync/status');
    const document = (await (await fetch(`${url}/api/v1/openapi.json`)).json()) as { openapi: string };
    expect(document.openapi).toBe('3.1.0');
    const { instances } = (await (await fetch(`${url}${API_BASE}/instances`, { headers })).json()) as {
      instances: unknown[];
    };
    expect(instances).toHaveLength(1);
  });

  test('a port that is taken ends the process at once, with what to do', async () => {
    const port = Number(new URL(url).port);
    const other = await makeProject({
      source: { url: database.url, slot: `${database.name}_b`, publication: `${database.name}_b`, tables: ['*.*'] },
      sinks: [{ name: 'analytics', type: 'duckdb', path: join(project.dir, 'other.duckdb') }],
      api: { enabled: true, port },
    });
    const ended = await start(other.dir, 'run').end();
    await other.remove();
    expect(ended.code).toBe(2);
    expect(ended.stderr).toContain('api.port');
  });
});
