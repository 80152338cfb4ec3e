import { unwatchFile, watchFile } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import type { Config } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import type { Log } from '../log.ts';

/** Looks at the file's status: an editor that replaces it, and a mounted link that turns, are seen alike. */
const POLL_MS = 1000;

export interface ConfigWatchOptions {
  /** Null where there is none; then SIGHUP alone makes it read again. */
  readonly file: string | null;
  readonly config: Config;
  readonly log: Log;
  load(): Promise<Config>;
  /** What may change while it runs. */
  onTables(wanted: Pick<Config['source'], 'tables' | 'exclude'>): void;
}

/**
 * Reads the configuration again when its file changes, and on SIGHUP. `source.tables` and `source.exclude` take effect at
 * once; of everything else it says that it needs a restart. A fault is told, and what was in force stays. Returns what ends it.
 */
export function watchConfig(options: ConfigWatchOptions): () => void {
  const { file, log, load, onTables } = options;
  let { config } = options;
  const read = async (): Promise<void> => {
    let next: Config;
    try {
      next = await load();
    } catch (error) {
      log.error(`the configuration was changed, and cannot be used: ${messageOf(error)}; what was in force stays`);
      return;
    }
    const { tables, exclude } = next.source;
    if (!isDeepStrictEqual([tables, exclude], [config.source.tables, config.source.exclude])) {
      log.info({ tables, exclude }, 'source.tables was changed: it takes effect now');
      onTables({ tables, exclude });
    }
    const rest = { ...next, source: { ...next.source, tables: [], exclude: [] } };
    const before = { ...config, source: { ...config.source, tables: [], exclude: [] } };
    const changed = (Object.keys(rest) as (keyof Config)[]).filter((key) => !isDeepStrictEqual(rest[key], before[key]));
    if (changed.length > 0)
      log.warn({ keys: changed }, 'the configuration was changed: these keys take effect after a restart');
    config = next;
  };
  const changed = (): void => void read();
  process.on('SIGHUP', changed);
  if (file !== null) watchFile(file, { interval: POLL_MS, persistent: false }, changed);
  return () => {
    process.off('SIGHUP', changed);
    if (file !== null) unwatchFile(file, changed);
  };
}
