import { WaltideError } from '../../errors.ts';
import type { Run } from '../../postgres/tracked.ts';
import type { ValidationReport } from '../../validation/report.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { VALIDATION_RUN, validationRun } from '../validation-run.ts';

/** Compares sinks with the source, as run "validation" like any other. Rejects with DIFFERENCES where they are not equal. */
export async function validateJob(schedule: ScheduleOf<'validate'>, run: Run, deps: JobDeps): Promise<void> {
  const { tables, sinks, checks, sample, repair, rowsPerSecondMax } = schedule;
  const request = {
    repair,
    ...(tables && { tables }),
    ...(sinks && { sinks }),
    ...(checks && { checks }),
    ...(sample !== undefined && { sample }),
    ...(rowsPerSecondMax !== undefined && { rowsPerSecondMax }),
  };
  const work = validationRun(deps.pipeline!, request);
  const within = (validation: Run): Promise<ValidationReport> => {
    run.progress({ metadata: { validationRun: validation.id } });
    const cancel = (): void => void deps.tracker.cancel(validation.id).catch(() => {});
    run.signal.addEventListener('abort', cancel, { once: true });
    return work(validation);
  };
  // A schedule of that very name is the run itself: waiting for it would be waiting for ever.
  const report = await (run.syncType === VALIDATION_RUN
    ? work(run)
    : deps.tracker.tracked(VALIDATION_RUN, within, { retry: false, wait: true }));
  const records = report.tables.reduce((sum, table) => sum + table.sourceRows, 0);
  run.progress({ records, metadata: { ok: report.ok, score: report.score } });
  if (!report.ok) throw differences(report);
}

function differences({ tables, score }: ValidationReport): WaltideError {
  const wrong = tables.filter(({ missing, extra, different }) => missing + extra + different > 0);
  const each = wrong.map(({ sink, table, missing, extra, different }) => {
    return `${table} in ${sink} (${missing} missing, ${extra} extra, ${different} different)`;
  });
  const what = each.slice(0, 5).join(', ') || 'a reference or a rule does not hold';
  return new WaltideError(
    'DIFFERENCES',
    `sinks and source are not equal, score ${score} %: ${what}${each.length > 5 ? ` and ${each.length - 5} more` : ''}`,
    'See `waltide validate`; with --repair it brings them into line.',
  );
}
