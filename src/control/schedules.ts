import type pg from 'pg';
import type { Config, ScheduleConfig } from '../config/schema.ts';
import { type RunRecord, readRun } from '../postgres/runs.ts';
import { readSchedules } from '../postgres/schedules.ts';
import { beginsAt, nextAfter } from './occurrences.ts';

/** A schedule of the configuration, with what became of it. */
export interface ScheduleView {
  readonly name: string;
  readonly type: ScheduleConfig['type'];
  readonly cron: string;
  readonly timeZone: string;
  readonly enabled: boolean;
  readonly lastRun: RunRecord | null;
  /** Null where it is disabled, or never due again. */
  readonly nextAt: Date | null;
  /** Why the last occurrence did not become a run. */
  readonly note: string | null;
}

/** Those of the configuration, in its order. */
export async function listSchedules(client: pg.Client, { schedules, source }: Config): Promise<ScheduleView[]> {
  const records = await readSchedules(client, source.slot);
  const views: ScheduleView[] = [];
  for (const schedule of schedules) {
    const { name, type, cron, timeZone, enabled } = schedule;
    const record = records.get(name);
    const due = enabled ? nextAfter(schedule, new Date()) : null;
    views.push({
      name,
      type,
      cron,
      timeZone,
      enabled,
      lastRun: record?.lastRunId ? await readRun(client, record.lastRunId) : null,
      nextAt: due && beginsAt(schedule, due, source.slot),
      note: record?.note ?? null,
    });
  }
  return views;
}
