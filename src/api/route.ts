import { z } from 'zod';
import type { Config } from '../config/schema.ts';
import type { HoldsSinks } from '../control/store-runs.ts';
import type { Validates } from '../control/validation-run.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import type { Arrival, WaitOptions } from '../pipeline/arrivals.ts';
import type { QueryOptions } from '../pipeline/query.ts';
import type { RecentEvents } from '../pipeline/recent-events.ts';
import type { ReplayPlan, ReplayRequest } from '../pipeline/replay.ts';
import type { PipelineStatus } from '../pipeline/status.ts';
import type { AccessRole } from '../postgres/api-keys.ts';
import type { Sessions } from '../postgres/sessions.ts';
import type { Tracker } from '../postgres/tracked.ts';
import type { QueryResult } from '../sink/sink.ts';
import type { Writer } from '../write/writer.ts';

/** Where every route is, unless it says `root`. */
export const API_BASE = '/api/v1/data-sync';

/** Who asks. */
export interface Principal {
  /** As the audit log names it: `key:ci`, `jwt:alice`, `local:root`. */
  readonly name: string;
  readonly role: AccessRole;
}

/** What routes need of a running pipeline. */
export interface Controlled extends Validates, HoldsSinks {
  status(): PipelineStatus;
  query(sql: string, options: QueryOptions): Promise<QueryResult>;
  replay(request: ReplayRequest): Promise<ReplayPlan>;
  waitFor(lsn: Lsn, options: WaitOptions): Promise<Arrival>;
  readonly recent: RecentEvents;
}

/** What routes work with. */
export interface Deps {
  readonly config: Config;
  readonly log: Log;
  readonly pipeline: Controlled;
  /** PostgreSQL, for what is asked now and then. */
  readonly sessions: Sessions;
  /** Long work is a run, and answered with its id. */
  readonly tracker: Tracker;
  /** Left out, or null, unless writes are enabled. */
  readonly writer?: Writer | null;
  /** The control address: its callers are the user that Waltide runs as. */
  readonly local?: boolean;
}

/** An answer with status 202: the work goes on, and `body` says where to ask for it. */
export class Accepted<T> {
  readonly body: T;
  constructor(body: T) {
    this.body = body;
  }
}

/** What came in, before anybody has looked at it. */
export interface RawRequest {
  readonly params: unknown;
  readonly query: unknown;
  readonly body: unknown;
  readonly principal: Principal;
  /** Aborts when the client hangs up or the process stops. */
  readonly signal: AbortSignal;
}

export interface Request<P extends z.ZodRawShape, Q extends z.ZodRawShape, B extends z.ZodType> extends RawRequest {
  readonly params: z.output<z.ZodObject<P>>;
  readonly query: z.output<z.ZodObject<Q>>;
  readonly body: z.output<B>;
}

/** What a schema takes, from code that promises not to change it. */
type Readable<T> = T extends readonly (infer I)[]
  ? readonly Readable<I>[]
  : T extends AsyncIterable<unknown> | Date
    ? T
    : T extends object
      ? { readonly [K in keyof T]: Readable<T[K]> }
      : T;
type Answer<R> = Readable<R> | Accepted<unknown>;

export interface RouteSpec<P extends z.ZodRawShape, Q extends z.ZodRawShape, B extends z.ZodType, R extends z.ZodType> {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** `/sync/table/:table/full`, below API_BASE. */
  readonly url: string;
  /** True where `url` is the whole path. */
  readonly root?: boolean;
  /** The least role that may call it; null for what everyone may see. */
  readonly role: AccessRole | null;
  /** One line for the reader page. */
  readonly summary: string;
  readonly description?: string;
  readonly params?: P;
  readonly query?: Q;
  /** Left out: a body is refused. */
  readonly body?: B;
  /** What `run` resolves with: JSON, unless `produces` says otherwise. */
  readonly reply: R;
  /** What an `Accepted` holds; left out where there is none. */
  readonly accepted?: z.ZodType;
  /** `text/event-stream`: `run` resolves with an AsyncIterable of ServerEvent. Other types: with a string. */
  readonly produces?: string;
  /** False for a POST that changes nothing. What changes something is in the audit log. */
  readonly changes?: boolean;
  /** What of the body the audit log names, beside path and query: what the call is about. Never a value of a row, nor a secret. */
  readonly audited?: (request: Pick<Request<P, Q, B>, 'query' | 'body'>, config: Config) => AuditedParts;
  /** Throws WaltideErrors; `statusOf` in problem.ts says what they are in HTTP. */
  run(request: Request<P, Q, B>, deps: Deps): Promise<Answer<z.input<R>>> | Answer<z.input<R>>;
}

/** As JSON; what is undefined is left out. */
export type AuditedParts = Readonly<Record<string, unknown>>;

/** One event of a `text/event-stream`. */
export interface ServerEvent {
  readonly event: string;
  readonly data: unknown;
  readonly id?: string;
}

/** A route as the app, the document and the tests see it. */
export interface Route {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** The whole path. */
  readonly path: string;
  readonly role: AccessRole | null;
  readonly summary: string;
  readonly description: string | null;
  readonly params: z.ZodObject;
  readonly query: z.ZodObject;
  readonly body: z.ZodType | null;
  readonly reply: z.ZodType;
  readonly accepted: z.ZodType | null;
  readonly produces: string;
  readonly changes: boolean;
  /** What the request is about, for the audit log. Of a body that is not what the route asks for, nothing. */
  audited(request: Pick<RawRequest, 'params' | 'query' | 'body'>, config: Config): AuditedParts;
  /** Rejects with a ZodError where the request is not what the route asks for. */
  run(request: RawRequest, deps: Deps): Promise<unknown>;
}

/** PostgreSQL has no text with U+0000: whatever such a name would be looked up in, it is not there. */
function nulIssues(values: unknown, where: string): z.core.$ZodIssue[] {
  return Object.entries(values as Record<string, unknown>).flatMap(([name, value]) => {
    const hasNul = [name, value].flat().some((text) => typeof text === 'string' && text.includes('\0'));
    const path = [where, name.replaceAll('\0', '\ufffd')];
    return hasNul ? [{ code: 'custom', path, message: 'holds the character U+0000', input: value }] : [];
  });
}

/** One route: everything that the app, the document and the reader page need to know of it. */
export function defineRoute<
  R extends z.ZodType,
  P extends z.ZodRawShape = Record<never, never>,
  Q extends z.ZodRawShape = Record<never, never>,
  B extends z.ZodType = z.ZodUndefined,
>(spec: RouteSpec<P, Q, B, R>): Route {
  const { method, url, root = false, role, summary, reply } = spec;
  const params = z.strictObject(spec.params ?? ({} as P));
  const query = z.strictObject(spec.query ?? ({} as Q));
  const body = spec.body ?? null;
  const run = async (request: RawRequest, deps: Deps): Promise<unknown> => {
    const issues: z.core.$ZodIssue[] = [];
    const read = <T extends z.ZodType>(schema: T, value: unknown, where: string): z.output<T> => {
      const parsed = schema.safeParse(value);
      if (parsed.success) return parsed.data;
      issues.push(...parsed.error.issues.map((issue) => ({ ...issue, path: [where, ...issue.path] })));
      return undefined as z.output<T>;
    };
    issues.push(...nulIssues(request.params, 'path'), ...nulIssues(request.query, 'query'));
    const parsed = {
      ...request,
      params: read(params, request.params, 'path'),
      query: read(query, request.query, 'query'),
      body: read((body ?? z.undefined()) as unknown as B, request.body, 'body'),
    };
    if (issues.length > 0) throw new z.ZodError(issues);
    return spec.run(parsed as Request<P, Q, B>, deps);
  };
  const audited: Route['audited'] = (request, config) => {
    const given = { ...(request.params as object), ...(request.query as object) };
    const [asked, sent] = [query.safeParse(request.query), (body ?? z.undefined()).safeParse(request.body)];
    if (!spec.audited || !asked.success || !sent.success) return given;
    const known = { query: asked.data, body: sent.data } as Parameters<typeof spec.audited>[0];
    return { ...given, ...spec.audited(known, config) };
  };
  return {
    method,
    path: root ? url : API_BASE + url,
    role,
    summary,
    description: spec.description ?? null,
    params,
    query,
    body,
    reply,
    accepted: spec.accepted ?? null,
    produces: spec.produces ?? 'application/json',
    changes: spec.changes ?? method !== 'GET',
    audited,
    run,
  };
}
