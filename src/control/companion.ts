import type { Tracker } from '../postgres/tracked.ts';

/** What runs beside a pipeline and outlives none: the instance with its runs, schedules, alerts, the API. */
export interface Companion {
  /** Resolves once it does its work. Rejects only with what the user must mend before anything runs. */
  start(): Promise<void>;
  /** Ends in order. Never rejects; also where it was not started. */
  stop(): Promise<void>;
}

/** The process as an instance: what it lacks for that (the schema, the server) may come later. */
export function instanceOf(tracker: Tracker): Companion {
  return {
    start: async () => tracker.openLater(),
    stop: () => tracker.close(),
  };
}
