import { pathToFileURL } from 'node:url';
import { messageOf, WaltideError } from '../errors.ts';

/** The function that a module of a schedule exports under `exported`, or as its default. Throws CONFIG_INVALID. */
export async function loadModule<F>(schedule: string, path: string, exported: string, form: string): Promise<F> {
  const invalid = (what: string, cause?: unknown): WaltideError =>
    new WaltideError(
      'CONFIG_INVALID',
      `schedule "${schedule}": ${what}`,
      `Point \`path\` at a JavaScript module with \`${form}\`.`,
      { cause },
    );
  let loaded: Record<string, unknown>;
  try {
    loaded = (await import(pathToFileURL(path).href)) as typeof loaded;
  } catch (cause) {
    throw invalid(`${path} cannot be loaded: ${messageOf(cause)}`, cause);
  }
  const found = loaded[exported] ?? loaded.default;
  if (typeof found !== 'function') throw invalid(`${path} exports no function \`${exported}\``);
  return found as F;
}
