import { createHash } from 'node:crypto';
import { Cron } from 'croner';
import type { ScheduleConfig } from '../config/schema.ts';

/** What says when a schedule is due. */
export type Timing = Pick<ScheduleConfig, 'name' | 'cron' | 'timeZone' | 'jitterMs' | 'catchUp'>;

/** Later than this, an occurrence was missed: no process ran, or none that could do it. */
const LATE_MS = 60_000;
/** Most that are made up for with `catchUp: all`; older ones are left out. */
export const CATCH_UP_MAX = 100;

/** The first occurrence after `from`; null where there is none any more. */
export function nextAfter(timing: Timing, from: Date): Date | null {
  return cronOf(timing).nextRun(from);
}

/** The last `count` occurrences up to now, newest first. */
function lastUntil(timing: Timing, now: Date, count: number): Date[] {
  // Counts whole seconds: one of this very second included.
  const end = new Date(Math.floor(now.getTime() / 1000) * 1000 + 999);
  return cronOf(timing).previousRuns(count, end);
}

/** When an occurrence begins: later by its jitter, which is the same for every process, and never reaches the next one. */
export function beginsAt(timing: Timing, due: Date, salt: string): Date {
  if (timing.jitterMs === 0) return due;
  const next = nextAfter(timing, due);
  const room = next === null ? timing.jitterMs : (next.getTime() - due.getTime()) * 0.9;
  const digest = createHash('sha256').update(`${salt}\n${timing.name}\n${due.toISOString()}`).digest();
  const share = digest.readUInt32BE(0) / 2 ** 32;
  return new Date(due.getTime() + Math.floor(share * Math.min(timing.jitterMs, room)));
}

export interface Due {
  readonly due: Date;
  /** How many occurrences before it nobody took, as far as they are counted. */
  readonly missed: number;
  /** Nobody was there in time. */
  readonly late: boolean;
}

/** What is to be taken now, `takenUntil` being the last occurrence that was; null where nothing is due. */
export function dueNow(timing: Timing, takenUntil: Date, now: Date, salt: string): Due | null {
  const untaken = lastUntil(timing, now, CATCH_UP_MAX).filter(
    (one) => one > takenUntil && beginsAt(timing, one, salt) <= now,
  );
  const due = timing.catchUp === 'all' ? untaken.at(-1) : untaken[0];
  if (!due) return null;
  const late = now.getTime() - beginsAt(timing, due, salt).getTime() > LATE_MS;
  return { due, missed: timing.catchUp === 'all' ? 0 : untaken.length - 1, late };
}

/** When there may be something to do next. */
export function nextLook(timing: Timing, takenUntil: Date, now: Date, salt: string): Date | null {
  const [last] = lastUntil(timing, now, 1);
  // One that is due and waits for its jitter.
  if (last && last > takenUntil && beginsAt(timing, last, salt) > now) return beginsAt(timing, last, salt);
  const next = nextAfter(timing, now);
  return next && beginsAt(timing, next, salt);
}

const crons = new Map<string, Cron>();

function cronOf({ cron, timeZone }: Timing): Cron {
  const key = `${cron}\n${timeZone}`;
  let made = crons.get(key);
  if (!made) {
    made = new Cron(cron, { timezone: timeZone, mode: '5-or-6-parts', paused: true });
    crons.set(key, made);
  }
  return made;
}
