import type { Run } from '../../postgres/tracked.ts';
import type { Pull } from '../../pull/pull.ts';
import { pullInto } from '../../pull/puller.ts';
import { connectWriter } from '../../write/sessions.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { loadModule } from '../user-module.ts';

/** Brings rows of elsewhere into a table of the source: user code reads them page by page. */
export async function pullJob(schedule: ScheduleOf<'pull'>, run: Run, { config, log }: JobDeps): Promise<void> {
  const { name, path, table, key = null, columns = null } = schedule;
  const pull = await loadModule<Pull>(name, path, 'pull', 'export async function* pull(cursor, { signal }) { … }');
  const session = await connectWriter(config);
  try {
    const job = { slot: config.source.slot, name, spec: { table, key, columns } };
    const context = { config, log: log.child({ schedule: name }), signal: run.signal };
    await pullInto(session, job, pull, context, (records, { latest }) => {
      run.progress({ records, ...(latest !== undefined && { latest }) });
    });
  } finally {
    await session.client.end().catch(() => {});
  }
}
