/** `durationSeconds` → `duration_seconds`. */
export type SnakeCase<S extends string> = S extends `${infer H}${infer T}`
  ? `${H extends Lowercase<H> ? H : `_${Lowercase<H>}`}${SnakeCase<T>}`
  : S;

/** Keys whose values are the user's own: whatever names stand in there stay as they are. */
const OPAQUE = [
  'metadata',
  'target',
  'before',
  'after',
  'rows',
  'data',
  'primaryKey',
  'old',
  'new',
  'request',
] as const;
type Opaque = (typeof OPAQUE)[number];

export type Snaked<T> = T extends Date
  ? T
  : T extends readonly (infer I)[]
    ? readonly Snaked<I>[]
    : T extends object
      ? { readonly [K in keyof T as SnakeCase<K & string>]: K extends Opaque ? T[K] : Snaked<T[K]> }
      : T;

const opaque: ReadonlySet<string> = new Set(OPAQUE);

/** A record of ours as the API spells it: names in snake_case, at every level apart from what is the user's. */
export function snaked<T>(value: T): Snaked<T> {
  return convert(value) as Snaked<T>;
}

function convert(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(convert);
  if (typeof value !== 'object' || value === null || value instanceof Date) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, child]) => [snakeCase(key), opaque.has(key) ? child : convert(child)]),
  );
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
