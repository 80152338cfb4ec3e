import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import { createMetrics } from '../../src/metrics/metrics.ts';
import { type MetricsServer, startMetricsServer } from '../../src/metrics/server.ts';
import type { PipelineStatus } from '../../src/pipeline/status.ts';
import { pipelineStatus, quiet, sinkStatus } from './fixtures.ts';

const tablesMax = 500;
const open: (MetricsServer | Server)[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

async function occupy(port: number): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  open.push(server);
  return (server.address() as AddressInfo).port;
}

async function serve(status: () => PipelineStatus): Promise<string> {
  const server = await startMetricsServer({ host: '127.0.0.1', port: 0, enabled: true, tablesMax }, status, quiet);
  open.push(server!);
  return server!.url;
}

describe('metrics', () => {
  test('samples of every stage, labels escaped', async () => {
    const { contentType, read } = createMetrics({ status: () => pipelineStatus(), tablesMax });
    const text = await read();
    expect(contentType).toContain('text/plain');
    for (const line of [
      'waltide_build_info{version="1.2.3",role="all",transport="in-process"} 1',
      'waltide_source_events_total{slot="waltide"} 44',
      'waltide_slot_lag_bytes{slot="waltide"} 16',
      'waltide_source_reconnects_total{slot="waltide"} 2',
      'waltide_sink_events_total{sink="analytics"} 42',
      'waltide_sink_lag_bytes{sink="analytics"} 100',
      'waltide_sink_lag_seconds{sink="analytics"} 1.5',
      'waltide_sink_pending_events{sink="analytics"} 2',
      'waltide_sink_retries_total{sink="analytics"} 1',
      'waltide_stage_lag_seconds{stage="captured"} 0',
      'waltide_stage_lag_seconds{stage="published"} 2',
      'waltide_stage_lag_seconds{stage="delivered",sink="analytics"} 0.5',
      'waltide_stage_lag_bytes{stage="applied",sink="analytics"} 100',
      'waltide_sink_heartbeat_round_trip_seconds{sink="analytics"} 0.25',
      'waltide_sink_batch_rows_bucket{sink="analytics",le="10"} 3',
      'waltide_sink_batch_rows_bucket{sink="analytics",le="+Inf"} 4',
      'waltide_sink_batch_rows_sum{sink="analytics"} 40',
      'waltide_sink_batch_rows_count{sink="analytics"} 4',
      'waltide_source_open_transactions_spilled_bytes{slot="waltide"} 1000000',
      'waltide_sink_stopped_tables{sink="analytics"} 0',
      'waltide_sink_table_events_total{sink="analytics",table="public.a \\"b\\""} 42',
      'waltide_snapshot_rows_total{table="public.a",kind="initial"} 10',
      'waltide_snapshot_bytes_total{table="public.a",kind="initial"} 100',
      'waltide_snapshot_state{table="public.a",kind="initial",state="completed"} 1',
      'waltide_state{state="streaming"} 1',
      'waltide_state{state="copying"} 0',
      '# TYPE waltide_sink_events_total counter',
      '# TYPE waltide_sink_lag_seconds gauge',
    ])
      expect(text.split('\n')).toContain(line);
    expect(text).toMatch(/^process_resident_memory_bytes \d+/m);
  });

  test('counters are the status, not its sum over scrapes; what is gone or unknown has no sample', async () => {
    let status = pipelineStatus();
    const { read } = createMetrics({ status: () => status, tablesMax });
    await read();
    expect(await read()).toContain('waltide_sink_events_total{sink="analytics"} 42');
    status = pipelineStatus({ source: null, sinks: [sinkStatus({ name: 'other', lagSeconds: null, events: 1 })] });
    const text = await read();
    expect(text).not.toContain('analytics');
    expect(text).not.toMatch(/waltide_slot_lag_bytes\{|waltide_sink_lag_seconds\{/);
  });
});

describe('health', () => {
  test('green', async () => {
    const url = await serve(() => pipelineStatus());
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    expect((await fetch(`${url}/metrics`)).headers.get('content-type')).toContain('version=0.0.4');
    expect((await fetch(`${url}/`)).status).toBe(404);
    expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(405);
  });

  test('a stuck stage turns both red, with the reason', async () => {
    const url = await serve(() =>
      pipelineStatus({ stuck: ['sink "a" has not finished a batch for 130 s'], ready: false }),
    );
    const answer = await fetch(`${url}/healthz`);
    expect(answer.status).toBe(503);
    expect(await answer.json()).toEqual({ status: 'stuck', reasons: ['sink "a" has not finished a batch for 130 s'] });
    expect((await fetch(`${url}/readyz`)).status).toBe(503);
  });

  test('starting is alive and not ready', async () => {
    const url = await serve(() => pipelineStatus({ state: 'copying', ready: false }));
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    const answer = await fetch(`${url}/readyz`);
    expect(answer.status).toBe(503);
    expect(await answer.json()).toEqual({ status: 'not ready', reasons: ['state is copying'] });
  });

  test('a status that cannot be taken is no health', async () => {
    const url = await serve(() => {
      throw new Error('broken');
    });
    for (const path of ['/healthz', '/readyz', '/metrics']) expect((await fetch(url + path)).status).toBe(503);
  });
});

describe('the port', () => {
  test('turned off', async () => {
    expect(
      await startMetricsServer(
        { host: '127.0.0.1', port: 9464, enabled: false, tablesMax },
        () => pipelineStatus(),
        quiet,
      ),
    ).toBeNull();
  });

  test('the default one is busy: warned of, and another taken', async () => {
    await occupy(9464).catch(() => undefined); // Busy already is as good.
    const messages: string[] = [];
    const log = pino({}, { write: (line: string) => messages.push(line) });
    const server = await startMetricsServer(
      { host: '127.0.0.1', port: 9464, enabled: true, tablesMax },
      () => pipelineStatus(),
      log,
    );
    open.push(server!);
    expect(Number(new URL(server!.url).port)).toBeGreaterThan(9464);
    expect(messages.join()).toContain('9464 is in use');
  });

  test('a chosen one is busy: an error', async () => {
    const port = await occupy(0);
    const start = startMetricsServer(
      { host: '127.0.0.1', port, enabled: true, tablesMax },
      () => pipelineStatus(),
      quiet,
    );
    await expect(start).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(String(port)),
    });
  });
});
