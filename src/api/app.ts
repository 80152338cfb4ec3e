import { randomUUID } from 'node:crypto';
import type { ServerOptions } from 'node:https';
import { Readable } from 'node:stream';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { WaltideError } from '../errors.ts';
import { inexactNumber } from '../event/exact-json.ts';
import { isTooDeepText, JSON_DEPTH_MAX } from '../event/json-depth.ts';
import type { Log } from '../log.ts';
import type { AuditCall } from '../postgres/audit-log.ts';
import { mayDo, requireRole } from './access.ts';
import type { Audit } from './audit.ts';
import type { Authenticate } from './auth/authenticate.ts';
import { toJson } from './json.ts';
import { HEADERS_TIMEOUT_MS, REQUEST_TIMEOUT_MS } from './limits.ts';
import { PROBLEM_TYPE, problemOf } from './problem.ts';
import { RateLimitedError } from './rate-limiter.ts';
import { Accepted, type Deps, type Principal, type Route, type ServerEvent } from './route.ts';

export interface AppOptions {
  readonly routes: readonly Route[];
  readonly deps: Deps;
  readonly authenticate: Authenticate;
  readonly audit: Audit;
  readonly bodyBytesMax: number;
  readonly trustedProxies?: readonly string[];
  readonly tls?: Pick<ServerOptions, 'cert' | 'key' | 'minVersion'>;
  /** Registers what has to come before the routes. */
  readonly before?: (app: FastifyInstance) => Promise<void>;
}

const DIGITS_SHOWN = 60;
const ANYONE: Principal = { name: 'anyone', role: 'viewer' };
/** A request id that a proxy has given is kept, so that its log and ours can be read together. */
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

/** All routes as one HTTP server that does not listen yet: `listen`, or `inject` in tests. */
export async function createApp(options: AppOptions): Promise<FastifyInstance> {
  const { routes, deps, bodyBytesMax, trustedProxies = [], tls } = options;
  const { log } = deps;
  const app = Fastify({
    logger: false,
    bodyLimit: bodyBytesMax,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    // As long as two quoted names of PostgreSQL can be in a path.
    routerOptions: { maxParamLength: 1000 },
    frameworkErrors: (error, request, reply) => void sendProblem(error, request, reply, log),
    trustProxy: trustedProxies.length > 0 ? [...trustedProxies] : false,
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
  await options.before?.(app);
  for (const route of routes) addRoute(app, route, options);
  return app;
}

/** Nothing else: a page of another origin may send plain text without asking first. An empty body is none. */
function readJsonOnly(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, text, done) => {
    if (text === '') return done(null, undefined);
    if (isTooDeepText(text)) return done(tooDeepError());
    parse(request, text, (error, body) => {
      const inexact = error ? null : inexactNumber(text);
      if (inexact === null) done(error, body);
      else done(inexactError(inexact));
    });
  });
}

function tooDeepError(): WaltideError {
  return new WaltideError(
    'USAGE',
    `the body has more than ${JSON_DEPTH_MAX} arrays and objects inside one another`,
    'Send it flatter, or the deep part as text, in quotes.',
  );
}

/** Nobody shall store what nobody has sent. */
function inexactError(number: string): WaltideError {
  const shown = number.length > DIGITS_SHOWN ? `${number.slice(0, DIGITS_SHOWN)}…` : number;
  return new WaltideError(
    'USAGE',
    `the body holds the number ${shown}, which is another one once JSON is read (JSON numbers are doubles)`,
    'Send it as text, in quotes: PostgreSQL takes every digit of it.',
  );
}

function addRoute(app: FastifyInstance, route: Route, { deps, authenticate, audit }: AppOptions): void {
  const principals = new WeakMap<FastifyRequest, Principal>();
  const callOf = (request: FastifyRequest, { name, role }: Principal): AuditCall => ({
    requestId: request.id,
    principal: name,
    role,
    address: request.ip,
    method: route.method,
    route: route.path,
    target: route.audited(asked(request), deps.config),
  });
  app.route({
    method: route.method,
    url: route.path,
    // Before the body is read: a stranger's is not.
    onRequest: async (request) => {
      if (route.role === null) return;
      const least = route.role;
      const principal = await authenticate(request);
      principals.set(request, principal);
      if (route.changes && !mayDo(principal, least))
        await audit.record(callOf(request, principal), async () => requireRole(principal, least));
      requireRole(principal, least);
    },
    handler: async (request, reply) => {
      const hungUp = new AbortController();
      // To abort costs an exception with its stack, and a connection closes after each good answer, too.
      reply.raw.once('close', () => reply.raw.writableFinished || hungUp.abort());
      if (reply.raw.destroyed) hungUp.abort();
      const principal = principals.get(request) ?? ANYONE;
      const run = (): Promise<unknown> => route.run({ ...asked(request), principal, signal: hungUp.signal }, deps);
      return send(reply, route, await (route.changes ? audit.record(callOf(request, principal), run) : run()));
    },
  });
}

const asked = ({ params, query, body }: FastifyRequest) => ({
  params: { ...(params as object) },
  query: { ...(query as object) },
  body: body ?? undefined,
});

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
  if (error instanceof RateLimitedError) reply.header('retry-after', error.retryAfterSeconds);
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
