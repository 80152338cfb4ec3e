import { WaltideError } from '../errors.ts';
import { formatPath, type Path } from './shape.ts';

/** One thing wrong with the configuration, and where. */
export interface Fault {
  /** `source.url`, `sinks[0].path`; empty for the whole. */
  readonly path: string;
  /** What is wrong and what to do about it. */
  readonly message: string;
  /** Null for a fault of the environment or of a configuration made in code. */
  readonly file: string | null;
  /** From 1; null where `file` is null. */
  readonly line: number | null;
  readonly column: number | null;
  /** The variable of the environment at fault; null for others. */
  readonly variable: string | null;
}

/** Where a value came from. */
export type Origin =
  | { readonly file: string; readonly line: number; readonly column: number }
  | { readonly variable: string };

export function faultAt(origin: Origin | null, path: Path, message: string): Fault {
  const at = { path: formatPath(path), message, file: null, line: null, column: null, variable: null };
  return origin ? { ...at, ...origin } : at;
}

/** All faults of a configuration at once. Code CONFIG_INVALID. */
export class ConfigError extends WaltideError {
  readonly faults: readonly Fault[];

  constructor(faults: readonly Fault[]) {
    const head =
      faults.length === 1 ? 'The configuration has a fault:' : `The configuration has ${faults.length} faults:`;
    super(
      'CONFIG_INVALID',
      [head, ...faults.map((fault) => `  ${formatFault(fault)}`)].join('\n'),
      'Mend the places named, then run `waltide config check`; `waltide config schema` lists every key.',
    );
    this.name = 'ConfigError';
    this.faults = faults;
  }
}

/** `waltide.yaml:3:9 source.slot: …`, or `WALTIDE_SOURCE_SLOT source.slot: …`. */
export function formatFault(fault: Fault): string {
  const place = fault.variable ?? (fault.file === null ? '' : `${fault.file}:${fault.line}:${fault.column}`);
  const head = [place, fault.path].filter(Boolean).join(' ');
  return head ? `${head}: ${fault.message}` : fault.message;
}

/** File order, then the environment by name. */
export function sortFaults(faults: readonly Fault[]): Fault[] {
  return [...faults].sort(
    (a, b) =>
      (a.line ?? Number.MAX_SAFE_INTEGER) - (b.line ?? Number.MAX_SAFE_INTEGER) ||
      (a.column ?? 0) - (b.column ?? 0) ||
      (a.variable ?? '').localeCompare(b.variable ?? ''),
  );
}

/** The candidate that `word` is most likely a slip of the pen for; undefined where none is near. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = levenshtein(word.toLowerCase(), candidate.toLowerCase());
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/** ` (did you mean "source"?)`, or nothing. */
export function suggestion(word: string, candidates: Iterable<string>): string {
  const found = nearest(word, candidates);
  return found === undefined ? '' : `; did you mean "${found}"?`;
}

function levenshtein(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replaced, previous[j]! + 1, row[j - 1]! + 1));
    }
    previous = row;
  }
  return previous[b.length]!;
}
