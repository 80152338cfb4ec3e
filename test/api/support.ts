import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { AuditLog } from '../../src/api/audit.ts';
import { createApiKey } from '../../src/api/auth/api-keys.ts';
import type { Controlled, Deps } from '../../src/api/route.ts';
import { type ApiServer, startApiServer } from '../../src/api/server.ts';
import { resolveConfig } from '../../src/config/load.ts';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import { RecentEvents } from '../../src/pipeline/recent-events.ts';
import type { AccessRole } from '../../src/postgres/api-keys.ts';
import { migrate } from '../../src/postgres/control.ts';
import { withSession } from '../../src/postgres/session.ts';
import { Sessions } from '../../src/postgres/sessions.ts';
import { Tracker } from '../../src/postgres/tracked.ts';
import { Writer } from '../../src/write/writer.ts';
import { log } from '../support/pipeline.ts';
import type { TestDatabase } from '../support/postgres.ts';
import { pipelineStatus, sinkStatus } from './fixtures.ts';

/** What a pipeline answers where a test is about who may ask. */
export const idle: Controlled = {
  status: () => pipelineStatus({ sinks: [sinkStatus({ name: 'a' })] }),
  sink: () => null,
  query: async () => ({ columns: ['n'], rows: [[1]], truncated: false }),
  checkValidation: async () => {},
  validate: async () => ({
    id: '0',
    ok: true,
    score: 100,
    tables: [],
    references: [],
    rules: [],
    leftOut: [],
    durationMs: 1,
  }),
  replay: async ({ sink }) => ({ sink, tables: null, from: 16n, stoodAt: 32n, offsets: [] }),
  waitFor: async () => ({ reached: true, sinks: [] }),
  recent: new RecentEvents(),
};

export interface TestApi {
  readonly config: Config;
  readonly url: string;
  /** As somebody with this credential; null for nobody. */
  ask(path: string, options?: AskOptions): Promise<Answer>;
  close(): Promise<void>;
}

export interface AskOptions {
  readonly method?: string;
  readonly key?: string | null;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** Undefined where the body is no JSON. */
  readonly json: Json;
}

// biome-ignore lint/suspicious/noExplicitAny: whatever the API says; tests look into it.
export type Json = any;

/** The API on a free port, in front of `pipeline`. */
export async function startApi(
  database: TestDatabase,
  api: Partial<NonNullable<ConfigInput['api']>> = {},
  pipeline: Controlled = idle,
  config = apiConfig(database, api),
): Promise<TestApi> {
  const sessions = new Sessions(config.source, 'api');
  const deps = depsOf(config, pipeline, sessions);
  const server: ApiServer = await startApiServer(deps, new AuditLog(sessions, log));
  return {
    config,
    url: server.url,
    ask: (path, options = {}) => ask(server.url + path, options),
    close: async () => {
      await server.close();
      await deps.tracker.close();
      await deps.writer?.close();
      await sessions.close();
    },
  };
}

/** What routes work with; its tracker registers with the first run. */
export function depsOf(config: Config, pipeline: Controlled, sessions: Sessions): Deps {
  const { source, tracking } = config;
  const tracker = new Tracker({ source, tracking, log, version: '0', role: 'all' });
  const writer = config.writes.enabled ? new Writer({ config, log, sinks: pipeline }) : null;
  return { config, log, pipeline, sessions, tracker, writer };
}

export function apiConfig(database: TestDatabase, api: Partial<NonNullable<ConfigInput['api']>> = {}): Config {
  const source = { url: database.url, slot: database.name, publication: database.name, tables: ['*.*'] };
  return resolveConfig(
    { source, api: { enabled: true, port: 0, ...api }, metrics: { enabled: false } },
    mkdtempSync(`${tmpdir()}/waltide-api-`),
  );
}

export async function ask(
  url: string,
  { method = 'GET', key = null, body, headers = {} }: AskOptions,
): Promise<Answer> {
  const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
  const response = await fetch(url, {
    method,
    headers: {
      ...(key === null ? {} : { authorization: `Bearer ${key}` }),
      ...(text === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(text === undefined ? {} : { body: text as string }),
  });
  const got = await response.text();
  return { status: response.status, headers: response.headers, text: got, json: parsed(got) };
}

function parsed(text: string): Json {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A key of each role, by role. */
export async function createKeys(database: TestDatabase): Promise<Record<AccessRole, string>> {
  const { source } = apiConfig(database);
  return withSession(source, 'test', async (client) => {
    await migrate(client);
    const make = async (role: AccessRole): Promise<string> =>
      (await createApiKey(client, { name: role, role, createdBy: 'test', expiresAt: null })).text;
    return { viewer: await make('viewer'), operator: await make('operator'), admin: await make('admin') };
  });
}
