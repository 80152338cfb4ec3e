import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { API_BASE } from '../../src/api/route.ts';
import { ROUTES } from '../../src/api/routes.ts';
import { eventually } from '../support/pipeline.ts';
import type { Answer, Json } from './support.ts';
import { nameOf, routeOf, startWorld, urlOf, type World } from './world.ts';

let world: World;
beforeAll(async () => {
  world = await startWorld();
});
afterAll(() => world?.close());

/** What the issue promises. */
const PROMISED = [
  'GET sync/status',
  'POST sync/table/:t/full',
  'POST sync/table/:t/incremental',
  'POST sync/operation',
  'GET sync/operation/:id',
  'GET sync/wait',
  'GET sync/dead-letter-queue',
  'POST sync/dead-letter-queue/:id/retry',
  'DELETE sync/dead-letter-queue/:id',
  'POST consistency/check',
  'GET consistency/status',
  'GET consistency/validate/:table',
  'GET cdc/status',
  'GET monitoring/dashboard',
  'GET monitoring/health',
  'GET monitoring/alerts',
  'POST monitoring/alerts/:id/acknowledge',
  'GET monitoring/metrics/prometheus',
  'GET snapshots',
  'GET schedules',
  'GET history',
  'GET statistics',
  'GET schema-history',
  'GET instances',
  'GET slots',
  'GET sinks/:name/offsets',
  'POST sinks/:name/query',
  'GET events/recent',
  'GET events/stream',
  'GET api-keys',
  'POST api-keys',
  'DELETE api-keys/:key',
];

describe('every route', () => {
  test('those that are promised are there', () => {
    const names = ROUTES.map(nameOf);
    for (const promised of PROMISED) expect(names).toContain(promised.replace(' ', ` ${API_BASE}/`));
    for (const promised of ['POST /admin/sync', 'GET /admin/sync/status']) expect(names).toContain(promised);
    expect(new Set(names).size).toBe(names.length);
  });

  test.each(ROUTES.map((route) => [nameOf(route), route] as const))(
    '%s: only its role and those above',
    async (_name, route) => {
      if (route.role === null) return expect((await world.api.ask(route.path)).status).toBe(200);
      const body = route.body ? { wrong: true } : undefined;
      const status = async (key: string | null): Promise<number> => {
        return (await world.api.ask(urlOf(route, {}), { method: route.method, key, body })).status;
      };
      expect(await status(null)).toBe(401);
      expect(await status('waltide_000000000000_00')).toBe(401);
      const roles = ['viewer', 'operator', 'admin'] as const;
      for (const role of roles) {
        const allowed = roles.indexOf(role) >= roles.indexOf(route.role);
        // What is wrong with the request comes after who asks.
        if (!allowed) expect(await status(world.keys[role]), role).toBe(403);
        else if (route.body && !route.body.safeParse(undefined).success)
          expect(await status(world.keys[role]), role).toBe(400);
      }
    },
  );

  test.each(ROUTES.filter(({ role }) => role !== null).map((route) => [nameOf(route), route] as const))(
    '%s: what it does not take is refused, by name',
    async (_name, route) => {
      const ask = (query: Record<string, string>, body?: unknown): Promise<Json> =>
        world.api.ask(urlOf(route, { query }), { method: route.method, key: world.keys.admin, body });
      const unknown = await ask({ 'no-such': '1' });
      expect(unknown.status).toBe(400);
      expect(unknown.json).toMatchObject({ code: 'USAGE', status: 400, type: 'urn:waltide:error:usage' });
      expect(JSON.stringify(unknown.json.errors)).toContain('no-such');
      if (route.method === 'GET') return;
      const bodies = route.body ? [[], 'x', 7, true, { 'no-such': 1 }] : [{}, [], 'x'];
      for (const body of bodies) {
        const answer = await ask({}, JSON.stringify(body));
        expect(answer.status, JSON.stringify(body)).toBe(400);
        expect(answer.json.errors[0].path).toMatch(/^body/);
      }
    },
  );
});

describe('what they tell', () => {
  test('status, dashboard, health, metrics, sinks, slots, instances, history, statistics', async () => {
    const status = (await world.call('GET /data-sync/sync/status')).json;
    expect(status).toMatchObject({ state: 'streaming', ready: true, slot: world.database.name, unavailable: null });
    expect(status.sinks).toMatchObject([{ name: 'analytics', type: 'duckdb', stopped_tables: [] }]);
    expect((await world.call('GET /cdc/status')).json.sinks[0].name).toBe('analytics');
    expect((await world.call('GET /monitoring/health')).json).toEqual({ status: 'healthy', ready: true, reasons: [] });
    expect((await world.call('GET /monitoring/dashboard')).json.status.ready).toBe(true);
    const metrics = await world.call('GET /monitoring/metrics/prometheus');
    expect(metrics.text).toContain('waltide_sink_events_total{sink="analytics"}');
    expect(metrics.headers.get('content-type')).toContain('version=0.0.4');
    expect((await world.call('GET /sinks')).json.sinks).toHaveLength(1);
    expect((await world.call('GET /sinks/:name/offsets')).json.applied_lsn).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/);
    expect((await world.call('GET /sinks/:name/offsets', { params: { name: 'nobody' } })).status).toBe(404);
    const { slots } = (await world.call('GET /slots')).json;
    expect(slots.filter((slot: Json) => slot.ours)).toMatchObject([{ name: world.database.name, active: true }]);
    for (const name of [
      'GET /instances',
      'GET /history',
      'GET /statistics',
      'GET /schema-history',
      'GET /admin/sync/status',
    ])
      expect((await world.call(name)).status, name).toBe(200);
  });

  test('a query, with values that JSON would round as text', async () => {
    const query = (sql: string): Promise<Json> => world.call('POST /sinks/:name/query', { body: { sql } });
    expect((await query('select count(*)::int as n from orders')).json).toEqual({
      columns: ['n'],
      rows: [[50]],
      truncated: false,
    });
    expect((await query('select 9007199254740993::bigint as n')).json.rows).toEqual([['9007199254740993']]);
    for (const sql of [
      ...[
        'delete from orders',
        "copy orders to '/tmp/x'",
        "select * from read_text('/etc/passwd')",
        "from '/etc/passwd'",
      ],
      ...["attach '/tmp/y' as y", 'select 1; select 2', 'set threads = 1', 'install httpfs', 'nonsense'],
    ]) {
      const refused = await query(sql);
      expect(refused.status, sql).toBe(422);
      expect(refused.json.code).toBe('SINK_QUERY');
      expect(refused.text).not.toContain('root:');
    }
  });

  test('changes that went by: rows only for whoever may see rows', async () => {
    await world.database.query("insert into items values (9007199254740993, 'secret row')");
    const recent = (query: Record<string, string>, key: string): Promise<Json> =>
      world.call('GET /events/recent', { query, key });
    const query = { table: 'public.items', limit: '5' };
    await eventually('it went by', async () => (await recent(query, world.keys.viewer)).json.events[0]?.op === 'c');
    const plain = await recent(query, world.keys.viewer);
    expect(plain.json.events[0]).toMatchObject({ op: 'c', table: 'public.items' });
    expect(plain.text).not.toContain('secret row');
    expect((await recent({ ...query, values: 'true' }, world.keys.viewer)).status).toBe(403);
    const whole = await recent({ ...query, values: 'true' }, world.keys.operator);
    expect(whole.json.events[0]).toMatchObject({ before: null, after: { id: '9007199254740993', body: 'secret row' } });
  });

  test('a live stream of changes and status, until the client hangs up', async () => {
    const hangUp = new AbortController();
    const url = `${world.api.url}${API_BASE}/events/stream?values=true&status_ms=100`;
    const headers = { authorization: `Bearer ${world.keys.operator}` };
    const response = await fetch(url, { headers, signal: hangUp.signal });
    expect(response.headers.get('content-type')).toBe('text/event-stream');
    let text = '';
    const reading = (async () => {
      for await (const part of response.body!.pipeThrough(new TextDecoderStream())) text += part;
    })().catch(() => {});
    await eventually('a status comes', () => text.includes('event: status'));
    await world.database.query("insert into orders values (1000, 'streamed')");
    await eventually('the change comes', () => /event: change\ndata: .*"streamed"/.test(text));
    hangUp.abort();
    await reading;
    const number = Number(/id: (\d+)\nevent: change/.exec(text)![1]);
    const again = new AbortController();
    const later = await fetch(`${url}&after=${number - 1}`, { headers, signal: again.signal });
    let replayed = '';
    for await (const part of later.body!.pipeThrough(new TextDecoderStream())) {
      replayed += part;
      // An event ends with an empty line.
      if (replayed.split(`id: ${number}\n`)[1]?.includes('\n\n')) break;
    }
    again.abort();
    expect(replayed).toContain('streamed');
  });
});

describe('long work', () => {
  const ended = async (id: string): Promise<Json> => {
    let run: Json;
    await eventually(`run ${id} ends`, async () => {
      run = (await world.call('GET /sync/runs/:id', { params: { id } })).json;
      return run.status !== 'in_progress';
    });
    return run;
  };

  test('a full copy of a table: a run that can be polled, and is in the history', async () => {
    const started = await world.call('POST /full', { params: { t: 'public.orders' }, query: { batch_size: '7' } });
    expect(started.status).toBe(202);
    expect(started.json.sync_type).toBe('snapshot:public.orders');
    const run = await ended(started.json.run_id);
    expect(run).toMatchObject({ status: 'success', sync_type: 'snapshot:public.orders', error_message: null });
    expect(run.records_processed).toBeGreaterThanOrEqual(50);
    const rows = await world.database.query(
      'select chunk_rows from waltide.snapshots order by created_at desc limit 1',
    );
    expect(rows).toEqual([{ chunk_rows: 7 }]);
    const { runs } = (await world.call('GET /history', { query: { sync_type: 'snapshot:*' } })).json;
    expect(runs.map(({ id }: Json) => id)).toContain(started.json.run_id);
    expect((await world.call('DELETE /sync/runs/:id', { params: { id: started.json.run_id } })).status).toBe(400);
  });

  test('several tables: one run, of a type that no schedule has', async () => {
    const started = await world.call('POST /data-sync/snapshots', { body: { tables: ['orders', 'items'] } });
    expect(started).toMatchObject({ status: 202, json: { sync_type: 'snapshot:manual' } });
    expect(started.json.snapshots).toHaveLength(2);
    expect(await ended(started.json.run_id)).toMatchObject({ status: 'success', sync_type: 'snapshot:manual' });
  });

  test('snapshots: pause, resume, cancel', async () => {
    const started = (
      await world.call('POST /data-sync/snapshots', {
        body: { tables: ['orders'], rows_per_second_max: 1, batch_size: 1 },
      })
    ).json;
    const [id] = started.snapshots;
    const snapshot = async (name: string): Promise<Json> => world.call(name, { params: { id } });
    await eventually('it runs', async () => (await snapshot('GET /snapshots/:id')).json.state === 'running');
    expect((await world.call('POST /full')).status).toBe(400);
    expect((await snapshot('POST /snapshots/:id/pause')).json.state).toBe('paused');
    expect((await snapshot('POST /snapshots/:id/resume')).json.state).toMatch(/pending|running/);
    expect((await snapshot('POST /snapshots/:id/resume')).status).toBe(400);
    // By way of its run.
    expect((await world.call('DELETE /sync/runs/:id', { params: { id: started.run_id } })).status).toBe(200);
    expect(await ended(started.run_id)).toMatchObject({ status: 'error', error_class: null });
    await eventually('it is cancelled', async () => (await snapshot('GET /snapshots/:id')).json.state === 'cancelled');
    expect((await snapshot('DELETE /snapshots/:id')).status).toBe(400);
    expect((await world.call('GET /data-sync/snapshots', { query: { active: 'true' } })).json.snapshots).toEqual([]);
  });

  test('a snapshot of some rows: their condition is SQL, so it needs an admin; everything that the command line takes', async () => {
    const body = { tables: ['orders'], where: 'id <= 20', sinks: ['analytics'], rows_per_second_max: 100_000 };
    const start = (more: object, key = world.keys.admin): Promise<Json> =>
      world.call('POST /data-sync/snapshots', { body: { ...body, ...more }, key });
    expect(await start({}, world.keys.operator)).toMatchObject({ status: 403, json: { code: 'FORBIDDEN' } });
    expect(await start({ where: null, sinks: ['nobody'] }, world.keys.operator)).toMatchObject({ status: 400 });
    for (const where of [
      'id >',
      ' ',
      'nothing = 1',
      'id',
      '1 = 1; drop table orders',
      'true) or (true',
      'id > 1 limit 1',
    ]) {
      const refused = await start({ where });
      expect(refused, where).toMatchObject({ status: 400, json: { code: 'USAGE' } });
      expect(refused.json.detail).toContain('is not one for table public.orders');
    }
    const started = await start({});
    expect(started.status).toBe(202);
    expect(await ended(started.json.run_id)).toMatchObject({ status: 'success', records_processed: 20 });
    const [row] = await world.database.query(
      'select kind, sinks, where_sql, rows_per_second_max from waltide.snapshots order by created_at desc limit 1',
    );
    expect(row).toEqual({ kind: 'partial', sinks: ['analytics'], where_sql: 'id <= 20', rows_per_second_max: 100_000 });
  });

  test('changes of a table from a time on: what is gone is refused, with what to do', async () => {
    const since = '2020-01-01T00:00:00Z';
    const refused = await world.call('POST /incremental', { body: { since } });
    expect(refused).toMatchObject({ status: 422, json: { code: 'REPLAY' } });
    expect(refused.json.help).toContain('source.retain');
    for (const body of [{}, { since: 'yesterday' }, { since: 7 }, { since: '2020-01-01T00:00:00' }])
      expect((await world.call('POST /incremental', { body })).status, JSON.stringify(body)).toBe(400);
    expect((await world.call('POST /incremental', { body: { since, sink: 'nobody' } })).status).toBe(404);
    expect(routeOf('POST /incremental').role).toBe('operator');
  });

  test('what does not exist', async () => {
    expect((await world.call('POST /full', { params: { t: 'nothing' } })).status).toBe(404);
    expect((await world.call('POST /admin/sync', { query: { sync_type: 'nothing' } })).status).toBe(404);
    expect((await world.call('GET /sync/runs/:id', { params: { id: '999999999' } })).status).toBe(404);
    expect((await world.call('GET /snapshots/:id', { params: { id: '0123456789ab' } })).status).toBe(404);
  });

  test('a schedule, by either road', async () => {
    const started = await world.call('POST /schedules/:name/run', { params: { name: 'tidy' } });
    expect(started).toMatchObject({ status: 202, json: { sync_type: 'tidy' } });
    expect(await ended(started.json.run_id)).toMatchObject({
      status: 'success',
      sync_type: 'tidy',
      error_message: null,
    });
    const [schedule] = (await world.call('GET /schedules')).json.schedules;
    expect(schedule).toMatchObject({
      name: 'tidy',
      type: 'cleanup',
      enabled: true,
      last_run: { id: started.json.run_id },
    });
    expect(new Date(schedule.next_at).getTime()).toBeGreaterThan(Date.now());
    const again = await world.call('POST /admin/sync', { query: { sync_type: 'tidy' } });
    expect(again.status).toBe(202);
    expect(await ended(again.json.run_id)).toMatchObject({ status: 'success' });
    expect((await world.call('POST /schedules/:name/run', { params: { name: 'nothing' } })).status).toBe(404);
  });

  test('a sync by its type', async () => {
    const started = await world.call('POST /admin/sync', { query: { sync_type: 'snapshot:orders' } });
    expect(started.status).toBe(202);
    expect(await ended(started.json.run_id)).toMatchObject({ status: 'success' });
  });
});

describe('API keys', () => {
  const create = (body: object): Promise<Json> => world.call('POST /api-keys', { body });

  test('made, shown once, used, listed without secrets, revoked; every step in the audit log', async () => {
    const expires_at = new Date(Date.now() + 3_600_000).toISOString();
    const made = await create({ name: 'grafana', role: 'viewer', expires_at });
    expect(made).toMatchObject({
      status: 200,
      json: { name: 'grafana', role: 'viewer', created_by: 'key:admin', expires_at, revoked_at: null },
    });
    const { key, id } = made.json;
    expect(key).toMatch(/^waltide_[0-9a-f]{12}_[0-9a-f]{64}$/);
    expect((await world.call('GET /data-sync/sync/status', { key })).status).toBe(200);
    expect((await world.call('GET /api-keys', { key })).status).toBe(403);
    expect(await create({ name: 'grafana', role: 'admin' })).toMatchObject({ status: 400, json: { code: 'USAGE' } });
    const listed = await world.call('GET /api-keys');
    expect(listed.json.api_keys.find((one: Json) => one.id === id)).toMatchObject({ name: 'grafana', role: 'viewer' });
    expect(listed.text).not.toContain(key.slice(-64));
    const revoked = await world.call('DELETE /api-keys/:key', { params: { key: 'grafana' } });
    expect(revoked.json.revoked_at).not.toBeNull();
    expect((await world.call('DELETE /api-keys/:key', { params: { key: id } })).status).toBe(404);
    await eventually(
      'it works no more',
      async () => (await world.call('GET /data-sync/sync/status', { key })).status === 401,
    );
    const { records } = (await world.call('GET /audit-log')).json;
    const calls = records.map(
      (one: Json) => `${one.method} ${one.route.replace(API_BASE, '')} ${one.outcome} ${one.principal}`,
    );
    for (const call of [
      'POST /api-keys success key:admin',
      'POST /api-keys refused key:admin',
      'DELETE /api-keys/:key success key:admin',
    ])
      expect(calls).toContain(call);
    expect(JSON.stringify(records)).not.toContain(key.slice(-64));
  });

  test('what cannot be one', async () => {
    const past = new Date(Date.now() - 1000).toISOString();
    for (const body of [
      ...[{ name: 'x' }, { role: 'viewer' }, { name: 'x', role: 'root' }, { name: 'a b', role: 'viewer' }],
      ...[
        { name: '', role: 'viewer' },
        { name: 'x'.repeat(65), role: 'viewer' },
        { name: 'x', role: 'viewer', expires_at: past },
      ],
      { name: 'x', role: 'viewer', expires_at: 'tomorrow' },
    ])
      expect((await create(body)).status, JSON.stringify(body)).toBe(400);
  });
});

describe('numbers in a body', () => {
  const write = (data: string): Promise<Json> =>
    world.call('POST /sync/operation', {
      body: `{"table_name":"money","operation_type":"create","consistency_level":"eventual","data":${data}}`,
    });

  test('are stored with every digit, or refused: never rounded', async () => {
    await world.database.query('create table money (id int8 primary key, amount numeric, ratio float8, doc jsonb)');
    await eventually('it is captured', async () => (await write('{"id":"0"}')).status === 200);
    const lossy = [
      '12345678901234567890.123',
      '1e400',
      '-1e400',
      '1e-400',
      '0.12345678901234567890',
      '9007199254740993',
      '-0.0',
    ];
    for (const number of lossy)
      for (const data of [`{"id":1,"amount":${number}}`, `{"id":1,"doc":{"a":[${number}]}}`, `{"id":${number}}`]) {
        const refused = await write(data);
        expect(refused.status, data).toBe(400);
        expect(refused.json.detail).toContain(`the number ${number}`);
      }
    expect((await write('{"id":1,"amount":1e20}')).status).toBe(422);
    const big = await write(
      '{"id":"9007199254740993","amount":"12345678901234567890.123","ratio":"-0","doc":{"a":1.5}}',
    );
    // The key that is answered leads to the row again.
    expect(big).toMatchObject({ status: 200, json: { primary_key: { id: '9007199254740993' } } });
    expect((await write('{"id":2,"amount":0.1,"ratio":1e22}')).status).toBe(422);
    expect((await write('{"id":2,"amount":123456789.0123456,"ratio":0.1}')).status).toBe(200);
    expect(
      await world.database.query(
        'select id::text, amount::text, ratio::text, doc::text from money where id > 0 order by 1',
      ),
    ).toEqual([
      { id: '2', amount: '123456789.0123456', ratio: '0.1', doc: null },
      { id: '9007199254740993', amount: '12345678901234567890.123', ratio: '-0', doc: '{"a": 1.5}' },
    ]);
  });
});

test('the audit log names what calls with a body were about, and holds no value of a row', async () => {
  const post = (route: string, body: unknown, params = {}): Promise<Answer> =>
    world.call(`POST ${route}`, { body, params });
  const id = randomUUID();
  const data = { id: 7001, note: 'nobody-reads-this' };
  const calls: [string, Answer, object][] = [
    [
      'sync/operation',
      await post('/sync/operation', {
        table_name: 'orders',
        operation_type: 'create',
        data,
        id,
        consistency_level: 'eventual',
      }),
      { table_name: 'orders', operation_type: 'create', operation_id: id },
    ],
    [
      'sync/operation',
      await post('/sync/operation', {
        table_name: 'orders',
        operation_type: 'delete',
        primary_key: 7001,
        consistency_level: 'eventual',
      }),
      { table_name: 'orders', operation_type: 'delete', primary_key: 7001, operation_id: expect.any(String) },
    ],
    [
      'consistency/check',
      await post('/consistency/check', { tables: ['orders'], check_types: ['row_count'], repair: true }),
      { tables: ['orders'], check_types: ['row_count'], repair: true, run_id: expect.any(String) },
    ],
    [
      'snapshots',
      await post('/snapshots', { tables: ['items'], where: "body = 'nobody-reads-this'" }),
      { tables: ['items'], run_id: expect.any(String), snapshots: [expect.any(String)] },
    ],
    ['api-keys', await post('/api-keys', { name: 'audited', role: 'viewer' }), { name: 'audited', role: 'viewer' }],
    [
      'dead-letter-queue/retry',
      await post('/dead-letter-queue/retry', { table: 'orders', code: 'X' }),
      { table: 'orders', code: 'X', asked: [] },
    ],
    ['admin/sync', await world.call('POST /admin/sync'), { sync_type: 'full' }],
    [
      'replay',
      await post('/sinks/:name/replay', { from: { lsn: '0/10' } }, { name: 'analytics' }),
      { from: { lsn: '0/10' } },
    ],
  ];
  for (const [route, answer, target] of calls) {
    const request = answer.headers.get('x-request-id');
    const [record] = await world.database.query('select target from waltide.audit_log where request_id = $1', [
      request,
    ]);
    expect(record!.target, `${route} ${answer.status} ${answer.text}`).toMatchObject(target);
    const { key } = answer.json;
    if (key) expect(JSON.stringify(record)).not.toContain(key);
  }
  const all = JSON.stringify(await world.database.query('select * from waltide.audit_log'));
  expect(all).not.toContain('nobody-reads-this');
});
