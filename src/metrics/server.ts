import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { Metrics } from './metrics.ts';
import type { Stored } from './stored.ts';

/** The port nobody has to choose, so that a second Waltide on it is no mistake of the user's. */
const DEFAULT_PORT = 9464;
/** Where a second one may stand instead. */
const NEXT_PORTS_MAX = 10;

export interface MetricsServer {
  /** Where it listens: `http://127.0.0.1:9464`. */
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Serves `/metrics`, `/healthz` (503 with reasons while a stage is stuck) and `/readyz`. Null where metrics are turned
 * off, or the default port and those after it are taken: that is warned of, and no reason to stop.
 * Rejects with CONFIG_INVALID where a port chosen by the user is taken.
 */
export async function startMetricsServer(
  config: Config['metrics'],
  status: () => PipelineStatus,
  log: Log,
  stored?: Stored,
): Promise<MetricsServer | null> {
  if (!config.enabled) return null;
  const { tablesMax } = config;
  let loading: Promise<Metrics> | null = null;
  // Loaded with the first scrape: not every process is scraped.
  const metrics = (): Promise<Metrics> => {
    loading ??= import('./metrics.ts').then(({ createMetrics }) =>
      createMetrics({ status, tablesMax, ...(stored && { stored: () => stored.read() }) }),
    );
    return loading;
  };
  const server = createServer((request, response) => void answer(request, response, status, metrics));
  const port = await listen(server, config, log);
  if (port === null) return null;
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;
  const url = `http://${host}:${port}`;
  log.info({ metricsAddress: url }, 'serving /metrics, /healthz and /readyz');
  return {
    url,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

/** The port taken; null where none of the default ones is free. */
async function listen(server: Server, config: Config['metrics'], log: Log): Promise<number | null> {
  const last = config.port === DEFAULT_PORT ? DEFAULT_PORT + NEXT_PORTS_MAX : config.port;
  for (let port = config.port; port <= last; port++) {
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(port, config.host, () => {
          server.off('error', reject);
          resolve();
        });
      });
      const taken = (server.address() as AddressInfo).port;
      if (config.port === DEFAULT_PORT && taken !== DEFAULT_PORT)
        log.warn({ port: taken }, `metrics port ${DEFAULT_PORT} is in use; took the next free one`);
      return taken;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE' && config.port === DEFAULT_PORT) continue;
      const help =
        'Set metrics.host and metrics.port to an address that is free (0 takes any free port), or metrics.enabled: false.';
      throw new WaltideError(
        'CONFIG_INVALID',
        `metrics cannot be served on ${config.host}:${port}: ${messageOf(error)}`,
        help,
        { cause: error },
      );
    }
  }
  log.warn(`metrics ports ${DEFAULT_PORT} to ${last} are all in use; going on without /metrics and /healthz`);
  return null;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  status: () => PipelineStatus,
  metrics: () => Promise<Metrics>,
): Promise<void> {
  try {
    const path = (request.url ?? '').split('?', 1)[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') return send(response, 405, 'use GET\n');
    if (path === '/metrics') {
      const { read, contentType } = await metrics();
      return send(response, 200, await read(), contentType);
    }
    if (path === '/healthz') return sendHealth(response, status());
    if (path === '/readyz') return sendReadiness(response, status());
    send(response, 404, 'there are /metrics, /healthz and /readyz\n');
  } catch (error) {
    // A picture that cannot be taken is no sign of health.
    send(response, 503, `${messageOf(error)}\n`);
  }
}

function sendHealth(response: ServerResponse, { stuck }: PipelineStatus): void {
  sendJson(response, stuck.length === 0 ? 200 : 503, { status: stuck.length === 0 ? 'ok' : 'stuck', reasons: stuck });
}

function sendReadiness(response: ServerResponse, status: PipelineStatus): void {
  const failing = status.sinks.flatMap((sink) =>
    sink.lastError === null ? [] : [`sink "${sink.name}": ${sink.lastError}`],
  );
  const reasons = status.ready ? [] : [status.failure ?? `state is ${status.state}`, ...status.stuck, ...failing];
  if (!status.ready && !status.failure && status.source?.connected === false)
    reasons.push('not connected to PostgreSQL');
  sendJson(response, status.ready ? 200 : 503, { status: status.ready ? 'ready' : 'not ready', reasons });
}

function sendJson(response: ServerResponse, code: number, body: unknown): void {
  send(response, code, `${JSON.stringify(body)}\n`, 'application/json');
}

function send(response: ServerResponse, code: number, body: string, contentType = 'text/plain; charset=utf-8'): void {
  if (response.destroyed || response.headersSent) return;
  response.writeHead(code, { 'content-type': contentType, 'cache-control': 'no-store' });
  response.end(body);
}
