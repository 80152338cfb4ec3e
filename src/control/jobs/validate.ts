import { WaltideError } from '../../errors.ts';
import type { Run } from '../../postgres/tracked.ts';
import type { ValidationReport } from '../../validation/report.ts';
import type { JobDeps, ScheduleOf } from '../job.ts';
import { validationRun } from '../validation-run.ts';

/** Compares sinks with the source, as the schedule's own run. Rejects with DIFFERENCES where they are not equal. */
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
  const report = await validationRun(deps.pipeline!, request)(run);
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
