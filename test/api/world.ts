import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { jsonSchema } from '../../src/api/openapi.ts';
import type { Route } from '../../src/api/route.ts';
import { ROUTES } from '../../src/api/routes.ts';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import type { AccessRole } from '../../src/postgres/api-keys.ts';
import { eventually, type RunningPipeline, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { type Answer, type AskOptions, createKeys, startApi, type TestApi } from './support.ts';

/** A pipeline that streams two tables into DuckDB, with its API in front: what the tests of routes share. */
export interface World {
  readonly database: TestDatabase;
  readonly config: Config;
  readonly running: RunningPipeline;
  readonly api: TestApi;
  readonly keys: Record<AccessRole, string>;
  /** As admin, unless a key is given; a JSON answer is held against what its route promises. */
  call(route: string, options?: CallOptions): Promise<Answer>;
  close(): Promise<void>;
}

export interface CallOptions extends Omit<AskOptions, 'method'> {
  /** In place of `:name` in the path. */
  readonly params?: Record<string, string>;
  readonly query?: Record<string, string>;
}

export async function startWorld(settings: Partial<ConfigInput['api']> = {}): Promise<World> {
  const database = await createDatabase();
  await database.query(
    'create table orders (id int primary key, note text); create table items (id bigint primary key, body text)',
  );
  await database.query(`insert into orders select i, 'note ' || i from generate_series(1, 50) i`);
  const { config } = testPipeline(database, {
    schedules: [{ name: 'tidy', type: 'cleanup', cron: '0 4 * * 0' }],
    writes: { enabled: true, timeoutMs: 300 },
    api: { enabled: true, port: 0, rateLimit: { requestsMax: 1_000_000, failuresMax: 1_000_000 }, ...settings },
  });
  const keys = await createKeys(database);
  const running = start(config);
  await eventually('it streams', () => running.pipeline.status().ready);
  const api = await startApi(database, {}, running.pipeline, config);
  return {
    ...{ database, config, running, api, keys },
    call: async (name, options = {}) => {
      const route = routeOf(name);
      const answer = await api.ask(urlOf(route, options), { method: route.method, key: keys.admin, ...options });
      checkReply(route, answer);
      return answer;
    },
    close: async () => {
      await api.close();
      await running.stop();
      await database.drop();
    },
  };
}

/** `GET /sync/status` → the route. */
export function routeOf(name: string): Route {
  const [method, path] = name.split(' ') as [string, string];
  const found = ROUTES.find((route) => route.method === method && route.path.endsWith(path));
  if (!found) throw new Error(`there is no route ${name}`);
  return found;
}

export function nameOf({ method, path }: Route): string {
  return `${method} ${path}`;
}

export function urlOf(route: Route, { params = {}, query = {} }: Pick<CallOptions, 'params' | 'query'>): string {
  const path = route.path.replace(/:([a-z_]+)/g, (_, name: string) =>
    encodeURIComponent(params[name] ?? sampleOf(route, name)),
  );
  const search = new URLSearchParams(query).toString();
  return search ? `${path}?${search}` : path;
}

/** Something that has the form of a parameter of a path. */
function sampleOf({ path }: Route, name: string): string {
  if (name === 'id') return path.includes('/snapshots/') ? '0123456789ab' : '1';
  return name === 'name' ? 'analytics' : 'orders';
}

const ajv = new Ajv2020({ allErrors: true, formats: { 'date-time': true, uuid: true }, strict: false });
const compiled = new Map<string, ValidateFunction>();

/** What a route answers is what the document says of it. */
export function checkReply(route: Route, { status, headers, json }: Answer): void {
  if (status >= 300 || !headers.get('content-type')?.startsWith('application/json')) return;
  const key = `${nameOf(route)} ${status}`;
  let validate = compiled.get(key);
  if (!validate) {
    validate = ajv.compile(jsonSchema(status === 202 ? route.accepted! : route.reply, 'output'));
    compiled.set(key, validate);
  }
  if (!validate(json)) throw new Error(`${key}: ${ajv.errorsText(validate.errors)}\n${JSON.stringify(json)}`);
}
