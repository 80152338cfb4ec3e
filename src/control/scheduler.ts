import type pg from 'pg';
import type { ScheduleConfig } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { Role } from '../pipeline/status.ts';
import { listRuns } from '../postgres/runs.ts';
import {
  expectSchedule,
  noteScheduleRun,
  noteScheduleSkipped,
  readSchedules,
  SCHEDULE_NOTICE,
  type ScheduleRecord,
  takeOccurrence,
  takeOver,
  takeRequest,
} from '../postgres/schedules.ts';
import type { Companion } from './companion.ts';
import type { JobDeps } from './job.ts';
import { canDo, jobOf } from './jobs.ts';
import { type Due, dueNow, nextAfter, nextLook } from './occurrences.ts';

/** A clock that was set, an instance that died: noticed so late at most. */
const LOOK_MAX_MS = 10_000;

interface Firing {
  readonly schedule: ScheduleConfig;
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** Begins what is due, each as a run under the schedule's name; of several processes one does. */
export class Scheduler implements Companion {
  readonly #deps: JobDeps;
  readonly #schedules: readonly ScheduleConfig[];
  readonly #slot: string;
  /** By schedule: how many of its runs this process is doing or waiting to do. */
  readonly #busy = new Map<string, number>();
  #known = false;
  #timer: NodeJS.Timeout | null = null;
  #looking: Promise<void> = Promise.resolve();
  #stopped = false;
  #unsubscribe = (): void => {};

  constructor(deps: JobDeps, role: Role) {
    this.#deps = deps;
    this.#slot = deps.config.source.slot;
    this.#schedules = deps.config.schedules.filter((schedule) => canDo(schedule, role));
  }

  async start(): Promise<void> {
    if (this.#schedules.length === 0) return;
    this.#unsubscribe = this.#deps.tracker.onNotice((text) => text === SCHEDULE_NOTICE && this.#lookIn(0));
    this.#lookIn(0);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#unsubscribe();
    if (this.#timer) clearTimeout(this.#timer);
    await this.#looking;
  }

  #lookIn(ms: number): void {
    if (this.#timer) clearTimeout(this.#timer);
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#looking = this.#looking.then(() => this.#look());
    }, ms);
  }

  async #look(): Promise<void> {
    if (this.#stopped) return;
    const { tracker, log } = this.#deps;
    let next = Date.now() + LOOK_MAX_MS;
    try {
      const firings = await tracker.control(async (client) => {
        await this.#expect(client);
        const records = await readSchedules(client, this.#slot);
        const found: Firing[] = [];
        const now = new Date();
        for (const schedule of this.#schedules) {
          const record = records.get(schedule.name);
          if (!record) continue;
          found.push(...(await this.#due(client, schedule, record, now)));
          const look = schedule.enabled ? nextLook(schedule, record.dueAt, now, this.#slot) : null;
          if (look) next = Math.min(next, look.getTime());
        }
        return found;
      });
      for (const firing of firings) void this.#fire(firing);
    } catch (error) {
      // The tracker says why.
      log.debug(`schedules: ${messageOf(error)}`);
      next = Date.now() + 1000;
    }
    this.#lookIn(Math.max(0, next - Date.now()));
  }

  async #expect(client: pg.Client): Promise<void> {
    if (this.#known) return;
    const now = new Date();
    for (const schedule of this.#schedules) await expectSchedule(client, this.#slot, schedule, now);
    this.#known = true;
  }

  /** Takes what is this process' to do now. */
  async #due(client: pg.Client, schedule: ScheduleConfig, record: ScheduleRecord, now: Date): Promise<Firing[]> {
    const { name, type } = schedule;
    const { instance } = this.#deps.tracker;
    const found: Firing[] = [];
    if (record.requestedAt && (await takeRequest(client, this.#slot, name)))
      found.push({ schedule, metadata: { type, requestedAt: record.requestedAt } });
    if (record.orphaned && (await takeOver(client, this.#slot, name, instance)))
      found.push({ schedule, metadata: { type, dueAt: record.dueAt } });
    const due = schedule.enabled ? dueNow(schedule, record.dueAt, now, this.#slot) : null;
    // Each of those that were missed has its turn, one after another.
    if (!due || (schedule.catchUp === 'all' && due.late && (this.#busy.get(name) ?? 0) > 0)) return found;
    const taken = { due: due.due, next: nextAfter(schedule, now), instance };
    if (!(await takeOccurrence(client, this.#slot, name, taken))) return found;
    if (due.late && schedule.catchUp === 'none')
      await this.#skip(client, schedule, `missed: no process ran at ${due.due.toISOString()}`);
    else found.push({ schedule, metadata: metadataOf(schedule, due) });
    return found;
  }

  async #fire({ schedule, metadata }: Firing): Promise<void> {
    const { tracker, log } = this.#deps;
    const { name, overlap } = schedule;
    const job = jobOf(schedule);
    const busy = this.#busy.get(name) ?? 0;
    this.#busy.set(name, busy + 1);
    try {
      // One waits; more would only do the same again.
      if (overlap === 'wait' && busy > 1) throw new WaltideError('RUN_BUSY', 'one waits for its turn already', '');
      if (overlap === 'cancel') await this.#cancelLast(name);
      let noted = false;
      await tracker.tracked(
        name,
        async (run) => {
          if (!noted) await tracker.control((client) => noteScheduleRun(client, this.#slot, name, run.id));
          noted = true;
          await job.run(schedule, run, this.#deps);
        },
        { retry: job.retry, wait: overlap !== 'skip', metadata: { schedule: metadata } },
      );
    } catch (error) {
      if (error instanceof WaltideError && error.code === 'RUN_BUSY')
        await tracker.control((client) => this.#skip(client, schedule, messageOf(error))).catch(() => {});
      else if (!this.#stopped)
        log.error({ schedule: name }, `${messageOf(error)}. See \`waltide history --type ${name}\`.`);
    } finally {
      this.#busy.set(name, (this.#busy.get(name) ?? 1) - 1);
      if (schedule.catchUp === 'all') this.#lookIn(0);
    }
  }

  async #skip(client: pg.Client, { name }: ScheduleConfig, note: string): Promise<void> {
    this.#deps.log.warn({ schedule: name }, `skipped: ${note}`);
    await noteScheduleSkipped(client, this.#slot, name, note);
  }

  async #cancelLast(name: string): Promise<void> {
    const { tracker } = this.#deps;
    const running = await tracker.control((client) => listRuns(client, { syncType: name, status: 'in_progress' }));
    for (const { id } of running) await tracker.cancel(id);
  }
}

function metadataOf({ type }: ScheduleConfig, { due, missed, late }: Due): Record<string, unknown> {
  return { type, dueAt: due, ...(late && { late }), ...(missed > 0 && { missedBefore: missed }) };
}
