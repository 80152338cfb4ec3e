import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jsonSchema } from '../../src/api/openapi.ts';
import { API_BASE, type Route } from '../../src/api/route.ts';
import { ROUTES } from '../../src/api/routes.ts';
import type { Answer, Json } from './support.ts';
import { checkReply, nameOf, startWorld, urlOf, type World } from './world.ts';

/* Whatever is asked: no 5xx, nothing told that is not for the client, nothing run that came in a name. */

/** Requests per route; WALTIDE_TEST_FUZZ asks for more. */
const ROUNDS = Number(process.env.WALTIDE_TEST_FUZZ ?? 15);
const SEED = Number(process.env.WALTIDE_TEST_SEED ?? Date.now() % 1e9);

let world: World;
beforeAll(async () => {
  world = await startWorld();
});
afterAll(() => world?.close());

/** Streams have no end to wait for; their parameters are those of events/recent. */
const routes = ROUTES.filter(({ produces }) => produces !== 'text/event-stream');
const named = routes.map((route) => [nameOf(route), route] as const);

/** What no answer may hold: stacks, files of ours, SQL, secrets. */
function expectNoLeak(answer: Answer, what: string): void {
  const password = new URL(world.database.url).password;
  for (const secret of [password, world.keys.admin, world.keys.viewer].filter(Boolean))
    expect(answer.text.includes(secret), what).toBe(false);
  if (answer.status < 400) return;
  expect(answer.text, what).not.toMatch(/node_modules|\.ts:\d|\.js:\d|\bat \w+ \(|INSERT INTO|FROM waltide\.|Error:/);
  expect(answer.json, what).toMatchObject({
    status: answer.status,
    code: expect.any(String),
    help: expect.any(String),
  });
}

/** 504 says that a sink has not come so far in time: of an LSN that is far away, that is true. */
function expectNoFault({ status, json }: Answer, what: string): void {
  if (status === 504 && json.code === 'NOT_REACHED') return;
  expect(status, what).toBeLessThan(500);
}

const NASTY = [
  ...["'", '"', "'; DROP TABLE orders; --", '"; DROP TABLE orders; --', "' OR '1'='1", '$1', '$$; select pwned(); $$'],
  ...[
    'orders; create table pwned()',
    'orders" where (select pg_sleep(5)) is not null --',
    "E'\\''",
    '\\',
    '%27',
    '*',
    '*.*',
  ],
  ...[
    '../../etc/passwd',
    '..%2f..%2fetc%2fpasswd',
    '\u0000',
    'a\u0000b',
    '\ud800',
    'ﬀ',
    '＇; select 1',
    '\u202e',
    '😀',
  ],
  ...[
    '{{7*7}}',
    '${jndi:ldap://x}',
    '<script>alert(1)</script>',
    '\r\nset-cookie: a=b',
    'null',
    'undefined',
    'NaN',
    'true',
  ],
  ...[
    '-1',
    '0',
    '1e400',
    '9223372036854775808',
    '99999999999999999999',
    '0x10',
    ' ',
    '',
    'a'.repeat(1500),
    '__proto__',
    'constructor',
  ],
];

const text = fc.oneof(
  fc.constantFrom(...NASTY),
  fc.string({ unit: 'binary', maxLength: 30 }),
  fc.constantFrom('orders', 'public.orders', 'analytics', '1'),
);
const anything = fc.oneof(text, fc.jsonValue({ maxDepth: 3 }), fc.constantFrom(null, true, 0, -1, 1.5, 1e308));

function schemaKeys(schema: Json): string[] {
  return Object.keys(schema?.properties ?? {});
}

/** Some keys that the route knows, some that it does not, with values of every kind. */
function requestOf(
  route: Route,
): fc.Arbitrary<{ params: Record<string, string>; query: Record<string, string>; body: unknown }> {
  const record = <T>(keys: string[], value: fc.Arbitrary<T>): fc.Arbitrary<Record<string, T>> =>
    fc.dictionary(
      keys.length > 0
        ? fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...keys) }, { weight: 1, arbitrary: text })
        : text,
      value,
      { maxKeys: 4 },
    );
  const bodyKeys = route.body ? schemaKeys(jsonSchema(route.body, 'input')) : [];
  return fc.record({
    params: fc.record(
      Object.fromEntries(schemaKeys(jsonSchema(route.params, 'input')).map((key) => [key, text])),
    ) as fc.Arbitrary<Record<string, string>>,
    query: fc.oneof(
      { weight: 2, arbitrary: fc.constant({}) },
      { weight: 1, arbitrary: record(schemaKeys(jsonSchema(route.query, 'input')), text) },
    ),
    body: route.body ? fc.oneof(record(bodyKeys, anything), anything) : fc.constant(undefined),
  });
}

/** Null where fetch itself does not send such a thing. */
async function send(
  route: Route,
  { params, query, body }: { params: Record<string, string>; query: Record<string, string>; body: unknown },
): Promise<Answer | null> {
  let url: string;
  try {
    url = urlOf(route, { params, query });
  } catch {
    return null;
  }
  // Nobody waits half a minute here.
  if (route.path.endsWith('/sync/wait') && !url.includes('timeout='))
    url += `${url.includes('?') ? '&' : '?'}timeout=50ms`;
  const sent = body === undefined || route.method === 'GET' ? undefined : JSON.stringify(body);
  return world.api.ask(url, { method: route.method, key: world.keys.admin, body: sent });
}

describe('fuzz', () => {
  test.each(named)('%s', async (name, route) => {
    await fc.assert(
      fc.asyncProperty(requestOf(route), async (request) => {
        const answer = await send(route, request);
        if (!answer) return;
        const what = `${name} ${JSON.stringify(request).slice(0, 400)} → ${answer.status} ${answer.text.slice(0, 300)}`;
        expectNoFault(answer, what);
        expectNoLeak(answer, what);
        checkReply(route, answer);
      }),
      { numRuns: ROUNDS, seed: SEED },
    );
  });

  test.each(ROUTES.map((route) => [nameOf(route), route] as const))(
    'U+0000 in a name is refused: %s',
    async (_, route) => {
      const { method, params, query } = route;
      const names = schemaKeys(jsonSchema(params, 'input')).map((name) => ({
        params: { [name]: 'a\u0000b' },
        query: {},
      }));
      const keys = [...schemaKeys(jsonSchema(query, 'input')), 'a\u0000b'];
      for (const asked of [...names, ...keys.map((name) => ({ params: {}, query: { [name]: '\u0000' } }))]) {
        const answer = await world.api.ask(urlOf(route, asked), { method, key: world.keys.admin });
        expect([answer.status, answer.json?.code], JSON.stringify(asked)).toEqual([400, 'USAGE']);
        expect(answer.json.detail).toContain('U+0000');
      }
    },
  );

  test('paths, methods and headers that nobody thought of', async () => {
    const paths = [
      '/',
      '//',
      '/%',
      '/%zz',
      '/api',
      `${API_BASE}/`,
      `${API_BASE}/sync/status/`,
      '/api/v1/data-sync/%2e%2e/x',
      '/\u00e9',
      `/${'x'.repeat(7000)}`,
    ];
    for (const path of paths)
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS', 'PROPFIND']) {
        const answer = await world.api.ask(path, { method, key: world.keys.admin });
        expect(answer.status, `${method} ${path}`).toBeGreaterThanOrEqual(200);
        expect(answer.status, `${method} ${path}`).toBeLessThan(500);
      }
    for (const { method, path } of routes.slice(0, 5)) {
      const wrong = await world.api.ask(path, { method: method === 'GET' ? 'PATCH' : 'PUT', key: world.keys.admin });
      expect(wrong.status).toBeLessThan(500);
    }
    const refused = await world.api.ask(`${API_BASE}/sync/status`, { method: 'POST', key: world.keys.admin, body: {} });
    expect(refused).toMatchObject({ status: 405, json: { code: 'METHOD' } });
    expect(refused.headers.get('allow')).toBe('GET');
  });
});

describe('SQL in names', { timeout: 300_000 }, () => {
  /** Sequences notice what a rollback hides. */
  beforeAll(() =>
    world.database.query(
      `create sequence canary; create function pwned() returns int language sql as $$ select nextval('public.canary')::int $$;`,
    ),
  );

  const PAYLOADS = [
    ...[
      "x'; select pwned(); --",
      'x"; select pwned(); --',
      "x' || pwned() || '",
      'x" || pwned() || "',
      "' union select pwned() --",
    ],
    ...[
      'orders"; drop table orders; --',
      "orders'; drop table orders; --",
      'public"."orders',
      'public.orders" where pwned() > 0 --',
    ],
    ...[
      '(select pwned())',
      '$1',
      '$$',
      "\\'; select pwned(); --",
      'orders; select pwned()',
      'U&"\\0022"',
      "E'\\x27'",
      '/**/pwned()/**/',
    ],
    ...[
      'orders\u0000',
      '*.*" ; select pwned(); --',
      "pg_catalog.pg_authid'",
      "%' or pwned() > 0 --",
      'orders -- ',
      'ｏｒｄｅｒｓ＇',
    ],
  ];

  test.each(named.filter(([, route]) => !route.path.endsWith('/query')))('%s', async (_name, route) => {
    const keys = (schema: Parameters<typeof jsonSchema>[0] | null): string[] =>
      schema ? schemaKeys(jsonSchema(schema, 'input')) : [];
    const [params, query, body] = [keys(route.params), keys(route.query), keys(route.body)];
    for (const payload of PAYLOADS) {
      const fill = (names: string[]): Record<string, string> =>
        Object.fromEntries(names.map((name) => [name, payload]));
      const requests = [
        ...params.map((name) => ({ params: { [name]: payload }, query: {}, body: route.body ? {} : undefined })),
        ...query.map((name) => ({ params: {}, query: { [name]: payload }, body: route.body ? {} : undefined })),
        ...body.flatMap((name) =>
          [payload, [payload], [{ schema: payload, table: payload }]].map((value) => ({
            params: {},
            query: {},
            body: { [name]: value },
          })),
        ),
        { params: fill(params), query: fill(query), body: route.body ? fill(body) : undefined },
      ];
      const answers = await Promise.all(requests.map((request) => send(route, request)));
      for (const [i, answer] of answers.entries()) {
        expectNoFault(answer!, `${nameOf(route)} ${JSON.stringify(requests[i])} ${answer!.text}`);
        expectNoLeak(answer!, JSON.stringify(requests[i]));
      }
    }
  });

  test('nothing of it has run', async () => {
    expect(await world.database.query('select is_called from canary')).toEqual([{ is_called: false }]);
    expect(await world.database.query('select count(*)::int from orders')).toEqual([{ count: 50 }]);
    expect((await world.call('GET /data-sync/sync/status')).json).toMatchObject({ ready: true });
  });
});
