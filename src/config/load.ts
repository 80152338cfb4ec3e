import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, isAbsolute, relative, resolve } from 'node:path';
import { messageOf } from '../errors.ts';
import { crossFaults } from './checks.ts';
import { type Document, emptyDocument, readDocument } from './document.ts';
import { applyEnvironment } from './environment.ts';
import { ConfigError, faultAt, sortFaults } from './faults.ts';
import { faultsOf } from './issues.ts';
import { type Config, type ConfigInput, configSchema } from './schema.ts';
import { configKeys, configShape, type Shape } from './shape.ts';

/** Looked for in the working directory, in this order. */
export const CONFIG_FILES = ['waltide.yaml', 'waltide.yml', 'waltide.json'] as const;

export interface LoadOptions {
  /** `--config FILE`. Default: $WALTIDE_CONFIG, then one of CONFIG_FILES in `cwd`, then the environment alone. */
  readonly file?: string | undefined;
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
}

export interface LoadedConfig {
  /** Defaults filled in, file paths absolute. */
  readonly config: Config;
  /** Absolute; null where the environment gave everything. */
  readonly file: string | null;
}

/** File and environment, checked. Throws ConfigError (CONFIG_INVALID) with all faults at once. */
export async function loadConfig(options: LoadOptions = {}): Promise<LoadedConfig> {
  const env = options.env ?? process.env;
  const cwd = resolve(options.cwd ?? '.');
  const file = findFile(options.file ?? (env.WALTIDE_CONFIG || undefined), cwd);
  const shown = file === null ? '' : relative(cwd, file).startsWith('..') ? file : relative(cwd, file);
  const document = file === null ? emptyDocument() : readDocument(await readText(file, shown), shown, env);
  applyEnvironment(document, env);
  if (file === null && document.values.size === 0 && document.faults.length === 0) throw noConfig(cwd);
  return { config: check(document, file === null ? cwd : dirname(file)), file };
}

/** For `waltide` as a library: nothing but types, so that an editor helps while you write. */
export function defineConfig(input: ConfigInput): ConfigInput {
  return input;
}

/**
 * A configuration made in code, checked like one from a file; relative paths are resolved against `baseDir`.
 * Neither files nor the environment are read. Throws ConfigError (CONFIG_INVALID) with all faults at once.
 */
export function resolveConfig(input: ConfigInput, baseDir = process.cwd()): Config {
  return check(emptyDocument(structuredClone(input)), baseDir);
}

function check(document: Document, baseDir: string): Config {
  const syntax = document.faults.length > 0 && document.values.size === 0;
  if (syntax) throw new ConfigError(sortFaults(document.faults));
  openMaps(document.value, configShape, true);
  const parsed = configSchema.safeParse(document.value);
  const faults = [
    ...document.faults,
    ...faultsOf(parsed.error?.issues ?? [], document),
    ...crossFaults(document, baseDir),
  ];
  if (faults.length > 0 || !parsed.success) throw new ConfigError(sortFaults(faults));
  return withAbsolutePaths(parsed.data, baseDir);
}

/**
 * A key with all its children commented out has no value in YAML, and `source` may be left out where nothing is
 * given at all: an empty map in their place lets the schema name what is missing inside.
 */
function openMaps(value: unknown, shape: Shape, top: boolean): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return;
  const map = value as Record<string, unknown>;
  if (top && map.source === undefined) map.source = {};
  for (const [key, child] of shape.keys) {
    const onlyMap = child.kinds.size === 1 && child.kinds.has('object');
    if (map[key] === null && onlyMap && child.variants.size === 0) map[key] = {};
    openMaps(map[key], child, false);
  }
}

function findFile(asked: string | undefined, cwd: string): string | null {
  if (asked !== undefined) return resolve(cwd, asked);
  const found = CONFIG_FILES.filter((name) => existsSync(resolve(cwd, name)));
  if (found.length > 1) {
    const message = `${found.join(' and ')} are both in ${cwd}; keep one, or say which with --config FILE`;
    throw new ConfigError([faultAt(null, [], message)]);
  }
  return found[0] === undefined ? null : resolve(cwd, found[0]);
}

function noConfig(cwd: string): ConfigError {
  const message = `none of ${CONFIG_FILES.join(', ')} is in ${cwd}, and no WALTIDE_… variable is set; write one, or give --config FILE`;
  return new ConfigError([faultAt(null, [], message)]);
}

async function readText(file: string, shown: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    const message = missing ? `${shown} does not exist` : `${shown} cannot be read: ${messageOf(error)}`;
    throw new ConfigError([faultAt(null, [], message)]);
  }
}

const PATH_KEYS = configKeys.filter((key) => key.shape.mark === 'path').map((key) => key.path);

function withAbsolutePaths(config: Config, baseDir: string): Config {
  for (const path of PATH_KEYS) makeAbsolute(config, path, baseDir);
  config.source.url = withAbsolutePems(config.source.url, baseDir);
  if (config.source.primaryUrl) config.source.primaryUrl = withAbsolutePems(config.source.primaryUrl, baseDir);
  return config;
}

function makeAbsolute(value: unknown, path: readonly (string | number)[], baseDir: string): void {
  if (typeof value !== 'object' || value === null) return;
  if (Array.isArray(value)) {
    for (const item of value) makeAbsolute(item, path.slice(1), baseDir);
    return;
  }
  const map = value as Record<string, unknown>;
  const [key, ...rest] = path as [string, ...string[]];
  if (rest.length > 0) makeAbsolute(map[key], rest, baseDir);
  else if (typeof map[key] === 'string') map[key] = resolve(baseDir, map[key]);
}

/** sslrootcert and friends, as in libpq, but found beside the config file. `system` is libpq's word, not a file. */
function withAbsolutePems(url: string, baseDir: string): string {
  return url.replace(/([?&]ssl(?:rootcert|cert|key)=)([^&#]+)/g, (whole, key: string, encoded: string) => {
    const file = decoded(encoded);
    return isAbsolute(file) || file === 'system' ? whole : key + encodeURIComponent(resolve(baseDir, file));
  });
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // A stray "%": taken as it stands, as libpq would complain about the file by this name.
  }
}
