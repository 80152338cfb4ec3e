import type { Config } from '../../config/schema.ts';
import type { Log } from '../../log.ts';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import type { Run, Tracked } from '../../postgres/tracked.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { loadModule } from '../user-module.ts';

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
  const work = await loadModule<UserWork>(name, path, 'run', 'export async function run(run, deps) { … }');
  const query = pipeline === null ? null : pipeline.query.bind(pipeline);
  await work(run, { config, log: log.child({ schedule: name }), tracked: tracker.tracked, query });
}

type UserWork = (run: Run, deps: ModuleDeps) => Promise<unknown>;
