import type { Document } from './document.ts';
import { faultAt, suggestion } from './faults.ts';
import { ANY, type ConfigKey, configKeys, formatPath, type Path, PREFIX, variablePart } from './shape.ts';
import { convertText } from './text.ts';

/** Variables that are ours and set no key. */
const OTHER_VARIABLES = ['WALTIDE_CONFIG', 'WALTIDE_FAILPOINT'];
const OTHER_PREFIXES = ['WALTIDE_TEST_', 'WALTIDE_BENCH_'];

const LIST = 'sinks';
const LIST_PREFIX = `${PREFIX}_SINKS_`;

interface Setting {
  readonly variable: string;
  readonly text: string;
  readonly key: ConfigKey;
  readonly path: Path;
}

/**
 * Puts every WALTIDE_… variable where it belongs, over what the file says. Empty variables count as unset. Unknown
 * ones are faults, since a misspelt variable would otherwise be ignored silently.
 */
export function applyEnvironment(document: Document, env: NodeJS.ProcessEnv): void {
  const variables = Object.keys(env)
    .filter(
      (variable) => variable.startsWith(`${PREFIX}_`) && env[variable] !== '' && !isForeign(variable, env[variable]!),
    )
    .sort();
  const byName: string[] = [];
  const settings: Setting[] = [];
  for (const variable of variables) {
    const text = env[variable]!;
    const direct = configKeys.find((key) => key.variable === variable);
    const indexed = /^WALTIDE_SINKS_(\d+)_(.+)$/.exec(variable);
    const key = direct ?? (indexed ? listKey(indexed[2]!) : undefined);
    if (key) {
      const path = key.path.map((part) => (part === ANY ? Number(indexed![1]) : part));
      settings.push({ variable, text, key, path });
    } else byName.push(variable);
  }
  // The list as a whole first, then its entries from the first on, then what is inside a map after the map itself.
  settings.sort((a, b) => a.path.length - b.path.length || index(a.path) - index(b.path));
  for (const setting of settings) apply(document, setting);
  for (const variable of byName) {
    const found = findByName(document, variable);
    if (found.length === 1) apply(document, { variable, text: env[variable]!, ...found[0]! });
    else document.faults.push(faultAt({ variable }, [], found.length ? ambiguous(found) : unknown(document, variable)));
  }
}

/** Not ours: other uses of the prefix, and what Kubernetes puts into every pod beside a Service named waltide. */
function isForeign(variable: string, text: string): boolean {
  if (OTHER_VARIABLES.includes(variable) || OTHER_PREFIXES.some((prefix) => variable.startsWith(prefix))) return true;
  if (/_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$/.test(variable)) return true;
  if (/_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/.test(variable)) return true;
  // WALTIDE_METRICS_PORT is a key of ours, unless its value is Kubernetes' word for a Service's address.
  return variable.endsWith('_PORT') && /^(tcp|udp|sctp):\/\//.test(text);
}

function listKey(rest: string): ConfigKey | undefined {
  return configKeys.find((key) => key.variable === `${LIST_PREFIX}${ANY}_${rest}`);
}

/** `WALTIDE_SINKS_ANALYTICS_PATH`: the sinks whose name, and the key whose variable, spell it. */
function findByName(document: Document, variable: string): { key: ConfigKey; path: Path }[] {
  if (!variable.startsWith(LIST_PREFIX)) return [];
  const rest = variable.slice(LIST_PREFIX.length);
  const found: { key: ConfigKey; path: Path }[] = [];
  for (const [i, part] of sinkParts(document).entries()) {
    const key = part && rest.startsWith(`${part}_`) ? listKey(rest.slice(part.length + 1)) : undefined;
    if (key) found.push({ key, path: key.path.map((step) => (step === ANY ? i : step)) });
  }
  return found;
}

function sinkParts(document: Document): (string | null)[] {
  const sinks = (document.value as { sinks?: unknown } | null)?.sinks;
  if (!Array.isArray(sinks)) return [];
  return sinks.map((sink: unknown) => {
    const name = sink && typeof sink === 'object' && 'name' in sink ? sink.name : null;
    return typeof name === 'string' ? variablePart(name) : null;
  });
}

function apply(document: Document, { variable, text, key, path }: Setting): void {
  const fault = (message: string) => {
    document.faults.push(faultAt({ variable }, path, message));
    document.broken.add(formatPath(path));
  };
  let value: unknown;
  try {
    value = convertText(text, key.shape);
  } catch (error) {
    fault((error as Error).message);
    return;
  }
  if (typeof document.value !== 'object' || document.value === null || Array.isArray(document.value)) return;
  let at = document.value as Record<string | number, unknown>;
  for (const [i, part] of path.slice(0, -1).entries()) {
    const within = at[part];
    const next = path[i + 1];
    if (typeof next === 'number') {
      const list = Array.isArray(within) ? within : [];
      if (next > list.length) {
        fault(`there is no sink ${list.length} yet; sinks are counted from 0 without gaps`);
        return;
      }
      at[part] = list;
    } else if (typeof within !== 'object' || within === null || Array.isArray(within)) at[part] = {};
    at = at[part] as Record<string | number, unknown>;
  }
  at[path.at(-1)!] = value;
  document.values.set(formatPath(path), { variable });
  document.broken.delete(formatPath(path));
}

function index(path: Path): number {
  return path[0] === LIST && typeof path[1] === 'number' ? path[1] : -1;
}

function ambiguous(found: { path: Path }[]): string {
  return `could be any of ${found.map(({ path }) => formatPath(path)).join(', ')}; use the number of the sink instead of its name`;
}

function unknown(document: Document, variable: string): string {
  const parts = sinkParts(document).map((part, i) => part ?? String(i));
  const known = configKeys.flatMap((key) =>
    key.variable.includes(ANY) ? [...parts, '0'].map((part) => key.variable.replace(ANY, part)) : [key.variable],
  );
  return `no key of the configuration has this variable${suggestion(variable, known)}`;
}
