import { createHmac } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openWebhook } from '../../src/control/alerts/webhook.ts';
import type { PipelineStatus } from '../../src/pipeline/status.ts';
import { pipelineStatus, sinkStatus } from '../api/fixtures.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type Row, type TestDatabase } from '../support/postgres.ts';
import { startWaltide, type WaltideProcess, writeConfig } from '../support/waltide-process.ts';
import {
  type AlertsInput,
  AT_ONCE,
  alertsConfig,
  prepare,
  type Received,
  startAlerter,
  startReceiver,
} from './alert-support.ts';

let database: TestDatabase;
let receiver: Awaited<ReturnType<typeof startReceiver>>;
let stops: (() => Promise<void>)[];
let behind: boolean;
beforeEach(async () => {
  stops = [];
  behind = true;
  database = await createDatabase();
  await prepare(database);
  receiver = await startReceiver();
});
afterEach(async () => {
  await Promise.all(stops.map((stop) => stop()));
  await receiver.close();
  await database.drop();
});

const SECRET = 'a-secret-of-at-least-24-characters';
const RETRY: AlertsInput['retry'] = { firstMs: 20, maxMs: 50 };
type Hook = NonNullable<AlertsInput['webhooks']>[number];

const sink = { name: 'analytics<b>', lagBytes: 100 };
const status = (): PipelineStatus => ({
  ...pipelineStatus({ sinks: [sinkStatus({ ...sink, lagSeconds: behind ? 1000 : 1 })] }),
  source: { ...pipelineStatus().source!, budget: null },
});

async function look(webhooks: Hook[], alerts: AlertsInput = {}, instance?: string): Promise<() => Promise<void>> {
  const config = alertsConfig(database, { rules: AT_ONCE, retry: RETRY, webhooks, ...alerts });
  const { stop } = await startAlerter(config, status, instance);
  stops.push(stop);
  return stop;
}

const came = (count: number): Promise<void> => eventually(`${count} came`, () => receiver.received.length >= count);
const notifications = (): Promise<Row[]> =>
  database.query('select id::int, state, attempts, last_error from waltide.alert_notifications order by id');
const settled = (count: number): Promise<void> =>
  eventually(
    `${count} are settled`,
    async () => (await notifications()).filter(({ state }) => state !== 'pending').length >= count,
  );
const idsOf = (received: readonly Received[]): unknown[] => received.map(({ headers }) => headers['webhook-id']);

describe('a webhook', () => {
  it('of the generic format is told by JSON that is signed, when an alert opens and when it is resolved', async () => {
    await look([{ name: 'ops', url: receiver.url, secret: SECRET }]);
    await came(1);
    behind = false;
    await came(2);
    await settled(2);
    expect(receiver.received.map(({ json }) => json)).toMatchObject([
      {
        type: 'alert.opened',
        timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
        data: {
          ...{ slot: database.name, rule: 'sink_lag', subject: 'analytics<b>', state: 'firing', severity: 'warning' },
          ...{ previous_severity: null, value: 1000, threshold: 900, resolved_at: null, opened_at: expect.any(String) },
          ...{ summary: 'sink "analytics<b>" is 17 min behind the source', instance: expect.stringMatching(/^host:/) },
        },
      },
      { type: 'alert.resolved', data: { state: 'resolved', resolved_at: expect.any(String) } },
    ]);
    for (const { headers, text } of receiver.received) {
      const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${text}`;
      const expected = createHmac('sha256', SECRET).update(signed).digest('base64');
      expect(headers['webhook-signature']).toBe(`v1,${expected}`);
      expect(headers['content-type']).toBe('application/json');
    }
    expect(new Set(idsOf(receiver.received)).size).toBe(2);
  });

  it('of the slack format is told by text and blocks, in which nothing becomes a link', async () => {
    await look([{ name: 'chat', format: 'slack', url: receiver.url }]);
    await came(1);
    behind = false;
    await came(2);
    const [opened, resolved] = receiver.received.map(({ json }) => json);
    expect(opened.text).toContain(':warning: *warning: sink_lag* · analytics&lt;b&gt;');
    expect(opened.blocks).toMatchObject([
      { type: 'section', text: { type: 'mrkdwn', text: expect.stringContaining('17 min behind') } },
      { type: 'context', elements: [{ type: 'mrkdwn', text: expect.stringContaining(`slot ${database.name}`) }] },
    ]);
    expect(resolved.text).toContain(':white_check_mark: *resolved: sink_lag*');
    expect(receiver.received[0]!.headers['webhook-signature']).toBeUndefined();
  });

  it('hears of a change of severity, and only of what is grave enough for it', async () => {
    const all = await startReceiver();
    stops.push(() => all.close());
    const warn = alertsConfig(database, { rules: { sinkLag: { forMs: 0, severity: 'warning' } } });
    const webhooks: Hook[] = [
      { name: 'all', url: all.url },
      { name: 'grave', url: receiver.url, minSeverity: 'critical' },
    ];
    const stop = await look(webhooks, { rules: warn.alerts.rules });
    await eventually('it opens', () => all.received.length === 1);
    await stop();
    await look(webhooks, { rules: { sinkLag: { forMs: 0, severity: 'critical' } } });
    await eventually('it is graver', () => all.received.length === 2);
    behind = false;
    await eventually('it is over', () => all.received.length === 3);
    await came(2);
    expect(all.received.map(({ json }) => json.type)).toEqual(['alert.opened', 'alert.changed', 'alert.resolved']);
    expect(all.received[1]!.json.data).toMatchObject({ severity: 'critical', previous_severity: 'warning' });
    expect(receiver.received.map(({ json }) => json.type)).toEqual(['alert.changed', 'alert.resolved']);
  });

  it('that fails, is silent, or redirects is tried again, in order and with the same id, over a restart', async () => {
    const hook = { name: 'ops', url: receiver.url, timeoutMs: 100 };
    receiver.answer = 503;
    // However many it takes until each is seen.
    const retry = { ...RETRY, attemptsMax: 1000 };
    const stop = await look([hook], { retry });
    await came(2);
    receiver.answer = 'never';
    await eventually('it is silent', async () =>
      /no answer within 100 ms/.test(String((await notifications())[0]?.last_error)),
    );
    const elsewhere = await startReceiver();
    stops.push(() => elsewhere.close());
    receiver.answer = { redirect: elsewhere.url };
    await eventually('it redirects', async () =>
      /answered 307, a redirection/.test(String((await notifications())[0]?.last_error)),
    );
    behind = false;
    await eventually('it is resolved', async () => (await notifications()).length === 2);
    await stop();
    const before = receiver.received.length;
    receiver.answer = 200;
    // Who is answered late tells once more.
    await look([{ ...hook, timeoutMs: 60_000 }], { retry });
    await settled(2);
    expect(elsewhere.received).toEqual([]);
    expect(receiver.received.slice(before).map(({ json }) => json.type)).toEqual(['alert.opened', 'alert.resolved']);
    expect(new Set(idsOf(receiver.received)).size).toBe(2);
    expect(await notifications()).toMatchObject([{ state: 'sent', last_error: null }, { state: 'sent' }]);
  });

  it('is given up after as many attempts as are allowed; no message holds its URL', async () => {
    receiver.answer = 500;
    await look([{ name: 'ops', url: receiver.url, secret: SECRET }], { retry: { ...RETRY, attemptsMax: 3 } });
    await settled(1);
    expect(receiver.received).toHaveLength(3);
    expect(await notifications()).toMatchObject([{ state: 'failed', attempts: 3, last_error: 'answered 500' }]);
    const unreachable = openWebhook({
      ...{ name: 'x', format: 'generic', url: 'http://127.0.0.1:1/s3cret-path', minSeverity: 'info', timeoutMs: 1000 },
    });
    const failure = await unreachable.send('1', {} as never).catch((error: Error) => error.message);
    expect(failure).toMatch(/ECONNREFUSED|bad port/);
    expect(failure).not.toContain('s3cret');
  });

  it('is told once of what several processes see', async () => {
    const hook = { name: 'ops', url: receiver.url };
    for (const id of ['a', 'b', 'c']) await look([hook], { intervalMs: 10 }, `${id}:1:abc123`);
    await settled(1);
    behind = false;
    await settled(2);
    await Promise.all(stops.map((stop) => stop()));
    expect(receiver.received.map(({ json }) => json.type)).toEqual(['alert.opened', 'alert.resolved']);
    expect((await notifications()).map(({ attempts }) => attempts)).toEqual([1, 1]);
  });

  it('has its URL and secret in files, where they are to be found and usable', () => {
    const file = join(tmpdir(), `waltide-hook-${process.pid}`);
    const open = (text: string, key: 'urlFile' | 'secretFile') => {
      writeFileSync(file, text);
      const { config } = {
        config: alertsConfig(database, {
          webhooks: [{ name: 'a', ...(key === 'urlFile' ? {} : { url: 'https://a' }), [key]: file }],
        }),
      };
      return openWebhook(config.alerts.webhooks[0]!);
    };
    expect(open(`${receiver.url}\n`, 'urlFile').name).toBe('a');
    expect(() => open('ftp://s3cret', 'urlFile')).toThrow(/"a", urlFile: what it holds is no URL/);
    expect(() => open('https://u:s3cret@h/', 'urlFile')).toThrow(/may hold no user or password/);
    expect(() => open('short', 'secretFile')).toThrow(/holds 5 characters/);
    const absent = alertsConfig(database, { webhooks: [{ name: 'a', urlFile: join(tmpdir(), 'no-such-file') }] });
    expect(() => openWebhook(absent.alerts.webhooks[0]!)).toThrow(/no-such-file cannot be read/);
  });
});

describe('a process that is killed with -9', () => {
  let running: WaltideProcess | null = null;
  afterEach(async () => {
    running?.child.kill('SIGKILL');
    await running?.finished;
  });

  // At least once: where it dies between the answer and its record, the same id comes again.
  it.each([
    ['before-notification', 0],
    ['after-notification', 1],
  ])(
    '%s: the next one tells',
    async (point, before) => {
      await database.query('create table a (id int primary key)');
      await database.query(`insert into waltide.sync_status (sync_type, failed_sync_count) values ('nightly', 1)`);
      await database.query(
        `insert into waltide.sync_history (sync_type, status, error_class, service_instance) values ('nightly', 'error', 'data', 'x')`,
      );
      const rules = { instanceGone: { enabled: false } };
      const { folder, file } = writeConfig({
        source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
        sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
        alerts: { intervalMs: 200, webhooks: [{ name: 'ops', url: receiver.url, timeoutMs: 60_000 }], rules },
      });
      expect(folder).toBeTruthy();
      const first = startWaltide(['run', '--config', file], { WALTIDE_FAILPOINT: point });
      expect((await first.finished).signal).toBe('SIGKILL');
      expect(receiver.received).toHaveLength(before);
      expect(await notifications()).toMatchObject([{ state: 'pending', attempts: 1 }]);
      // As if the time were up for which it was the killed one's alone.
      await database.query('update waltide.alert_notifications set next_at = now()');
      running = startWaltide(['run', '--config', file]);
      await settled(1);
      expect(receiver.received).toHaveLength(before + 1);
      expect(new Set(idsOf(receiver.received)).size).toBe(1);
      expect(receiver.received[0]!.json.data).toMatchObject({ rule: 'sync_failed', subject: 'nightly' });
      running.child.kill('SIGTERM');
      const { code, stderr } = await running.finished;
      expect(code).toBe(0);
      expect(stderr).not.toContain('s3cret-path');
    },
    240_000,
  );
});
