import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { isLoopback } from '../config/api-checks.ts';
import type { ApiConfig } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { createApp } from './app.ts';
import type { AuditLog } from './audit.ts';
import { authenticator } from './auth/authenticate.ts';
import type { Deps } from './route.ts';
import { ROUTES } from './routes.ts';
import { limited, secure } from './security.ts';

const DAY_MS = 86_400_000;

export interface ApiServer {
  /** Where it listens: `http://127.0.0.1:8410`. */
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Serves the API where `api` says. Rejects with CONFIG_INVALID where the address is taken, or a certificate, key or secret
 * cannot be read.
 */
export async function startApiServer(deps: Deps, audit: AuditLog): Promise<ApiServer> {
  const { log } = deps;
  const config = deps.config.api;
  const { host, port, bodyBytesMax, trustedProxies } = config;
  const tls = readTls(config);
  const authenticate = await authenticator(config, deps.sessions, log);
  const app = await createApp({
    routes: ROUTES,
    deps,
    audit,
    bodyBytesMax,
    trustedProxies,
    authenticate: limited(authenticate, config),
    before: (app) => secure(app, config),
    ...(tls && { tls }),
  });
  try {
    await app.listen({ host, port });
  } catch (error) {
    throw new WaltideError(
      'CONFIG_INVALID',
      `the API cannot be served on ${host}:${port}: ${messageOf(error)}`,
      'Set api.host and api.port to an address that is free (0 takes any free port), or api.enabled: false.',
      { cause: error },
    );
  }
  const purge = setInterval(() => void audit.purge(config.auditRetentionDays), DAY_MS).unref();
  void audit.purge(config.auditRetentionDays);
  const shown = host.includes(':') ? `[${host}]` : host;
  const url = `${tls ? 'https' : 'http'}://${shown}:${(app.server.address() as AddressInfo).port}`;
  log.info({ apiAddress: url, docs: `${url}/api/v1/docs` }, 'serving the API');
  if (!tls && !isLoopback(host) && config.trustedProxies.length === 0)
    log.warn('the API is served without TLS: keys and rows can be read on their way; set api.tls');
  return {
    url,
    close: async () => {
      clearInterval(purge);
      await app.close();
    },
  };
}

function readTls({ tls }: ApiConfig): { cert: Buffer; key: Buffer; minVersion: 'TLSv1.2' } | null {
  if (!tls) return null;
  const read = (path: string, name: string): Buffer => {
    try {
      return readFileSync(path);
    } catch (error) {
      const help = 'Check the path, and that this user may read it.';
      throw new WaltideError('CONFIG_INVALID', `api.tls.${name}: ${messageOf(error)}`, help, { cause: error });
    }
  };
  return { cert: read(tls.certFile, 'certFile'), key: read(tls.keyFile, 'keyFile'), minVersion: 'TLSv1.2' };
}
