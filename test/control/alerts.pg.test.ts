import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import type { PipelineStatus } from '../../src/pipeline/status.ts';
import { acknowledgeAlert } from '../../src/postgres/alerts.ts';
import { cleanUp } from '../../src/postgres/run-cleanup.ts';
import { withSession } from '../../src/postgres/session.ts';
import { pipelineStatus, sinkStatus } from '../api/fixtures.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type Row, type TestDatabase } from '../support/postgres.ts';
import { type AlertsInput, AT_ONCE, alertsConfig, alertsOf, prepare, startAlerter } from './alert-support.ts';

let database: TestDatabase;
let stops: (() => Promise<void>)[];
let status: PipelineStatus;
beforeEach(async () => {
  stops = [];
  database = await createDatabase();
  await prepare(database);
  status = healthy();
});
afterEach(async () => {
  await Promise.all(stops.map((stop) => stop()));
  await database.drop();
});

const SINK = { name: 'analytics', lagBytes: 100, lagSeconds: 1 };
const HEALTHY_BUDGET = { ...pipelineStatus().source!.budget!, level: 'ok' as const };
const source = { ...pipelineStatus().source!, budget: HEALTHY_BUDGET };
const healthy = (sink: Parameters<typeof sinkStatus>[0] = {}): PipelineStatus =>
  pipelineStatus({ source, sinks: [sinkStatus({ ...SINK, ...sink })] });

async function look(alerts: AlertsInput = { rules: AT_ONCE }, instance?: string): Promise<() => Promise<void>> {
  const { stop } = await startAlerter(alertsConfig(database, alerts), () => status, instance);
  stops.push(stop);
  return stop;
}

/** The last alert of a rule. */
async function last(rule: string): Promise<Row | undefined> {
  return (await alertsOf(database)).filter((alert) => alert.rule === rule).at(-1);
}
const opens = (rule: string): Promise<void> =>
  eventually(`${rule} opens`, async () => (await last(rule))?.state === 'firing');
const resolves = (rule: string): Promise<void> =>
  eventually(`${rule} is resolved`, async () => (await last(rule))?.state === 'resolved');
/** Everything was looked at since. */
async function looked(): Promise<void> {
  const marker = `looked-${Math.random()}`;
  await database.query(`insert into waltide.sync_status (sync_type, failed_sync_count) values ($1, 1)`, [marker]);
  await database.query(
    `insert into waltide.sync_history (sync_type, status, error_class, service_instance) values ($1, 'error', 'data', 'x')`,
    [marker],
  );
  const seen = async () => (await alertsOf(database)).some(({ subject }) => subject === marker);
  await eventually('it was looked at', seen);
  await database.query('delete from waltide.sync_status where sync_type = $1', [marker]);
}

describe('a rule opens and is resolved:', () => {
  /** What this process says of itself. */
  const LOCAL: Record<string, { bad: () => PipelineStatus; subject: string; expected: object }> = {
    sink_lag: {
      bad: () => healthy({ lagSeconds: 1000 }),
      subject: 'analytics',
      expected: {
        severity: 'warning',
        value: 1000,
        threshold: 900,
        summary: 'sink "analytics" is 17 min behind the source',
      },
    },
    sink_breaker: {
      bad: () => healthy({ breaker: 'half-open', lastError: 'disk full' }),
      subject: 'analytics',
      expected: { summary: expect.stringContaining('disk full') },
    },
    table_stopped: {
      bad: () => healthy({ stopped: [{ name: 'public.a', reason: 'too wide' }] }),
      subject: 'analytics',
      expected: { value: 1, summary: 'sink "analytics" no longer follows public.a (too wide)' },
    },
    pipeline_stalled: {
      bad: () => ({ ...healthy(), state: 'failed', failure: 'SLOT_LOST: it is lost.' }),
      subject: 'host (all)',
      expected: { severity: 'critical', summary: 'SLOT_LOST: it is lost.' },
    },
    slot_at_risk: {
      bad: () => ({
        ...healthy(),
        source: { ...source, budget: { ...HEALTHY_BUDGET, level: 'critical', retainedBytes: 900, secondsLeft: 300 } },
      }),
      subject: '',
      expected: { severity: 'critical', value: 900, threshold: 1000 },
    },
  };

  it.each(Object.entries(LOCAL))('%s', async (rule, { bad, subject, expected }) => {
    await look();
    await looked();
    expect(await last(rule)).toBeUndefined();
    status = bad();
    await opens(rule);
    expect(await last(rule)).toMatchObject({ subject: subject || database.name, ...expected });
    status = healthy();
    await resolves(rule);
    const events = await database.query('select event from waltide.alert_history where alert_id = $1 order by id', [
      (await last(rule))!.id,
    ]);
    expect(events).toEqual([{ event: 'opened' }, { event: 'resolved' }]);
  });

  it('dead_letters', async () => {
    await database.query(`insert into waltide.dead_letter_relations values ('r', '{}')`);
    await database.query(
      `insert into waltide.dead_letters (slot_name, sink, commit_lsn, seq, xid, committed_at, table_oid, schema_name, table_name,
         row_name, op, relation_id, error_code, error_message)
       select $1, 'analytics', '0/10', i, 1, now(), 1, 'public', 'a', '[]', 'c', 'r', 'X', 'x' from generate_series(1, 100) i`,
      [database.name],
    );
    await look();
    await looked();
    expect(await last('dead_letters')).toBeUndefined();
    await database.query(
      `insert into waltide.dead_letters (slot_name, sink, commit_lsn, seq, xid, committed_at, table_oid, schema_name, table_name,
         row_name, op, relation_id, error_code, error_message)
       select slot_name, sink, commit_lsn, 101, xid, committed_at, table_oid, schema_name, table_name, row_name, op, relation_id,
         error_code, error_message from waltide.dead_letters limit 1`,
    );
    await opens('dead_letters');
    expect(await last('dead_letters')).toMatchObject({ subject: 'analytics', value: 101, threshold: 100 });
    await database.query(`update waltide.dead_letters set state = 'discarded', closed_at = now()`);
    await resolves('dead_letters');
  });

  it('consistency_score: the last validation of each table counts', async () => {
    const validated = async (id: string, score: number, request: object = { repair: false }): Promise<void> => {
      await database.query(
        `insert into waltide.validations (id, slot_name, request, state, score, ok, finished_at) values ($1, $2, $5, 'completed', $3, $4, now())`,
        [id, database.name, score, score === 100, request],
      );
      await database.query(
        `insert into waltide.validation_results (validation_id, sink, table_name, finished, source_rows, sink_rows, missing, extra, different,
           unsettled, repaired, score, result) values ($1, 'analytics', 'public.a', true, 1, 1, 0, 0, 0, 0, 0, $2, '{}')`,
        [id, score],
      );
    };
    await validated('1', 95);
    await look();
    await looked();
    expect(await last('consistency_score')).toBeUndefined();
    await validated('2', 89.5);
    await opens('consistency_score');
    expect(await last('consistency_score')).toMatchObject({
      ...{ subject: 'analytics: public.a', severity: 'critical', value: 89.5, threshold: 90 },
    });
    // What compared less than all of the table's data proves nothing of it, good or bad.
    const narrow = [{ checks: ['row_count'] }, { sample: 5 }, { key: ['1'] }, { since: '2026-01-01' }];
    for (const [i, request] of narrow.entries()) await validated(`good ${i}`, 100, request);
    await look();
    await looked();
    expect(await last('consistency_score')).toMatchObject({ state: 'firing', value: 89.5 });
    await validated('3', 100, { checks: ['row_count', 'data_hash'] });
    await resolves('consistency_score');
    for (const [i, request] of narrow.entries()) await validated(`bad ${i}`, 1, request);
    await look();
    await looked();
    expect(await last('consistency_score')).toMatchObject({ state: 'resolved' });
  });

  it('sync_failed: not what a person cancelled, and not while it is merely tried again', async () => {
    const run = async (outcome: 'error' | 'success' | 'in_progress', errorClass: string | null): Promise<void> => {
      await database.query(
        `insert into waltide.sync_status (sync_type, failed_sync_count) values ('nightly', 1) on conflict do nothing`,
      );
      await database.query(
        `insert into waltide.sync_history (sync_type, status, error_class, error_message, service_instance) values ('nightly', $1, $2, 'no space', 'x')`,
        [outcome, errorClass],
      );
    };
    await run('error', null);
    await look();
    await looked();
    const nightly = async () => (await alertsOf(database)).find(({ subject }) => subject === 'nightly');
    expect(await nightly()).toBeUndefined();
    await run('error', 'storage');
    await eventually('it opens', async () => (await nightly())?.state === 'firing');
    expect(await nightly()).toMatchObject({
      summary: expect.stringMatching(/^run \d+ of "nightly" failed: no space$/),
    });
    await run('in_progress', null);
    await looked();
    expect(await nightly()).toMatchObject({ state: 'firing' });
    await run('success', null);
    await eventually('it is resolved', async () => (await nightly())?.state === 'resolved');
  });

  it('slot_at_risk by what the server says, where no pipeline streams', async () => {
    status = pipelineStatus({ state: 'stopped', source: null, sinks: [] });
    await database.query(`insert into waltide.slots (slot_name, state) values ('${database.name}', 'streaming')`);
    await database.query(`select pg_create_logical_replication_slot('${database.name}', 'pgoutput')`);
    await look({});
    await looked();
    expect(await last('slot_at_risk')).toBeUndefined();
    await database.query(`select pg_drop_replication_slot('${database.name}')`);
    await opens('slot_at_risk');
    expect(await last('slot_at_risk')).toMatchObject({
      severity: 'critical',
      summary: expect.stringContaining('not there'),
    });
  });

  describe('instance_gone,', () => {
    const instance = (id: string, started: string, rest: string): Promise<Row[]> =>
      database.query(
        `insert into waltide.instances (id, slot_name, role, host, pid, version, started_at, heartbeat_at, expires_at, stopped_at)
         values ('${id}', '${database.name}', 'all', 'h', 1, '1', now() - interval '${started}', ${rest})`,
      );
    const DEAD = `now() - interval '1 hour', now() - interval '59 min', null`;
    const ALIVE = `now(), now() + interval '1 hour', null`;

    it('seen by another process; one that stopped in order is no loss', async () => {
      await instance(
        'good:1:aaaaaa',
        '1 day',
        `now() - interval '1 hour', now() - interval '59 min', now() - interval '1 hour'`,
      );
      await look();
      await looked();
      expect(await last('instance_gone')).toBeUndefined();
      await instance('h:1:aaaaaa', '1 day', DEAD);
      await opens('instance_gone');
      expect(await last('instance_gone')).toMatchObject({ subject: 'h (all)', severity: 'critical' });
      await instance('h:2:bbbbbb', '1 s', ALIVE);
      await resolves('instance_gone');
      await looked();
      expect((await alertsOf(database)).filter(({ rule }) => rule === 'instance_gone')).toHaveLength(1);
    });

    it('seen by the next start, which has taken its place: told once', async () => {
      // As closeAbandoned leaves it.
      await instance('h:1:aaaaaa', '1 day', `now() - interval '1 hour', now() - interval '59 min', now()`);
      await instance('h:2:bbbbbb', '1 s', ALIVE);
      await look();
      await resolves('instance_gone');
      expect(await last('instance_gone')).toMatchObject({
        severity: 'warning',
        summary: expect.stringContaining('h:2:bbbbbb has taken its place'),
      });
      await looked();
      expect((await alertsOf(database)).filter(({ rule }) => rule === 'instance_gone')).toHaveLength(1);
    });

    it('not of one that was replaced long ago', async () => {
      await instance('h:1:aaaaaa', '1 day', DEAD);
      await instance('h:2:bbbbbb', '30 min', ALIVE);
      await look();
      await looked();
      expect(await last('instance_gone')).toBeUndefined();
    });
  });
});

describe('an alert', () => {
  it('does not come of an idle source, whose lag is only silence, nor of one that is not followed on purpose', async () => {
    status = healthy({ lagSeconds: 5000, lagBytes: 0 });
    await look();
    await looked();
    expect(await last('sink_lag')).toBeUndefined();
    status = { ...healthy({ lagSeconds: 5000 }), state: 'resting' };
    await looked();
    expect((await alertsOf(database)).filter(({ rule }) => rule !== 'sync_failed')).toEqual([]);
    status = { ...healthy({ lagSeconds: 5000, lagBytes: 0 }), source: { ...source, connected: false } };
    await opens('sink_lag');
  });

  it('waits for `forMs` without a break, and is resolved once it was clear for resolveAfterMs', async () => {
    status = healthy({ lagSeconds: 1000 });
    await look({ resolveAfterMs: 3_600_000, rules: { sinkLag: { forMs: 3_600_000 } } });
    await eventually('it waits', async () => (await last('sink_lag'))?.state === 'pending');
    status = healthy();
    await eventually('it is forgotten', async () => (await last('sink_lag')) === undefined);
    status = healthy({ lagSeconds: 1000 });
    await eventually('it waits again', async () => (await last('sink_lag'))?.state === 'pending');
    // Again and again: a look that is under way may write what it has read before.
    await eventually('it opens', async () => {
      await database.query(
        `update waltide.alerts set since = now() - interval '1 hour' where rule = 'sink_lag' and state = 'pending'`,
      );
      return (await last('sink_lag'))?.state === 'firing';
    });
    status = healthy();
    await eventually('it is clear', async () => (await last('sink_lag'))?.clear_since !== null);
    status = healthy({ lagSeconds: 2000 });
    await eventually('it is not', async () => (await last('sink_lag'))?.clear_since === null);
    expect(await last('sink_lag')).toMatchObject({ state: 'firing', value: 2000 });
    status = healthy();
    await eventually('it is clear again', async () => (await last('sink_lag'))?.clear_since !== null);
    await eventually('it is resolved', async () => {
      await database.query(
        `update waltide.alerts set clear_since = now() - interval '1 hour' where rule = 'sink_lag' and clear_since is not null`,
      );
      return (await last('sink_lag'))?.state === 'resolved';
    });
  });

  it('that is acknowledged stays, fires again where it becomes graver, and ends when clear', async () => {
    const { source: endpoint } = alertsConfig(database);
    const acknowledge = (id: number): Promise<unknown> =>
      withSession(endpoint, 'test', (client) => acknowledgeAlert(client, database.name, id, 'ann', 'on it'));
    const level = (of: 'warning' | 'critical'): PipelineStatus => ({
      ...healthy(),
      source: { ...source, budget: { ...HEALTHY_BUDGET, level: of } },
    });
    status = level('warning');
    await look();
    await opens('slot_at_risk');
    const id = Number((await last('slot_at_risk'))!.id);
    await acknowledge(id);
    await looked();
    expect(await last('slot_at_risk')).toMatchObject({ state: 'acknowledged', acknowledged_by: 'ann', note: 'on it' });
    status = level('critical');
    await opens('slot_at_risk');
    expect(await last('slot_at_risk')).toMatchObject({ severity: 'critical', note: null });
    await acknowledge(id);
    status = level('warning');
    await eventually('it is less severe', async () => (await last('slot_at_risk'))?.severity === 'warning');
    expect(await last('slot_at_risk')).toMatchObject({ state: 'acknowledged' });
    status = healthy();
    await resolves('slot_at_risk');
    await expect(acknowledge(id)).rejects.toMatchObject({
      code: 'ALERT',
      message: expect.stringContaining('resolved'),
    });
    await expect(acknowledge(999_999)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    const events = await database.query(
      'select event, severity, by from waltide.alert_history where alert_id = $1 order by id',
      [id],
    );
    expect(events.map(({ event, severity }) => `${event} ${severity}`)).toEqual([
      ...['opened warning', 'acknowledged warning', 'changed critical', 'acknowledged critical'],
      ...['changed warning', 'resolved warning'],
    ]);
    expect(events.map(({ by }) => by)).toContain('ann');
  });

  it('of a rule that is turned off ends; of a sink that nobody looks at it stays for a day', async () => {
    status = healthy({ lagSeconds: 1000, breaker: 'open' });
    const stop = await look();
    await opens('sink_lag');
    await opens('sink_breaker');
    await stop();
    status = pipelineStatus({ source, sinks: [] });
    await look({ rules: { sinkBreaker: { enabled: false } } });
    await resolves('sink_breaker');
    expect(await last('sink_lag')).toMatchObject({ state: 'firing' });
    await database.query(`update waltide.alerts set observed_at = observed_at - interval '1 day'`);
    await resolves('sink_lag');
  });

  it('of a sink that several processes share is cleared by the one that sees it, not by those that do not', async () => {
    const rules = { sinkLag: { forMs: 500 } };
    const config = alertsConfig(database, { intervalMs: 20, rules });
    const others = [0, 1].map((i) => startAlerter(config, () => healthy(), `well${i}:1:abc123`));
    for (const { stop } of await Promise.all(others)) stops.push(stop);
    status = healthy({ lagSeconds: 1000 });
    await look({ intervalMs: 20, rules }, 'behind:1:abc123');
    await opens('sink_lag');
    await looked();
    expect((await alertsOf(database)).filter(({ rule }) => rule === 'sink_lag')).toMatchObject([{ state: 'firing' }]);
    status = healthy();
    await resolves('sink_lag');
  });

  it('is one, and told of once, however many processes look; the history is kept as long as that of runs', async () => {
    status = healthy({ lagSeconds: 1000 });
    for (const id of ['a', 'b', 'c', 'd']) await look({ intervalMs: 10, rules: AT_ONCE }, `${id}:1:abc123`);
    await opens('sink_lag');
    await looked();
    status = healthy();
    await resolves('sink_lag');
    expect((await alertsOf(database)).filter(({ rule }) => rule === 'sink_lag')).toHaveLength(1);
    const { source: endpoint } = alertsConfig(database);
    const clean = () => withSession(endpoint, 'test', (client) => cleanUp(client, 1));
    expect((await clean()).alerts).toBe(0);
    await database.query(`update waltide.alerts set resolved_at = now() - interval '25 hours' where rule = 'sink_lag'`);
    expect((await clean()).alerts).toBe(1);
    expect(
      await database.query(
        `select from waltide.alert_history h join waltide.alerts a on a.id = alert_id where rule = 'sink_lag'`,
      ),
    ).toEqual([]);
  });
});

test('turned off as a whole, nothing is looked at', async () => {
  status = healthy({ lagSeconds: 1000 });
  const { stop } = await startAlerter(alertsConfig(database, { enabled: false }), () => status);
  await stop();
  expect(await alertsOf(database)).toEqual([]);
});
