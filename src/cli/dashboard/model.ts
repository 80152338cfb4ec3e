import type { RecordsReading, StatusReading } from './reading.ts';

/* What the dashboard knows, and how each answer changes it. Pure. */

/** Everything that was asked for at one moment. */
export interface Picture {
  readonly atMs: number;
  readonly processes: readonly { readonly name: string; readonly status: StatusReading }[];
  /** Processes that should answer and do not, and why. */
  readonly silent: readonly string[];
  /** Null where it cannot be asked for now; `recordsError` says why. */
  readonly records: RecordsReading | null;
  readonly recordsError: string | null;
}

export interface Course {
  readonly rates: readonly number[];
  readonly lags: readonly number[];
}

export interface DashboardState {
  /** What is looked at: `slot "shop"`, or URLs. */
  readonly target: string;
  readonly intervalMs: number;
  /** The last picture with a process in it; null until there is one. */
  readonly picture: Picture | null;
  /** Why the last try showed none; null where it did. */
  readonly failing: string | null;
  /** Of each sink, oldest first, one value per picture; by `courseKey`. */
  readonly courses: ReadonlyMap<string, Course>;
  /** Events per second of each table between the last two pictures; by `tableKey`. Absent = not known yet. */
  readonly tableRates: ReadonlyMap<string, number>;
  readonly paused: boolean;
  /** Lines of the body above the first that is shown. */
  readonly scroll: number;
}

const COURSE_LENGTH = 120;

export const courseKey = (process: string, sink: string): string => JSON.stringify([process, sink]);
export const tableKey = (process: string, sink: string, table: string): string =>
  JSON.stringify([process, sink, table]);

export function initialState(target: string, intervalMs: number): DashboardState {
  return {
    ...{ target, intervalMs, picture: null, failing: null, paused: false, scroll: 0 },
    ...{ courses: new Map(), tableRates: new Map() },
  };
}

/** With a new picture. One without any process leaves the last figures where they are, and says so. */
export function seen(state: DashboardState, picture: Picture): DashboardState {
  if (picture.processes.length === 0) {
    const failing = picture.silent.join('; ') || `no process of ${state.target} is running`;
    // How fast things went then is not how fast they go now.
    return { ...state, failing, tableRates: new Map() };
  }
  const courses = new Map<string, Course>();
  const tableRates = new Map<string, number>();
  for (const { name, status } of picture.processes) {
    for (const sink of status.sinks) {
      const key = courseKey(name, sink.name);
      const { rates, lags } = state.courses.get(key) ?? { rates: [], lags: [] };
      courses.set(key, {
        rates: [...rates, sink.eventsPerSecond].slice(-COURSE_LENGTH),
        lags: [...lags, sink.lagSeconds ?? 0].slice(-COURSE_LENGTH),
      });
    }
    for (const [key, rate] of ratesSince(state.picture, picture.atMs, name, status)) tableRates.set(key, rate);
  }
  return { ...state, picture, failing: null, courses, tableRates };
}

/** None where the process was not there before, or is another one by now: its counts began anew. */
function ratesSince(before: Picture | null, atMs: number, name: string, status: StatusReading): [string, number][] {
  const last = before?.processes.find((one) => one.name === name)?.status;
  const seconds = (atMs - (before?.atMs ?? 0)) / 1000;
  if (!last || last.pid !== status.pid || last.startedAt !== status.startedAt || !(seconds > 0)) return [];
  return status.sinks.flatMap((sink) => {
    const lastTables = last.sinks.find((one) => one.name === sink.name)?.tables;
    if (!lastTables) return [];
    const counts = new Map(lastTables.map((table) => [table.name, table.events]));
    return sink.tables.map((table): [string, number] => [
      tableKey(name, sink.name, table.name),
      Math.max(0, table.events - (counts.get(table.name) ?? 0)) / seconds,
    ]);
  });
}

export type Move = 'up' | 'down' | 'page-up' | 'page-down' | 'top' | 'bottom';

/** Scrolled within `lines` of body, of which `shown` fit. */
export function scrolled(state: DashboardState, move: Move, lines: number, shown: number): DashboardState {
  const page = Math.max(1, shown - 1);
  const steps: Record<Move, number> = {
    ...{ up: -1, down: 1, 'page-up': -page, 'page-down': page },
    ...{ top: Number.NEGATIVE_INFINITY, bottom: Number.POSITIVE_INFINITY },
  };
  const last = Math.max(0, lines - shown);
  return { ...state, scroll: Math.min(last, Math.max(0, Math.min(last, state.scroll) + steps[move])) };
}
