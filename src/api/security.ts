import cors from '@fastify/cors';
import helmet from '@fastify/helmet';
import type { FastifyInstance } from 'fastify';
import type { ApiConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Authenticate } from './auth/authenticate.ts';
import { RateLimitedError, RateLimiter } from './rate-limiter.ts';
import type { Principal } from './route.ts';

const FAILURES_WINDOW_MS = 60_000;

/** What an address that others reach needs beside knowing them: headers, CORS, limits. Comes before the routes. */
export async function secure(app: FastifyInstance, config: ApiConfig): Promise<void> {
  await app.register(helmet, {
    // The reader page has its style in it and no script; nothing else is shown in a browser.
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        styleSrc: ["'unsafe-inline'"],
        baseUri: ["'none'"],
        formAction: ["'none'"],
        frameAncestors: ["'none'"],
      },
    },
    ...(config.tls ? {} : { strictTransportSecurity: false }),
  });
  await app.register(cors, {
    origin: config.cors,
    methods: ['GET', 'POST', 'DELETE'],
    allowedHeaders: ['authorization', 'x-api-key', 'content-type', 'x-request-id'],
    exposedHeaders: ['x-request-id', 'retry-after'],
    maxAge: 600,
    // Credentials are headers that a page sets itself: cookies are never looked at.
    credentials: false,
  });
}

/**
 * `authenticate` with its bounds: failures per address, then requests per principal. Rejects with RATE_LIMITED. Who is known gets
 * in whatever others at the same address (a proxy, this machine) have tried: they could shut everybody out.
 */
export function limited(authenticate: Authenticate, { rateLimit: limits }: ApiConfig): Authenticate {
  const failures = new RateLimiter(limits.failuresMax, FAILURES_WINDOW_MS);
  const requests = new RateLimiter(limits.requestsMax, limits.windowMs);
  return async (request) => {
    const lockedMs = failures.waitMs(request.ip);
    let principal: Principal;
    try {
      principal = await authenticate(request, lockedMs > 0);
    } catch (error) {
      if (!(error instanceof WaltideError && error.code === 'UNAUTHENTICATED')) throw error;
      if (lockedMs > 0) throw new RateLimitedError('too many failed logins', lockedMs);
      failures.count(request.ip);
      throw error;
    }
    const wait = requests.waitMs(principal.name);
    if (wait > 0) throw new RateLimitedError(`${principal.name} asks too often`, wait);
    requests.count(principal.name);
    return principal;
  };
}
