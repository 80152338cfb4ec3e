import { messageOf } from '../errors.ts';
import type { Shape } from './shape.ts';

const PATTERN = /\$?\$\{([^}]*)(\}?)/g;
const REFERENCE = /^([A-Za-z_][A-Za-z0-9_]*)(?::-([\s\S]*))?$/;

export interface Interpolated {
  readonly text: string;
  /** True where at least one variable was put in. */
  readonly changed: boolean;
  readonly faults: readonly string[];
}

/**
 * `${VAR}` and `${VAR:-default}` (used where VAR is unset or empty) become the variable's value; `$${` becomes
 * `${`. What is put in is text: it is never read as YAML, and never interpolated again.
 */
export function interpolate(text: string, env: NodeJS.ProcessEnv): Interpolated {
  const faults: string[] = [];
  let changed = false;
  const result = text.replace(PATTERN, (whole, inner: string, closing: string) => {
    if (whole.startsWith('$$')) return whole.slice(1);
    if (!closing) {
      faults.push('has "${" without "}"; write "$${" for a literal "${"');
      return whole;
    }
    const match = REFERENCE.exec(inner);
    if (!match || inner.includes('${')) {
      faults.push(`"${whole}" is not \${VAR} or \${VAR:-default}; write "$\${" for a literal "\${"`);
      return whole;
    }
    const [, variable, standard] = match;
    const value = env[variable!];
    changed = true;
    if (standard !== undefined) return value || standard;
    if (value === undefined)
      faults.push(`the variable ${variable} is not set; set it, or give a default: \${${variable}:-…}`);
    return value ?? '';
  });
  return { text: result, changed, faults };
}

/**
 * Text from the environment as the value that the schema expects: a number, boolean, list (commas or JSON) or, as
 * JSON, a map. Text that does not fit is given back as it is, for the schema to fault.
 * Throws a SyntaxError, its message fit for a fault, where JSON was begun and is wrong.
 */
export function convertText(text: string, shape: Shape | undefined): unknown {
  if (!shape) return text;
  // Where only some words are allowed, ZSTD is zstd.
  if (shape.values.length > 0 && !shape.values.includes(text))
    return shape.values.find((value) => value.toLowerCase() === text.trim().toLowerCase()) ?? text;
  if (shape.kinds.has('string')) return text;
  const trimmed = text.trim();
  const structured = shape.kinds.has('array') || shape.kinds.has('object');
  if (structured && /^[[{]/.test(trimmed)) return parseJson(trimmed);
  // As scripts and other programs write them; a number wins where one is allowed.
  if (shape.kinds.has('boolean') && !(shape.kinds.has('number') && /^\d$/.test(trimmed))) {
    if (/^(true|yes|on|1)$/i.test(trimmed)) return true;
    if (/^(false|no|off|0)$/i.test(trimmed)) return false;
  }
  if (shape.kinds.has('number') && /^-?\d+(\.\d+)?$/.test(trimmed)) return Number(trimmed);
  if (shape.kinds.has('array') && !shape.items?.kinds.has('object')) {
    return trimmed
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '')
      .map((item) => convertText(item, shape.items ?? undefined));
  }
  return text;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // The parser quotes what it was given, which may hold a password.
    const at = /at position \d+/.exec(messageOf(error))?.[0];
    throw new SyntaxError(`is not valid JSON${at ? ` (${at})` : ''}`);
  }
}
