import { z } from 'zod';
import { VERSION } from '../version.ts';
import { PROBLEM_TYPE, problemSchema } from './problem.ts';
import { API_BASE, type Route } from './route.ts';

/** As much of JSON Schema 2020-12 as our schemas use. */
export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly additionalProperties?: boolean | JsonSchema;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
  readonly description?: string;
  readonly $ref?: string;
  readonly [key: string]: unknown;
}

export interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query';
  readonly required: boolean;
  readonly description?: string;
  readonly schema: JsonSchema;
}

interface Content {
  readonly content: Readonly<Record<string, { readonly schema: JsonSchema }>>;
}

export interface Operation {
  readonly operationId: string;
  readonly tags: readonly string[];
  readonly summary: string;
  readonly description?: string;
  readonly 'x-role': string | null;
  readonly security: readonly Readonly<Record<string, readonly string[]>>[];
  readonly parameters: readonly Parameter[];
  readonly requestBody?: Content & { readonly required: boolean };
  readonly responses: Readonly<
    Record<string, (Content & { readonly description: string }) | { readonly $ref: string }>
  >;
}

export interface OpenApiDocument {
  readonly openapi: '3.1.0';
  readonly info: { readonly title: string; readonly version: string; readonly description: string };
  readonly servers: readonly { readonly url: string }[];
  readonly tags: readonly { readonly name: string }[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: Readonly<Record<string, unknown>>;
}

const DESCRIPTION = `What Waltide does, and the means to steer it. Roles: a *viewer* sees states and no row, an *operator* sees rows and starts work, an
*admin* does everything. Errors are problem+json (RFC 9457) with a code, what to do, and the id of the request, which is also in the header
X-Request-Id of every answer. Long work is answered with 202 and the id of a run, to be asked for under sync/runs.`;

/** Errors that any route may answer with. */
const PROBLEMS: Readonly<Record<string, string>> = {
  BadRequest: 'The request is not what the route takes; `errors` says where.',
  Unauthenticated: 'No valid key or token was given.',
  Forbidden: 'The role is not enough.',
  NotFound: 'What was asked for does not exist.',
  NotPossible: 'It makes no sense as things are; `detail` says why, `help` what to do.',
  Conflict: 'Something else is in its way: the same work is being done already.',
  TooManyRequests: 'More than api.rateLimit allows; Retry-After says when to try again.',
  Unavailable: 'Not possible at the moment: something that is needed cannot be reached, or is starting.',
};

/** The document of `routes`: generated, so that it cannot say anything else than what is served. */
export function openApiDocument(routes: readonly Route[]): OpenApiDocument {
  const paths: Record<string, Record<string, Operation>> = {};
  for (const route of routes) {
    const path = route.path.replace(/:([a-z_]+)/g, '{$1}');
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route, path) };
  }
  const problem = { content: { [PROBLEM_TYPE]: { schema: { $ref: '#/components/schemas/Problem' } } } };
  return {
    openapi: '3.1.0',
    info: { title: 'Waltide', version: VERSION, description: DESCRIPTION },
    servers: [{ url: '/' }],
    tags: [...new Set(routes.map(tagOf))].map((name) => ({ name })),
    paths,
    components: {
      schemas: { Problem: jsonSchema(problemSchema, 'output') },
      responses: Object.fromEntries(
        Object.entries(PROBLEMS).map(([name, description]) => [name, { description, ...problem }]),
      ),
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'An API key or a JWT.' },
        key: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'An API key.' },
      },
    },
  };
}

function operation(route: Route, path: string): Operation {
  const { method, role, summary, description, params, query, body, reply, accepted, produces } = route;
  const refusal = (name: string): { $ref: string } => ({ $ref: `#/components/responses/${name}` });
  const parameters = [...parametersOf(params, 'path'), ...parametersOf(query, 'query')];
  const takes = body !== null || parameters.length > 0;
  return {
    operationId: `${method.toLowerCase()}${path.replace(API_BASE, '').replace(/[^A-Za-z0-9]+(\w?)/g, (_, next: string) => next.toUpperCase())}`,
    tags: [tagOf(route)],
    summary,
    ...(description !== null && { description }),
    'x-role': role,
    security: role === null ? [] : [{ bearer: [] }, { key: [] }],
    parameters,
    ...(body && {
      requestBody: {
        required: !body.safeParse(undefined).success,
        content: { 'application/json': { schema: jsonSchema(body, 'input') } },
      },
    }),
    responses: {
      200: { description: 'Done.', content: { [produces]: { schema: jsonSchema(reply, 'output') } } },
      ...(accepted && {
        202: {
          description: 'It goes on; ask for it by its id.',
          content: { 'application/json': { schema: jsonSchema(accepted, 'output') } },
        },
      }),
      ...(takes && { 400: refusal('BadRequest') }),
      ...(role !== null && { 401: refusal('Unauthenticated'), 403: refusal('Forbidden') }),
      ...(takes && { 404: refusal('NotFound'), 409: refusal('Conflict'), 422: refusal('NotPossible') }),
      429: refusal('TooManyRequests'),
      503: refusal('Unavailable'),
    },
  };
}

/** The noun: the first part of the path after the base. */
function tagOf({ path }: Route): string {
  const rest = path.startsWith(API_BASE) ? path.slice(API_BASE.length) : path.replace('/api/v1', '/documents');
  return rest.split('/')[1]!;
}

function parametersOf(schema: z.ZodObject, place: Parameter['in']): Parameter[] {
  const { properties = {}, required = [] } = jsonSchema(schema, 'input');
  return Object.entries(properties).map(([name, { description, ...rest }]) => ({
    name,
    in: place,
    required: required.includes(name),
    ...(description !== undefined && { description }),
    schema: rest,
  }));
}

/** What a schema takes or gives, as JSON Schema. Dates are text by then; what JSON Schema cannot say is anything. */
export function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, {
    io,
    unrepresentable: 'any',
    override: ({ zodSchema, jsonSchema: json }) => {
      if (zodSchema._zod.def.type === 'date') Object.assign(json, { type: 'string', format: 'date-time' });
    },
  });
  return rest as JsonSchema;
}
