import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findProcesses, queryProcess } from '../../src/api/control-client.ts';
import { type ControlFile, readControlFiles } from '../../src/api/control-file.ts';
import { ControlServer } from '../../src/api/control-server.ts';
import { API_BASE, type Controlled } from '../../src/api/route.ts';
import { resolveConfig } from '../../src/config/load.ts';
import { WaltideError } from '../../src/errors.ts';
import type { Log } from '../../src/log.ts';
import { Sessions } from '../../src/postgres/sessions.ts';
import { pipelineStatus, quiet } from './fixtures.ts';
import { depsOf, idle } from './support.ts';

/** More than any pid_max. */
const DEAD_PID = 2 ** 30;

let stateDir: string;
let server: ControlServer | null = null;
let asked: unknown[] = [];

const target: Controlled = {
  ...idle,
  status: () => pipelineStatus(),
  query: async (sql, options) => {
    asked.push({ sql, ...options });
    if (sql === 'fail') throw new WaltideError('SINK_QUERY', 'no such table', 'Correct the query.');
    if (sql === 'break') throw new TypeError('oops');
    return { columns: ['big', 'n'], rows: [[2n ** 60n, 5n]], truncated: true };
  },
  replay: async (request) => {
    asked.push(request);
    return { sink: request.sink, tables: null, from: 16n, stoodAt: 2n ** 33n, offsets: [] };
  },
};

function startServer(log: Log): Promise<ControlServer> {
  const config = resolveConfig({ source: { url: 'postgres://localhost/db', tables: ['*.*'] }, stateDir });
  const deps = { ...depsOf(config, target, new Sessions(config.source, 'test')), log };
  return ControlServer.start({
    role: 'all',
    deps,
    audit: { record: (_call, work) => work() },
  });
}

async function start(): Promise<ControlFile> {
  server = await startServer(quiet);
  return (await readControlFiles(stateDir))[0]!;
}

beforeEach(async () => {
  stateDir = join(await mkdtemp(join(tmpdir(), 'waltide-control-')), 'state');
  asked = [];
});
afterEach(async () => {
  await server?.close();
  server = null;
  await rm(join(stateDir, '..'), { recursive: true, force: true });
});

const STATUS = `${API_BASE}/cdc/status`;
const QUERY = `${API_BASE}/sinks/a/query`;

interface Raw {
  readonly path?: string;
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

function raw(
  file: ControlFile,
  { path = STATUS, method = 'GET', headers = {}, body }: Raw,
): Promise<{ status: number; text: string; headers: NodeJS.Dict<string | string[]> }> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      file.url + path,
      {
        method,
        headers: { authorization: `Bearer ${file.token}`, 'content-type': 'application/json', ...headers },
        agent: false,
      },
      (response) => {
        let text = '';
        response.on('data', (part: Buffer) => {
          text += part.toString();
        });
        response.on('end', () => resolve({ status: response.statusCode!, text, headers: response.headers }));
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

describe('the control file', () => {
  test('is readable by its user alone, whole, and gone afterwards', async () => {
    const file = await start();
    expect((await stat(stateDir)).mode & 0o777).toBe(0o700);
    expect((await stat(file.path)).mode & 0o777).toBe(0o600);
    expect(await readdir(stateDir)).toEqual([`waltide.all.${process.pid}.json`]);
    expect(file).toMatchObject({ pid: process.pid, host: hostname(), slot: 'waltide', role: 'all' });
    expect(file.token).toMatch(/^[0-9a-f]{64}$/);
    await server!.close();
    server = null;
    expect(existsSync(file.path)).toBe(false);
  });

  test('a folder that was there keeps its mode, and one that others may write to is warned of', async () => {
    await mkdir(stateDir);
    await chmod(stateDir, 0o777);
    const messages: string[] = [];
    const log = pino({}, { write: (line: string) => messages.push(line) });
    server = await startServer(log);
    expect((await stat(stateDir)).mode & 0o777).toBe(0o777);
    expect(messages.join()).toContain('chmod 700');
  });

  test('what a killed process left is taken away, what lives elsewhere is not', async () => {
    await mkdir(stateDir);
    const write = (name: string, contents: object): Promise<void> =>
      writeFile(
        join(stateDir, name),
        JSON.stringify({
          pid: DEAD_PID,
          host: hostname(),
          role: 'all',
          slot: 'waltide',
          url: 'http://127.0.0.1:9',
          token: 'x'.repeat(64),
          ...contents,
        }),
      );
    await write(`waltide.all.${DEAD_PID}.json`, {});
    await write('waltide.all.1.json', { host: 'another-machine' });
    await start();
    expect((await readdir(stateDir)).sort()).toEqual([`waltide.all.${process.pid}.json`, 'waltide.all.1.json'].sort());
    const found = await findProcesses(stateDir, 'waltide');
    expect(found.running).toHaveLength(1);
    expect(found.silent.join()).toContain('another-machine');
  });

  test.each([
    ['not JSON', '{'],
    [
      'a URL that leads away',
      JSON.stringify({
        pid: process.pid,
        host: hostname(),
        role: 'all',
        slot: 'waltide',
        url: 'http://evil.example:80',
        token: 'x'.repeat(64),
      }),
    ],
    [
      'an address beyond loopback',
      JSON.stringify({
        pid: process.pid,
        host: hostname(),
        role: 'all',
        slot: 'waltide',
        url: 'http://127.0.0.1:80@evil.example',
        token: 'x'.repeat(64),
      }),
    ],
    ['far too long', ' '.repeat(20_000)],
  ])('passes over what is no control file: %s', async (_what, contents) => {
    await mkdir(stateDir);
    await writeFile(join(stateDir, 'waltide.all.77.json'), contents);
    expect(await readControlFiles(stateDir)).toEqual([]);
  });

  test('does not follow a link', async () => {
    await mkdir(stateDir);
    const real = join(stateDir, '..', 'real.json');
    await writeFile(
      real,
      JSON.stringify({
        pid: process.pid,
        host: hostname(),
        role: 'all',
        slot: 'waltide',
        url: 'http://127.0.0.1:80',
        token: 'x'.repeat(64),
      }),
    );
    await symlink(real, join(stateDir, 'waltide.all.77.json'));
    expect(await readControlFiles(stateDir)).toEqual([]);
  });

  test('only of the slot asked for; an absent folder holds none', async () => {
    await start();
    expect(await readControlFiles(stateDir, 'other')).toEqual([]);
    expect(await readControlFiles('/nonexistent')).toEqual([]);
  });

  test('a folder that cannot be made', async () => {
    await writeFile(stateDir, '');
    await expect(start()).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining(stateDir) });
  });
});

describe('who may ask', () => {
  test('the token', async () => {
    const file = await start();
    expect((await raw(file, {})).status).toBe(200);
    for (const authorization of [
      '',
      'Bearer ',
      `Bearer ${'0'.repeat(64)}`,
      `Bearer ${file.token}0`,
      `Bearer ${file.token.slice(1)}`,
      `Basic ${file.token}`,
      file.token,
    ]) {
      const answer = await raw(file, { headers: { authorization } });
      expect(answer.status, authorization).toBe(401);
      expect(answer.text).not.toContain(file.token);
    }
  });

  test('a page whose name leads to loopback is refused, and so is another origin', async () => {
    const file = await start();
    const port = new URL(file.url).port;
    for (const host of ['evil.example', `evil.example:${port}`, '127.0.0.1', '127.0.0.1:1'])
      expect((await raw(file, { headers: { host } })).status, host).toBe(403);
    expect((await raw(file, { headers: { host: `localhost:${port}` } })).status).toBe(200);
    expect((await raw(file, { headers: { origin: 'http://evil.example' } })).status).toBe(403);
    expect((await raw(file, {})).headers).not.toHaveProperty('access-control-allow-origin');
  });

  test('it listens on loopback only', async () => {
    const file = await start();
    expect(new URL(file.url).hostname).toBe('127.0.0.1');
    expect(await readFile(file.path, 'utf8')).toContain(file.url);
  });
});

describe('requests', () => {
  test('status and query', async () => {
    const file = await start();
    const { running } = await findProcesses(stateDir, 'waltide');
    expect(running[0]!.status).toEqual(pipelineStatus());
    expect(await queryProcess(file, 'select 1', { sink: 'a', rowsMax: 5, timeoutMs: 1000 })).toEqual({
      columns: ['big', 'n'],
      rows: [['1152921504606846976', 5]],
      truncated: true,
    });
    expect(asked).toEqual([{ sql: 'select 1', sink: 'a', rowsMax: 5, timeoutMs: 1000 }]);
  });

  test('errors keep code and remedy', async () => {
    const file = await start();
    const options = { sink: 'a', rowsMax: 1, timeoutMs: 1000 };
    await expect(queryProcess(file, 'fail', options)).rejects.toMatchObject({
      code: 'SINK_QUERY',
      message: 'no such table',
      help: 'Correct the query.',
    });
    await expect(queryProcess(file, 'break', options)).rejects.toMatchObject({
      code: 'INTERNAL',
      message: expect.not.stringContaining('oops'),
      help: expect.stringMatching(/request [0-9a-f-]{36} in the log/),
    });
  });

  test.each<[string, Raw, number]>([
    ['no such path', { path: '/etc/passwd' }, 404],
    ['wrong method', { method: 'DELETE' }, 405],
    ['wrong method', { path: QUERY }, 405],
    ['another type', { path: QUERY, method: 'POST', body: '{}', headers: { 'content-type': 'text/plain' } }, 415],
    ['not JSON', { path: QUERY, method: 'POST', body: '{' }, 400],
    ['nothing', { path: QUERY, method: 'POST', body: '' }, 400],
    ['no text', { path: QUERY, method: 'POST', body: '{"sql":1}' }, 400],
    ['limits beyond the bound', { path: QUERY, method: 'POST', body: '{"sql":"select 1","rows_max":1e12}' }, 400],
    ['unknown key', { path: QUERY, method: 'POST', body: '{"sql":"select 1","write":true}' }, 400],
  ])('%s', async (_what, options, status) => {
    const file = await start();
    expect((await raw(file, options)).status).toBe(status);
    expect(asked).toEqual([]);
  });

  test('a body without end is cut off', async () => {
    const file = await start();
    const body = `{"sql":"${'x'.repeat(2_000_000)}"}`;
    // The server hangs up while we still send: either the answer or the break reaches us.
    const outcome = await raw(file, { path: QUERY, method: 'POST', body }).then(
      (answer) => answer.status,
      () => 413,
    );
    expect(outcome).toBe(413);
    expect((await raw(file, {})).status).toBe(200);
  });
});

describe('a process that cannot be reached', () => {
  const left = (pid: number): Promise<void> =>
    mkdir(stateDir, { recursive: true }).then(() =>
      writeFile(
        join(stateDir, `waltide.all.${pid}.json`),
        JSON.stringify({
          pid,
          host: hostname(),
          role: 'all',
          slot: 'waltide',
          url: 'http://127.0.0.1:1',
          token: 'x'.repeat(64),
        }),
      ),
    );

  test('dead: passed over', async () => {
    await left(DEAD_PID);
    expect(await findProcesses(stateDir, 'waltide')).toEqual({ running: [], silent: [], slow: [] });
  });

  test('its pid belongs to another program by now: passed over', async () => {
    await left(process.ppid);
    expect(await findProcesses(stateDir, 'waltide')).toEqual({ running: [], silent: [], slow: [] });
  });

  test('a query to it is NOT_RUNNING', async () => {
    const file: ControlFile = {
      path: '',
      pid: 1,
      host: hostname(),
      role: 'all',
      slot: 'waltide',
      url: 'http://127.0.0.1:1',
      token: 'x',
    };
    await expect(queryProcess(file, 'select 1', { sink: 'a', rowsMax: 1, timeoutMs: 1000 })).rejects.toMatchObject({
      code: 'NOT_RUNNING',
    });
  });
});
