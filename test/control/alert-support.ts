import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { resolveConfig } from '../../src/config/load.ts';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import { Alerter } from '../../src/control/alerts/alerter.ts';
import type { PipelineStatus } from '../../src/pipeline/status.ts';
import { migrate } from '../../src/postgres/control.ts';
import { withSession } from '../../src/postgres/session.ts';
import { Sessions } from '../../src/postgres/sessions.ts';
import { pipelineStatus } from '../api/fixtures.ts';
import { log } from '../support/pipeline.ts';
import type { Row, TestDatabase } from '../support/postgres.ts';

export type AlertsInput = NonNullable<ConfigInput['alerts']>;

/** Looks ten times a second, and opens and resolves at once. */
export function alertsConfig(database: TestDatabase, alerts: AlertsInput = {}): Config {
  return resolveConfig({
    source: { url: database.url, slot: database.name, tables: ['*.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'unused.duckdb' }],
    alerts: { intervalMs: 100, resolveAfterMs: 0, ...alerts },
  });
}

/** Every rule at once, without its `forMs`. */
export const AT_ONCE: AlertsInput['rules'] = {
  sinkLag: { forMs: 0 },
  sinkBreaker: { forMs: 0 },
  pipelineStalled: { forMs: 0 },
};

export async function prepare(database: TestDatabase): Promise<void> {
  await withSession(alertsConfig(database).source, 'test', migrate);
}

export interface TestAlerter {
  readonly alerter: Alerter;
  stop(): Promise<void>;
}

/** One process' share in looking; `status` is what its pipeline says of itself. */
export async function startAlerter(
  config: Config,
  status: () => PipelineStatus = () => pipelineStatus({ sinks: [] }),
  instance = `host:${process.pid}:abc123`,
): Promise<TestAlerter> {
  const sessions = new Sessions(config.source, 'alerts');
  const alerter = new Alerter({ config, log, sessions, instance, role: 'all', pipeline: { status } });
  await alerter.start();
  return {
    alerter,
    stop: async () => {
      await alerter.stop();
      await sessions.close();
    },
  };
}

export const alertsOf = (database: TestDatabase): Promise<Row[]> =>
  database.query('select * from waltide.alerts order by id');

export interface Received {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: whatever was posted; tests look into it.
  readonly json: any;
}

/** A receiver of webhooks that keeps what comes, and answers as it is told: a status, a redirection, or never. */
export async function startReceiver(): Promise<{
  readonly url: string;
  readonly received: Received[];
  answer: number | 'never' | { readonly redirect: string };
  close(): Promise<void>;
}> {
  const received: Received[] = [];
  const server = createServer((request, response) => {
    let text = '';
    request.setEncoding('utf8').on('data', (part: string) => (text += part));
    request.on('end', () => {
      received.push({ headers: request.headers, text, json: JSON.parse(text) });
      const { answer } = receiver;
      if (answer === 'never') return;
      if (typeof answer === 'number') response.writeHead(answer).end('ok');
      else response.writeHead(307, { location: answer.redirect }).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook/s3cret-path`,
    received,
    answer: 200 as number | 'never' | { readonly redirect: string },
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  return receiver;
}
