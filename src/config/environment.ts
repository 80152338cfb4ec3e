import type { Document } from './document.ts';
import { faultAt, suggestion } from './faults.ts';
import { ANY, type ConfigKey, configKeys, formatPath, type Path, PREFIX, variableOf, variablePart } from './shape.ts';
import { convertText } from './text.ts';

/** Variables that are ours and set no key. */
const OTHER_VARIABLES = ['WALTIDE_CONFIG', 'WALTIDE_FAILPOINT'];
const OTHER_PREFIXES = ['WALTIDE_TEST_', 'WALTIDE_BENCH_'];

/** A list of maps: the variables of its entries begin with `prefix`, then the number or the name of one. */
interface List {
  readonly path: Path;
  readonly prefix: string;
}

/** Longest prefix first: a list may lie in a map whose name begins like that of another. */
const LISTS: readonly List[] = [
  ...new Map(
    configKeys
      .filter(({ path }) => path.includes(ANY))
      .map(({ path }) => path.slice(0, path.indexOf(ANY)))
      .map((path) => [formatPath(path), { path, prefix: `${variableOf(path)}_` }]),
  ).values(),
].sort((a, b) => b.prefix.length - a.prefix.length);

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
    const found = direct ? { key: direct, path: direct.path } : findByNumber(variable);
    if (found) settings.push({ variable, text, ...found });
    else byName.push(variable);
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

function findByNumber(variable: string): { key: ConfigKey; path: Path } | undefined {
  for (const { prefix } of LISTS) {
    const [, digits, rest] = variable.startsWith(prefix)
      ? (/^(\d+)_(.+)$/.exec(variable.slice(prefix.length)) ?? [])
      : [];
    const key = rest === undefined ? undefined : entryKey(prefix, rest);
    if (key) return { key, path: entryPath(key, Number(digits)) };
  }
  return undefined;
}

function entryKey(prefix: string, rest: string): ConfigKey | undefined {
  return configKeys.find((key) => key.variable === `${prefix}${ANY}_${rest}`);
}

function entryPath({ path }: ConfigKey, entry: number): Path {
  return path.map((part) => (part === ANY ? entry : part));
}

/** `WALTIDE_SINKS_ANALYTICS_PATH`: the entries whose name, and the key whose variable, spell it. */
function findByName(document: Document, variable: string): { key: ConfigKey; path: Path }[] {
  const found: { key: ConfigKey; path: Path }[] = [];
  for (const list of LISTS) {
    if (!variable.startsWith(list.prefix)) continue;
    const rest = variable.slice(list.prefix.length);
    for (const [i, part] of entryParts(document, list).entries()) {
      const key = part && rest.startsWith(`${part}_`) ? entryKey(list.prefix, rest.slice(part.length + 1)) : undefined;
      if (key) found.push({ key, path: entryPath(key, i) });
    }
  }
  return found;
}

/** The name of each entry as it stands in a variable; null for one that has none. */
function entryParts(document: Document, { path }: List): (string | null)[] {
  let list: unknown = document.value;
  for (const part of path) list = (list as Record<string, unknown> | null | undefined)?.[part as string];
  if (!Array.isArray(list)) return [];
  return list.map((entry: unknown) => {
    const name = entry && typeof entry === 'object' && 'name' in entry ? entry.name : null;
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
        fault(
          `there is no ${formatPath([...path.slice(0, i + 1), list.length])} yet; entries are counted from 0 without gaps`,
        );
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
  return path.find((part) => typeof part === 'number') ?? -1;
}

function ambiguous(found: { path: Path }[]): string {
  return `could be any of ${found.map(({ path }) => formatPath(path)).join(', ')}; use the number of the entry instead of its name`;
}

function unknown(document: Document, variable: string): string {
  const known = configKeys.flatMap((key) => {
    const list = LISTS.find(({ prefix }) => key.variable.startsWith(`${prefix}${ANY}_`));
    if (!list) return [key.variable];
    const parts = entryParts(document, list).map((part, i) => part ?? String(i));
    return [...parts, '0'].map((part) => key.variable.replace(ANY, part));
  });
  return `no key of the configuration has this variable${suggestion(variable, known)}`;
}
