import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { messageOf, WaltideError } from '../errors.ts';

/** Values in PostgreSQL's text form by column; null for NULL, undefined for a large value that the WAL does not carry. */
export type TransformRow = Record<string, string | null | undefined>;

/** What a transform may give back for a value: numbers and booleans are written as PostgreSQL writes them. */
export type TransformValue = string | number | bigint | boolean | null | undefined;

/**
 * A function of `source.transforms[].module`: from a row to the row that leaves, or to null for none. It must give the same
 * for the same row, and at once. Values that it leaves undefined stay as they are.
 */
export type Transform = (
  row: TransformRow,
  about: { readonly schema: string; readonly table: string },
) => Readonly<Record<string, TransformValue>> | null;

/** A module that was loaded. */
export interface LoadedFunction {
  readonly file: string;
  readonly transform: Transform;
  /** Another text is another function. */
  readonly digest: string;
}

/** Throws TRANSFORM where the module cannot be loaded, or exports no function. */
export async function loadFunction(file: string): Promise<LoadedFunction> {
  let transform: unknown;
  let digest: string;
  try {
    digest = createHash('sha256').update(readFileSync(file)).digest('hex').slice(0, 16);
    // Node keeps a module for as long as the process lives: an edited one is another.
    ({ default: transform } = (await import(`${pathToFileURL(file).href}?${digest}`)) as { default: unknown });
  } catch (error) {
    throw new WaltideError(
      'TRANSFORM',
      `source.transforms: ${file} cannot be loaded: ${messageOf(error)}`,
      'Name a JavaScript module; the path is relative to the configuration.',
      { cause: error },
    );
  }
  if (typeof transform !== 'function')
    throw new WaltideError(
      'TRANSFORM',
      `source.transforms: the default export of ${file} is not a function`,
      'Write `export default (row) => row`.',
    );
  return { file, transform: transform as Transform, digest };
}

/**
 * The texts of the row that leaves; null for none. Throws TRANSFORM where the function fails or gives back what is no row.
 * Messages hold no values, which may be what nobody else should see.
 */
export function callFunction(
  { file, transform }: LoadedFunction,
  names: readonly string[],
  texts: readonly (string | null | undefined)[],
  about: { readonly schema: string; readonly table: string },
): (string | null | undefined)[] | null {
  const fail = (what: string): never => {
    throw new WaltideError(
      'TRANSFORM',
      `${file} ${what} for a row of table ${about.schema}.${about.table}`,
      'Mend the module, then start again: the row comes again. What it threw is not shown, since it may hold values.',
    );
  };
  let result: ReturnType<Transform>;
  try {
    const { schema, table } = about;
    result = transform(Object.fromEntries(names.map((name, i) => [name, texts[i]])), { schema, table });
  } catch (error) {
    return fail(`threw ${error instanceof Error ? error.name : 'something'}`);
  }
  if (result === null) return null;
  if (typeof result !== 'object' || typeof (result as { then?: unknown }).then === 'function')
    return fail('gave back neither a row nor null');
  const stray = Object.keys(result).find((name) => !names.includes(name));
  if (stray !== undefined) return fail(`gave back a column ${JSON.stringify(stray)}, which the table has not got,`);
  return names.map((name, i) => {
    const value = result[name];
    if (value === undefined) return texts[i];
    if (value === null || typeof value === 'string') return value;
    if (typeof value === 'boolean') return value ? 't' : 'f';
    if (typeof value === 'number' || typeof value === 'bigint') return String(value);
    return fail(`gave back a value of another kind for column ${JSON.stringify(name)}`);
  });
}
