import type { z } from 'zod';
import type { Document } from './document.ts';
import { type Fault, faultAt, type Origin, suggestion } from './faults.ts';
import { ANY, configKeys, formatPath, type Path, type Shape, shapeAt, variableOf } from './shape.ts';

type Issue = z.core.$ZodIssue;

/** What zod found, in words that say what to do, each at its place in the file. */
export function faultsOf(issues: readonly Issue[], document: Document): Fault[] {
  const faults: Fault[] = [];
  for (const issue of issues) faults.push(...translate(issue, [], document));
  return faults;
}

function translate(issue: Issue, above: Path, document: Document): Fault[] {
  const path = [...above, ...(issue.path as (string | number)[])];
  if (isBroken(document, path)) return [];
  const value = valueAt(document.value, path);
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const at = [...path, key];
      return faultAt(document.keys.get(formatPath(at)) ?? originOf(document, at), at, unknownKey(key, path, document));
    });
  }
  if (issue.code === 'invalid_union' && !('discriminator' in issue && issue.discriminator)) {
    const inner = closestOption(issue.errors, value);
    if (inner) return inner.flatMap((one) => translate(one, path, document));
  }
  return [faultAt(originOf(document, path), path, explain(issue, path, value))];
}

/** Of a union's options, the one that a map was meant for: whose faults lie inside it. */
function closestOption(options: readonly (readonly Issue[])[], value: unknown): readonly Issue[] | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  return options.find((issues) => issues.every((issue) => issue.path.length > 0 || issue.code === 'unrecognized_keys'));
}

function explain(issue: Issue, path: Path, value: unknown): string {
  const shape = shapeAt(path);
  if (value === undefined) return `is required${required(path, shape)}`;
  if (value === null) return 'has no value; write one, or remove the key';
  const allowed = shape?.values ?? [];
  switch (issue.code) {
    case 'invalid_value':
    case 'invalid_union':
      if (allowed.length === 0) break;
      return `must be ${oneOf(allowed)}${typeof value === 'string' ? suggestion(value, allowed) : ''}`;
    case 'invalid_type':
      return wrongType(shape, value);
    case 'too_small':
      if (issue.origin === 'array') return 'needs at least one entry';
      if (issue.origin === 'string')
        return Number(issue.minimum) > 1 ? `needs at least ${issue.minimum} characters` : 'must not be empty';
      return `must be ${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}`;
    case 'too_big':
      if (issue.origin === 'string') return `may have at most ${issue.maximum} characters`;
      return `must be ${issue.inclusive ? 'at most' : 'less than'} ${issue.maximum}`;
  }
  return issue.message === 'Invalid input' ? wrongType(shape, value) : issue.message;
}

function required(path: Path, shape: Shape | undefined): string {
  const description = shape?.description ? ` (${shape.description.replace(/\.$/, '')})` : '';
  const values = shape?.values.length ? `: ${oneOf(shape.values)}` : '';
  const general = formatPath(path.map((part) => (typeof part === 'number' ? ANY : part)));
  if (!configKeys.some((key) => formatPath(key.path) === general)) return `${values}${description}`;
  return `${values}${description}; write it here or set ${variableOf(path)}`;
}

function wrongType(shape: Shape | undefined, value: unknown): string {
  const kinds = [...(shape?.kinds ?? [])].map((kind) => NAMES[kind]);
  const whole = typeof value === 'number' && shape?.kinds.has('number') ? 'must be a whole number' : null;
  if (whole) return whole;
  let advice = '';
  if (shape?.kinds.has('string') && (typeof value === 'number' || typeof value === 'boolean'))
    advice = '; put it in quotes';
  if (shape?.kinds.has('array') && !Array.isArray(value)) advice = '; write each entry on a line of its own after "- "';
  return `must be ${kinds.join(' or ')}, not ${kindOf(value)}${advice}`;
}

const NAMES = {
  string: 'text',
  number: 'a number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a map of keys',
} as const;

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return NAMES.array;
  return NAMES[typeof value as keyof typeof NAMES] ?? typeof value;
}

function oneOf(values: readonly string[]): string {
  return values.length === 1 ? values[0]! : `one of ${values.join(', ')}`;
}

function unknownKey(key: string, path: Path, document: Document): string {
  const shape = shapeAt(path);
  const type = (valueAt(document.value, path) as { type?: unknown } | undefined)?.type;
  const variant = typeof type === 'string' ? shape?.variants.get(type) : undefined;
  const owner = [...(shape?.variants ?? [])].find(([name, keys]) => name !== type && keys.includes(key));
  if (owner) return `belongs to type ${owner[0]}, not to ${String(type)}; remove it or change the type`;
  const elsewhere = configKeys.find((known) => known.path.at(-1) === key);
  if (elsewhere) return `is not a key here; did you mean "${formatPath(elsewhere.path)}"?`;
  const near = suggestion(key, variant ?? shape?.keys.keys() ?? []);
  if (near) return `is not a key of the configuration${near}`;
  const known = variant ?? [...(shape?.keys.keys() ?? [])];
  return `is not a key of the configuration; known here: ${known.join(', ')}`;
}

function valueAt(value: unknown, path: Path): unknown {
  let at = value;
  for (const part of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, part)) return undefined;
    at = (at as Record<string | number, unknown>)[part];
  }
  return at;
}

function isBroken(document: Document, path: Path): boolean {
  return path.some((_, i) => document.broken.has(formatPath(path.slice(0, path.length - i))));
}

/** Where the value, or the nearest map around it that is written somewhere, stands. */
export function originOf(document: Document, path: Path): Origin | null {
  for (let length = path.length; length >= 0; length--) {
    const around = formatPath(path.slice(0, length));
    const origin = (length < path.length && document.keys.get(around)) || document.values.get(around);
    if (origin) return origin;
  }
  return null;
}
