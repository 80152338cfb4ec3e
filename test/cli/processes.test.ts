import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { API_BASE } from '../../src/api/route.ts';
import type { PipelineStatus } from '../../src/pipeline/status.ts';
import { pipelineStatus } from '../api/fixtures.ts';
import { cli, makeProject } from './support.ts';

/*
 * Goal: a process that lives is never said to be gone, and nobody is told to start a second one beside it. Method: a control
 * address (with the pid of this test, which lives) that answers as it is told to, or not at all.
 */
type Answer = { readonly status?: number; readonly body: unknown } | 'silence';

let project: { dir: string; remove(): Promise<void> };
let server: Server;
let answer: (path: string, method: string) => Answer;

beforeEach(async () => {
  project = await makeProject({
    source: { url: 'postgres://u:p@127.0.0.1:1/db', tables: ['public.*'], connectTimeoutMs: 2000 },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    stateDir: './state',
  });
  server = createServer((request, response) => {
    const told = answer(request.url!.slice(API_BASE.length), request.method!);
    if (told === 'silence') return;
    response.writeHead(told.status ?? 200, { 'content-type': 'application/json' }).end(JSON.stringify(told.body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  await mkdir(join(project.dir, 'state'));
  await writeFile(
    join(project.dir, 'state', `waltide.all.${process.pid}.json`),
    JSON.stringify({
      ...{ pid: process.pid, host: hostname(), role: 'all', slot: 'waltide', token: 'x'.repeat(64) },
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    }),
  );
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await project.remove();
});

const at = (appliedLsn: string): PipelineStatus => {
  const status = pipelineStatus();
  return { ...status, sinks: [{ ...status.sinks[0]!, name: 'analytics', appliedLsn }] };
};

test('replay waits for a process that is slow to answer, and says so', async () => {
  let asked = 0;
  answer = (path) => {
    if (path.endsWith('/replay'))
      return { status: 202, body: { run_id: '7', sink: 'analytics', tables: null, from: '0/10', stood_at: '0/900' } };
    asked++;
    if (asked === 2) return 'silence';
    return { body: at(asked > 3 ? '0/900' : '0/100') };
  };
  const outcome = await cli(project.dir, 'replay', '--from-lsn', '0/10');
  expect(outcome.code, outcome.stderr).toBe(0);
  expect(outcome.stderr).toMatch(new RegExp(`pid ${process.pid} does not answer for \\d+ s; it lives, waiting`));
  expect(outcome.stdout).toContain('up to 0/900');
});

test('replay says that the process has ended where it has', async () => {
  answer = (path) => {
    if (!path.endsWith('/replay')) return { body: at('0/100') };
    server.close();
    server.closeIdleConnections();
    return { status: 202, body: { run_id: '7', sink: 'analytics', tables: null, from: '0/10', stood_at: '0/900' } };
  };
  const outcome = await cli(project.dir, 'replay', '--from-lsn', '0/10');
  expect(outcome.code).toBe(1);
  expect(outcome.stderr).toContain('the process that was replaying has ended');
});

test('one that does not answer is named, and no second one is asked for', async () => {
  answer = () => 'silence';
  const said = await Promise.all([
    cli(project.dir, 'wait', '--lsn', '0/10', '--timeout', '1s'),
    cli(project.dir, 'query', 'select 1'),
    cli(project.dir, 'validate'),
    cli(project.dir, 'replay', '--from-lsn', '0/10'),
  ]);
  for (const { code, stderr } of said) {
    expect(code).toBe(1);
    expect(stderr).toContain(`pid ${process.pid} does not answer`);
    expect(stderr).toContain('Do not start a second one');
    expect(stderr).not.toContain('waltide run');
  }
});

test.each([
  ['starting', 'is still starting'],
  ['copying', 'is in its first copy'],
] as const)('one that is %s is named, and no second one is asked for', async (state, words) => {
  answer = () => ({ body: { ...pipelineStatus(), state, sinks: [] } });
  const said = await Promise.all([
    cli(project.dir, 'wait', '--lsn', '0/10', '--timeout', '10ms'),
    cli(project.dir, 'query', 'select 1'),
    cli(project.dir, 'validate'),
    cli(project.dir, 'replay', '--from-lsn', '0/10'),
  ]);
  for (const { code, stderr } of said) {
    expect(code).toBe(1);
    expect(stderr).toContain(`the process with pid ${process.pid} ${words}`);
    expect(stderr).not.toContain('waltide run');
  }
});

test('a validation is followed through a process that is slow to answer', async () => {
  let asked = 0;
  answer = (path, method) => {
    if (method === 'POST') return { status: 202, body: { run_id: '7' } };
    if (path === '/cdc/status') return { body: at('0/100') };
    if (++asked === 1) return 'silence';
    const validation = { id: 'v', ok: true, score: 100, tables: [], references: [], rules: [], left_out: [] };
    return { body: { status: 'success', rows: 0, error: null, error_class: null, progress: {}, validation } };
  };
  const outcome = await cli(project.dir, 'validate');
  expect(outcome.code, outcome.stderr).toBe(0);
  expect(outcome.stderr).toContain('it lives, waiting');
});

test('wait and status say what a stream waits for that looks as if it stood still', async () => {
  const decoding = { lsn: '0/400', until: '0/800' };
  answer = (path) => {
    if (path !== '/cdc/status')
      return {
        status: 504,
        body: { code: 'NOT_REACHED', detail: 'sink "analytics" stands at 0/100', help: 'Ask again.' },
      };
    const status = at('0/100');
    return { body: { ...status, source: { ...status.source, decoding } } };
  };
  const words = 'the server decodes retained WAL once more before it sends anything: at 0/400 of 0/800';
  expect((await cli(project.dir, 'wait', '--lsn', '0/900', '--timeout', '10ms')).stderr).toContain(words);
  expect((await cli(project.dir, 'status')).stdout).toContain(words);
});
