import type { Config, ScheduleConfig } from '../config/schema.ts';
import type { Log } from '../log.ts';
import type { Pipeline } from '../pipeline/pipeline.ts';
import type { Run, Tracker } from '../postgres/tracked.ts';

/** What jobs work with. */
export interface JobDeps {
  readonly config: Config;
  readonly log: Log;
  readonly tracker: Tracker;
  /** Null where no pipeline runs in this process: `waltide schedule run` by itself. */
  readonly pipeline: Pick<Pipeline, 'query' | 'replay' | 'sink' | 'validate' | 'waitFor'> | null;
}

/** The configuration of one type of schedule. */
export type ScheduleOf<T extends ScheduleConfig['type']> = Extract<ScheduleConfig, { type: T }>;

/** What a type of schedule does. */
export interface Job<S extends ScheduleConfig> {
  /** What the process must have: the slot, the sinks, or nothing. */
  readonly needs: 'capture' | 'sinks' | null;
  /** False where doing it twice would not do: it tries again by itself, or not at all. */
  readonly retry: boolean;
  run(schedule: S, run: Run, deps: JobDeps): Promise<void>;
}
