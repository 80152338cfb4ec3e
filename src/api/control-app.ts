import type { FastifyInstance, FastifyRequest } from 'fastify';
import { WaltideError } from '../errors.ts';
import { createApp } from './app.ts';
import type { Audit } from './audit.ts';
import { localAdmin } from './auth/authenticate.ts';
import { sameSecret } from './auth/secrets.ts';
import { userName } from './auth/user-name.ts';
import { CONTROL_BODY_BYTES_MAX } from './limits.ts';
import type { Deps, Principal } from './route.ts';
import { ROUTES } from './routes.ts';

export interface ControlAppOptions {
  readonly deps: Deps;
  readonly audit: Audit;
  /** Who knows it may do everything. */
  readonly token: string;
  /** Of the control address, which a request must be meant for. */
  readonly port: number;
}

/** What the control address answers. A module of its own, so that it is loaded once somebody asks. */
export async function createControlApp({ deps, audit, token, port }: ControlAppOptions): Promise<FastifyInstance> {
  const authenticate = ({ headers }: FastifyRequest): Principal => {
    const admin = localAdmin(headers, port, `local:${userName()}`);
    const given = /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1] ?? '';
    if (sameSecret(given, token)) return admin;
    throw new WaltideError('UNAUTHENTICATED', 'the token is wrong', 'It is in the control file in stateDir.');
  };
  const app = await createApp({
    routes: ROUTES,
    deps: { ...deps, local: true },
    audit,
    bodyBytesMax: CONTROL_BODY_BYTES_MAX,
    authenticate,
  });
  await app.ready();
  return app;
}
