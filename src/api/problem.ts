import { z } from 'zod';
import { type ErrorCode, POLICIES, WaltideError } from '../errors.ts';

/** An error as clients get it: RFC 9457, `application/problem+json`, with our code and remedy. */
export const problemSchema = z.object({
  type: z.string(),
  title: z.string(),
  status: z.number().int(),
  detail: z.string(),
  /** What to do. */
  help: z.string(),
  code: z.string(),
  request_id: z.string(),
  /** What is wrong with the request, by place: `body.table_name`. */
  errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
});
export type Problem = z.infer<typeof problemSchema>;

export const PROBLEM_TYPE = 'application/problem+json';

/** What an error is in HTTP where it is not 422 (the request makes no sense here) or 503 (later it may). */
const STATUS: Partial<Record<ErrorCode, number>> = {
  USAGE: 400,
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  METHOD: 405,
  DEAD_LETTER: 409,
  ALERT: 409,
  BODY_TOO_LARGE: 413,
  RUN_BUSY: 409,
  RUN_CANCELLED: 409,
  RATE_LIMITED: 429,
  TABLES: 404,
  NOT_REACHED: 504,
  NOT_RUNNING: 503,
  INTERNAL: 500,
};

export function statusOf(code: ErrorCode): number {
  return STATUS[code] ?? (POLICIES[code].retry ? 503 : 422);
}

const TITLES: Record<number, string> = {
  400: 'The request is wrong',
  401: 'Who asks is not known',
  403: 'Not allowed',
  404: 'Not found',
  405: 'Wrong method',
  409: 'Something else is in its way',
  413: 'The body is too long',
  414: 'The path is too long',
  415: 'The body is not JSON',
  422: 'This cannot be done',
  429: 'Too many requests',
  500: 'Waltide failed',
  503: 'Not possible at the moment',
  504: 'Not in time',
};

/** What anything thrown means to the client. What is not meant for it (a fault of ours) stays in the log. */
export function problemOf(error: unknown, requestId: string): Problem {
  const { code, detail, help, status, errors } = describe(error, requestId);
  return {
    type: `urn:waltide:error:${code.toLowerCase()}`,
    title: TITLES[status] ?? 'Refused',
    status,
    detail,
    help,
    code,
    request_id: requestId,
    ...(errors && { errors }),
  };
}

interface Description extends Pick<Problem, 'detail' | 'help' | 'status' | 'errors'> {
  readonly code: ErrorCode;
}

function describe(error: unknown, requestId: string): Description {
  if (error instanceof z.ZodError) {
    const errors = error.issues.map(({ path, message }) => ({ path: path.map(String).join('.'), message }));
    const detail = errors.map(({ path, message }) => `${path}: ${message}`).join('; ');
    return { code: 'USAGE', detail, help: 'GET /api/v1/openapi.json says what the route takes.', status: 400, errors };
  }
  if (error instanceof WaltideError && error.code !== 'INTERNAL')
    return { code: error.code, detail: error.message, help: error.help, status: statusOf(error.code) };
  const refused = fastifyRefusal(error);
  if (refused) return refused;
  return {
    code: 'INTERNAL',
    detail: 'this is a fault of Waltide itself',
    help: `Look for request ${requestId} in the log of the process, and report what it says.`,
    status: 500,
  };
}

/** What Fastify itself refuses: a body that is too long, not JSON, of another type; a path that cannot be decoded. */
function fastifyRefusal(error: unknown): Description | null {
  const { statusCode, code, message } = error as { statusCode?: number; code?: string; message?: string };
  if (typeof statusCode !== 'number' || statusCode < 400 || statusCode >= 500) return null;
  if (statusCode === 413)
    return {
      code: 'BODY_TOO_LARGE',
      detail: 'the body is longer than api.bodyBytesMax',
      help: 'Send less at once.',
      status: 413,
    };
  if (statusCode === 414 || code === 'FST_ERR_BAD_URL') {
    const detail = statusCode === 414 ? 'a name in the path is too long' : 'the path cannot be decoded';
    return { code: 'USAGE', detail, help: 'Encode names with percent signs.', status: statusCode };
  }
  const known = code?.startsWith('FST_') && message;
  return {
    code: 'USAGE',
    detail: known ? message : 'the body is not JSON',
    help: 'Send JSON with content-type application/json.',
    status: statusCode,
  };
}
