import { z } from 'zod';
import { configSchema } from './schema.ts';

/** Where a value stands: keys of maps and indexes of lists. */
export type Path = readonly (string | number)[];

/** What may stand at one place of the configuration, read from the schema's own JSON Schema. Variants are merged. */
export interface Shape {
  readonly kinds: Set<'string' | 'number' | 'boolean' | 'array' | 'object'>;
  readonly keys: Map<string, Shape>;
  /** What the list holds; null for anything else. */
  items: Shape | null;
  /** What the value may be where only some are allowed; for a `type` that chooses a variant, all of them. */
  readonly values: string[];
  /** By value of `type`: the keys of that variant. Empty where there is only one. */
  readonly variants: Map<string, readonly string[]>;
  description: string;
  /** path = a file's path; secret = never printed. */
  mark: 'path' | 'secret' | null;
}

interface JsonSchema {
  type?: string;
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  description?: string;
  kind?: string;
  [key: string]: unknown;
}

/** A variable of the environment and the key that it sets. `<n>` stands for the number or name of a sink. */
export interface ConfigKey {
  readonly path: Path;
  readonly variable: string;
  readonly shape: Shape;
}

/** Stands for the index of a list in the path of a ConfigKey. */
export const ANY = '<n>';
export const PREFIX = 'WALTIDE';

export const configShape: Shape = shapeOf(inputSchema());

/** Every key that one variable sets: scalars and lists of scalars, and the list of sinks as JSON. */
export const configKeys: readonly ConfigKey[] = collectKeys(configShape, []);

/**
 * JSON Schema (draft 2020-12) of what a user writes. Editors accept `${VAR}` where a number, boolean or list is
 * expected, and each description names the variable that overrides the key.
 */
export function configJsonSchema(): Record<string, unknown> {
  const schema = inputSchema();
  const variables = new Map(configKeys.map((key) => [formatPath(key.path), key.variable]));
  decorate(schema, [], variables);
  return { $id: 'https://waltide.dev/config.schema.json', title: 'Waltide configuration', ...schema };
}

/** `sinks[0].path`. The empty path is the whole. */
export function formatPath(path: Path): string {
  let text = '';
  for (const part of path) text += typeof part === 'number' || part === ANY ? `[${part}]` : text ? `.${part}` : part;
  return text;
}

/** The shape at `path`; undefined where the schema knows no such place. */
export function shapeAt(path: Path): Shape | undefined {
  let shape: Shape | null | undefined = configShape;
  for (const part of path) {
    shape = typeof part === 'number' || part === ANY ? shape?.items : shape?.keys.get(part);
  }
  return shape ?? undefined;
}

/** `WALTIDE_SOURCE_HEARTBEAT_INTERVAL_MS` for source.heartbeatIntervalMs. */
export function variableOf(path: Path): string {
  return [PREFIX, ...path.map((part) => (part === ANY ? ANY : variablePart(String(part))))].join('_');
}

/** A key or name as part of a variable: `heartbeatIntervalMs` → `HEARTBEAT_INTERVAL_MS`, `my-sink` → `MY_SINK`. */
export function variablePart(name: string): string {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[^A-Za-z0-9]/g, '_')
    .toUpperCase();
}

function inputSchema(): JsonSchema {
  return z.toJSONSchema(configSchema, { io: 'input' }) as JsonSchema;
}

function shapeOf(schema: JsonSchema): Shape {
  const shape: Shape = {
    kinds: new Set(),
    keys: new Map(),
    items: null,
    values: [],
    variants: new Map(),
    description: '',
    mark: null,
  };
  merge(shape, schema);
  return shape;
}

function merge(shape: Shape, schema: JsonSchema): void {
  if (schema.description && !shape.description) shape.description = schema.description;
  if (schema.kind === 'path' || schema.kind === 'secret') shape.mark = schema.kind;
  const allowed = schema.const === undefined ? (schema.enum ?? []) : [schema.const];
  for (const value of allowed) if (!shape.values.includes(String(value))) shape.values.push(String(value));
  switch (schema.type) {
    case 'integer':
      shape.kinds.add('number');
      break;
    case 'string':
    case 'number':
    case 'boolean':
    case 'array':
    case 'object':
      shape.kinds.add(schema.type);
      break;
  }
  if (schema.items) shape.items = shapeOf(schema.items);
  for (const [key, property] of Object.entries(schema.properties ?? {})) {
    const known = shape.keys.get(key);
    if (known) merge(known, property);
    else shape.keys.set(key, shapeOf(property));
  }
  for (const option of schema.oneOf ?? schema.anyOf ?? []) {
    merge(shape, option);
    const type = option.properties?.type?.const;
    if (type !== undefined) shape.variants.set(String(type), Object.keys(option.properties ?? {}));
  }
}

function collectKeys(shape: Shape, path: Path): ConfigKey[] {
  const own = shape.kinds.size > (shape.kinds.has('object') ? 1 : 0);
  const keys: ConfigKey[] = own ? [{ path, variable: variableOf(path), shape }] : [];
  for (const [key, child] of shape.keys) keys.push(...collectKeys(child, [...path, key]));
  if (shape.items?.kinds.has('object')) keys.push(...collectKeys(shape.items, [...path, ANY]));
  return keys;
}

/** `named` is false for the options of a union, whose description stands on the union itself. */
function decorate(schema: JsonSchema, path: Path, variables: ReadonlyMap<string, string>, named = true): void {
  if (schema.kind === 'secret') schema.writeOnly = true;
  delete schema.kind;
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete schema.maximum;
  const variable = variables.get(formatPath(path));
  if (named && variable)
    schema.description = [schema.description, `Environment: ${variable}.`].filter(Boolean).join(' ');
  for (const [key, property] of Object.entries(schema.properties ?? {})) decorate(property, [...path, key], variables);
  if (schema.items) decorate(schema.items, [...path, ANY], variables);
  for (const option of schema.oneOf ?? schema.anyOf ?? []) decorate(option, path, variables, false);
  if (named && path.length > 0) allowInterpolation(schema);
}

function allowInterpolation(schema: JsonSchema): void {
  const interpolated = { type: 'string', pattern: '\\$\\{' };
  if (schema.anyOf) schema.anyOf.push(interpolated);
  if (!schema.type || !['integer', 'number', 'boolean', 'array'].includes(schema.type)) return;
  const { description, default: standard, ...own } = schema;
  for (const key of Object.keys(own)) delete schema[key];
  schema.anyOf = [own, interpolated];
}
