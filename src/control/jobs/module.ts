import { pathToFileURL } from 'node:url';
import type { Config } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import type { Log } from '../../log.ts';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import type { Run, Tracked } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';

/** What user code gets beside its run. */
export interface ModuleDeps {
  readonly config: Config;
  readonly log: Log;
  /** For parts that shall be runs of their own. */
  readonly tracked: Tracked;
  /** Read-only SQL on a sink; null where no pipeline runs in this process. */
  readonly query: Pipeline['query'] | null;
}

/** User code: `export async function run(run, deps)`, or the default export. */
export async function moduleJob(
  { name, path }: ScheduleOf<'module'>,
  run: Run,
  { config, log, tracker, pipeline }: JobDeps,
): Promise<void> {
  const work = await load(name, path);
  const query = pipeline === null ? null : pipeline.query.bind(pipeline);
  await work(run, { config, log: log.child({ schedule: name }), tracked: tracker.tracked, query });
}

type UserWork = (run: Run, deps: ModuleDeps) => Promise<unknown>;

async function load(name: string, path: string): Promise<UserWork> {
  let loaded: { run?: unknown; default?: unknown };
  try {
    loaded = (await import(pathToFileURL(path).href)) as typeof loaded;
  } catch (cause) {
    throw invalid(name, `${path} cannot be loaded: ${messageOf(cause)}`, cause);
  }
  const work = loaded.run ?? loaded.default;
  if (typeof work !== 'function') throw invalid(name, `${path} exports no function \`run\``);
  return work as UserWork;
}

function invalid(name: string, what: string, cause?: unknown): WaltideError {
  return new WaltideError(
    'CONFIG_INVALID',
    `schedule "${name}": ${what}`,
    'Point `path` at a JavaScript module with `export async function run(run, deps) { … }`.',
    { cause },
  );
}
