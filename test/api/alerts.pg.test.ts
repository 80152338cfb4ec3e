import { afterAll, beforeAll, expect, test } from 'vitest';
import { API_BASE } from '../../src/api/route.ts';
import type { AccessRole } from '../../src/postgres/api-keys.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { type Answer, createKeys, type Json, startApi, type TestApi } from './support.ts';
import { checkReply, routeOf } from './world.ts';

let database: TestDatabase;
let keys: Record<AccessRole, string>;
let api: TestApi;
beforeAll(async () => {
  database = await createDatabase();
  keys = await createKeys(database);
  api = await startApi(database);
  await database.query(
    `insert into waltide.alerts (slot_name, rule, subject, state, severity, summary, value, threshold, since, opened_at, resolved_at,
       observed_at, observed_by)
     select $1, rule, subject, state, severity, rule || ' of ' || subject, 1, 2, now(), now(), case when state = 'resolved' then now() end, now(), 'i'
     from (values ('sink_lag', 'a', 'firing', 'warning'), ('slot_at_risk', 's', 'firing', 'critical'), ('sync_failed', 'n', 'resolved', 'warning'),
       ('table_stopped', 'a', 'pending', 'warning'), ('sink_breaker', 'a', 'firing', 'info')) v (rule, subject, state, severity)`,
    [database.name],
  );
  // Of another slot of the same database.
  await database.query(
    `insert into waltide.alerts (slot_name, rule, subject, state, severity, summary, since, observed_at, observed_by)
     values ('other', 'sink_lag', 'a', 'firing', 'critical', 'not ours', now(), now(), 'i')`,
  );
  await database.query(
    `with event as (insert into waltide.alert_history (alert_id, at, event, severity, summary, by)
       select id, now(), 'opened', severity, summary, 'i' from waltide.alerts where slot_name <> 'other' returning id, alert_id)
     insert into waltide.alert_notifications (slot_name, alert_id, event_id, webhook, payload, attempts, last_error)
     select $1, alert_id, id, 'ops', '{}', 2, 'answered 503' from event`,
    [database.name],
  );
});
afterAll(async () => {
  await api?.close();
  await database?.drop();
});

async function ask(name: string, path: string, options: { key?: string; body?: unknown } = {}): Promise<Answer> {
  const route = routeOf(name);
  const answer = await api.ask(`${API_BASE}/monitoring/${path}`, {
    method: route.method,
    key: keys.viewer,
    ...options,
  });
  checkReply(route, answer);
  return answer;
}
const list = async (query = ''): Promise<string[]> =>
  (await ask('GET /monitoring/alerts', `alerts${query}`)).json.alerts.map(({ rule }: Json) => rule);

test('the open ones, the gravest first, by state, severity and rule', async () => {
  const all = (await ask('GET /monitoring/alerts', 'alerts')).json;
  expect(all.alerts.map(({ rule }: Json) => rule)).toEqual(['slot_at_risk', 'sink_lag', 'sink_breaker']);
  expect(all.alerts[0]).toMatchObject({
    subject: 's',
    state: 'firing',
    severity: 'critical',
    value: 1,
    threshold: 2,
    note: null,
  });
  expect(all.counts).toEqual({ firing: 3, acknowledged: 0, critical: 1, warning: 1, info: 1 });
  expect(await list('?state=resolved')).toEqual(['sync_failed']);
  expect(await list('?state=pending')).toEqual(['table_stopped']);
  expect(await list('?severity=critical')).toEqual(['slot_at_risk']);
  expect(await list('?rule=sink_lag')).toEqual(['sink_lag']);
  expect(await list('?limit=1')).toEqual(['slot_at_risk']);
  for (const query of ['state=open', 'severity=grave', 'rule=nothing', 'limit=0'])
    expect((await ask('GET /monitoring/alerts', `alerts?${query}`)).status, query).toBe(400);
});

test('one with its history and who was told; what became of all', async () => {
  const [{ id }] = (await ask('GET /monitoring/alerts', 'alerts?rule=sink_lag')).json.alerts;
  const one = (await ask('GET /monitoring/alerts/:id', `alerts/${id}`)).json;
  expect(one.events).toMatchObject([{ event: 'opened', alert_id: id }]);
  expect(one.notifications).toMatchObject([
    { webhook: 'ops', event: 'opened', attempts: 2, last_error: 'answered 503' },
  ]);
  const { events } = (await ask('GET /monitoring/alerts/history', 'alerts/history?limit=2')).json;
  expect(events).toHaveLength(2);
  const next = (await ask('GET /monitoring/alerts/history', `alerts/history?before=${events[1].id}`)).json.events;
  expect(next).toHaveLength(3);
  expect((await ask('GET /monitoring/alerts/:id', 'alerts/99999')).status).toBe(404);
});

test('an operator acknowledges; dashboard and health show what is open', async () => {
  const [{ id }] = (await ask('GET /monitoring/alerts', 'alerts?severity=critical')).json.alerts;
  const path = `alerts/${id}/acknowledge`;
  const name = 'POST /monitoring/alerts/:id/acknowledge';
  expect((await ask(name, path, { body: {} })).status).toBe(403);
  const health = (await ask('GET /monitoring/health', 'health')).json;
  expect(health).toMatchObject({ status: 'degraded' });
  expect(health.reasons).toContain('alert slot_at_risk (critical): slot_at_risk of s');
  const done = await ask(name, path, { key: keys.operator, body: { note: 'on it' } });
  expect(done).toMatchObject({
    status: 200,
    json: { state: 'acknowledged', acknowledged_by: 'key:operator', note: 'on it' },
  });
  expect((await ask(name, path, { key: keys.operator })).status).toBe(200);
  const [resolved] = (await ask('GET /monitoring/alerts', 'alerts?state=resolved')).json.alerts;
  const late = await ask(name, `alerts/${resolved.id}/acknowledge`, { key: keys.operator });
  expect(late).toMatchObject({ status: 409, json: { code: 'ALERT' } });
  const dashboard = (await ask('GET /monitoring/dashboard', 'dashboard')).json;
  expect(dashboard.alerts).toHaveLength(3);
  const audit = await database.query(
    `select principal, outcome from waltide.audit_log where route like '%acknowledge' order by id`,
  );
  expect(audit.map(({ outcome }) => outcome)).toContain('success');
  expect(audit.map(({ outcome }) => outcome)).toContain('refused');
});
