import { randomUUID } from 'node:crypto';
import type { ServerOptions } from 'node:https';
import { Readable } from 'node:stream';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { toJson } from './json.ts';
import { PROBLEM_TYPE, problemOf } from './problem.ts';
import {
  ACCESS_ROLES,
  Accepted,
  type AccessRole,
  type Deps,
  type Principal,
  type Route,
  type ServerEvent,
} from './route.ts';

/** Tells who asks. Rejects with UNAUTHENTICATED or FORBIDDEN. */
export type Authenticate = (request: FastifyRequest) => Promise<Principal> | Principal;

export interface AppOptions {
  readonly routes: readonly Route[];
  readonly deps: Deps;
  readonly authenticate: Authenticate;
  readonly log: Log;
  readonly bodyBytesMax: number;
  readonly tls?: Pick<ServerOptions, 'cert' | 'key' | 'minVersion'>;
}

const HEADERS_TIMEOUT_MS = 5000;
const REQUEST_TIMEOUT_MS = 10_000;
/** A request id that a proxy has given is kept, so that its log and ours can be read together. */
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

/** All routes as one HTTP server that does not listen yet: `listen`, or `inject` in tests. */
export function createApp(options: AppOptions): FastifyInstance {
  const { routes, log, bodyBytesMax, tls } = options;
  const app = Fastify({
    logger: false,
    bodyLimit: bodyBytesMax,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    genReqId: ({ headers }) => {
      const given = headers['x-request-id'];
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    },
    ...(tls && { https: tls }),
  }) as unknown as FastifyInstance;
  readJsonOnly(app);
  app.server.headersTimeout = HEADERS_TIMEOUT_MS;
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
    reply.header('cache-control', 'no-store');
    reply.header('x-content-type-options', 'nosniff');
  });
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply, log));
  app.setNotFoundHandler((request, reply) => {
    const allowed = routes.filter((route) => matches(route, request.url)).map(({ method }) => method);
    if (allowed.length === 0) return sendProblem(notFound(request), request, reply, log);
    reply.header('allow', allowed.join(', '));
    const error = new WaltideError('METHOD', `${request.method} is not for this path`, `Use ${allowed.join(' or ')}.`);
    return sendProblem(error, request, reply, log);
  });
  for (const route of routes) addRoute(app, route, options);
  return app;
}

/** Nothing else: a page of another origin may send plain text without asking first. An empty body is none. */
function readJsonOnly(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, text, done) =>
    text === '' ? done(null, undefined) : parse(request, text, done),
  );
}

function addRoute(app: FastifyInstance, route: Route, { deps, authenticate }: AppOptions): void {
  const principals = new WeakMap<FastifyRequest, Principal>();
  app.route({
    method: route.method,
    url: route.path,
    // Before the body is read: a stranger's is not.
    onRequest: async (request) => {
      if (route.role === null) return;
      const principal = await authenticate(request);
      checkRole(principal, route.role);
      principals.set(request, principal);
    },
    handler: async (request, reply) => {
      const hungUp = new AbortController();
      reply.raw.once('close', () => hungUp.abort());
      const answer = await route.run(
        {
          params: request.params,
          query: { ...(request.query as object) },
          body: request.body ?? undefined,
          principal: principals.get(request) ?? { name: 'anyone', role: 'viewer' },
          signal: hungUp.signal,
        },
        deps,
      );
      return send(reply, route, answer);
    },
  });
}

function checkRole({ name, role }: Principal, least: AccessRole): void {
  if (ACCESS_ROLES.indexOf(role) >= ACCESS_ROLES.indexOf(least)) return;
  throw new WaltideError(
    'FORBIDDEN',
    `${name} has role ${role}, and this needs ${least}`,
    `Use a key or token of role ${least}.`,
  );
}

function send(reply: FastifyReply, route: Route, answer: unknown): FastifyReply {
  reply.type(route.produces);
  if (route.produces === 'text/event-stream')
    return reply.send(Readable.from(serverEvents(answer as AsyncIterable<ServerEvent>)));
  if (answer instanceof Accepted) return reply.code(202).send(toJson(answer.body));
  return reply.send(route.produces === 'application/json' ? toJson(answer) : answer);
}

async function* serverEvents(events: AsyncIterable<ServerEvent>): AsyncGenerator<string> {
  // At once, so that the client knows that it is connected.
  yield ': waltide\n\n';
  for await (const { event, data, id } of events)
    yield `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${toJson(data)}\n\n`;
}

function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Log): FastifyReply {
  const problem = problemOf(error, request.id);
  if (problem.status === 500)
    log.error({ err: error, requestId: request.id, url: request.routeOptions.url }, 'the API failed');
  if (problem.status === 401) reply.header('www-authenticate', 'Bearer realm="waltide"');
  return reply.code(problem.status).type(PROBLEM_TYPE).send(JSON.stringify(problem));
}

function notFound(request: FastifyRequest): WaltideError {
  return new WaltideError(
    'NOT_FOUND',
    `there is no ${request.method} ${request.url.split('?', 1)[0]}`,
    'GET /api/v1/docs lists every route.',
  );
}

function matches({ path }: Route, url: string): boolean {
  const wanted = path.split('/');
  const given = url.split('?', 1)[0]!.split('/');
  return wanted.length === given.length && wanted.every((part, i) => part.startsWith(':') || part === given[i]);
}
