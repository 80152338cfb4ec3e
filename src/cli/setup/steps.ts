import { setTimeout as sleep } from 'node:timers/promises';
import { findProcesses } from '../../api/control-client.ts';
import type { Config } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import type { Log } from '../../log.ts';
import { setUpSink, setUpSource } from '../../pipeline/set-up.ts';
import { listApiKeys } from '../../postgres/api-keys.ts';
import { controlVersion, migrate } from '../../postgres/control.ts';
import { ddlCaptureState, installDdlCapture } from '../../postgres/ddl-capture.ts';
import { expectSchedule, readSchedules } from '../../postgres/schedules.ts';
import { withSession } from '../../postgres/session.ts';
import { lockSetup } from '../../postgres/setup-lock.ts';
import { few } from '../doctor/check.ts';

/** More than a set-up takes, but one that waits for old transactions. */
const ONE_AT_A_TIME_MS = 60_000;
/** Another set-up holds a file for less than a second. */
const LOCKED_WAIT_MS = 30_000;
const LOCKED_RETRY_MS = 200;

/** What became of one part of a set-up. */
export interface Step {
  readonly name: string;
  /** there: nothing had to be done. skipped: it could not be done, and the rest works without it. */
  readonly status: 'done' | 'there' | 'skipped';
  readonly detail: string;
}

export interface StepContext {
  readonly config: Config;
  readonly log: Log;
  /** Told of each as soon as it is done. */
  readonly tell: (step: Step) => void;
}

/** Publication, slot, control schema and, where the role may, the capture trigger. `ddl`: it must be installed. */
export async function setUpCdc({ config, log, tell }: StepContext, ddl: boolean): Promise<void> {
  const { source } = config;
  await controlSchema({ config, log, tell });
  const { publication, slot } = await setUpSource(config, log);
  const tables = publication.tables.map(({ schema, table }) => `${schema}.${table}`);
  tell({ name: 'publication', status: 'done', detail: `${publication.names.join(', ')} carries ${few(tables)}` });
  const words = {
    made: 'is made; `waltide run` copies existing rows, until then it keeps WAL',
    prepared: 'is there; `waltide run` copies existing rows, until then it keeps WAL',
    used: 'is there and in use',
  };
  tell({ name: 'slot', status: slot === 'made' ? 'done' : 'there', detail: `${source.slot} ${words[slot]}` });
  await captureTrigger({ config, log, tell }, ddl);
}

async function controlSchema({ config, tell }: StepContext): Promise<void> {
  const before = await withSession(config.source, 'setup', async (client) => {
    const version = await controlVersion(client);
    await migrate(client);
    return version;
  });
  const detail = { absent: 'schema waltide is made', older: 'schema waltide is brought up to this version' };
  if (before === 'current') tell({ name: 'control schema', status: 'there', detail: 'schema waltide is there' });
  else tell({ name: 'control schema', status: 'done', detail: detail[before] });
}

async function captureTrigger({ config, tell }: StepContext, needed: boolean): Promise<void> {
  const name = 'capture trigger';
  const installed = await withSession(config.source, 'setup', async (client) => {
    if ((await ddlCaptureState(client)) === 'current') return 'there';
    try {
      await installDdlCapture(client);
      return 'done';
    } catch (error) {
      if (needed || !(error instanceof WaltideError) || error.code !== 'SOURCE_RIGHTS') throw error;
      return 'skipped';
    }
  });
  const words = {
    done: 'is installed',
    there: 'is there',
    skipped: 'needs a superuser: schema changes are followed less exactly; let one run `waltide setup --ddl`',
  };
  tell({ name, status: installed, detail: words[installed] });
}

/**
 * One set-up of a slot after another: the lock of a killed one goes with its session. Where it takes too long, or the source cannot
 * be asked, `work` is done all the same: each part by itself stands others.
 */
export async function oneAtATime(config: Config, work: () => Promise<void>): Promise<void> {
  const { source } = config;
  let begun = false;
  try {
    await withSession(source, 'setup', async (client) => {
      await lockSetup(client, `${source.slot} parts`, ONE_AT_A_TIME_MS);
      begun = true;
      await work();
    });
  } catch (error) {
    if (begun) throw error;
    await work();
  }
}

/** The files of all sinks, with their bookkeeping. */
export async function setUpSinks({ config, log, tell }: StepContext): Promise<void> {
  for (const sink of config.sinks) {
    const name = `sink ${sink.name}`;
    const holder = await holderOf(config, sink.name);
    if (holder !== null) {
      tell({ name, status: 'there', detail: `${sink.path} is held by the running process ${holder}` });
      continue;
    }
    await patiently(() => setUpSink(sink, config, log));
    tell({ name, status: 'done', detail: `${sink.path} is ready, with its bookkeeping` });
  }
}

/** Pid of the running process that has the sink open; null where none has. */
async function holderOf({ stateDir, source }: Config, sink: string): Promise<number | null> {
  const { running } = await findProcesses(stateDir, source.slot);
  return running.find(({ status }) => status.sinks.some(({ name }) => name === sink))?.file.pid ?? null;
}

async function patiently(work: () => Promise<void>): Promise<void> {
  const deadline = performance.now() + LOCKED_WAIT_MS;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      const locked = error instanceof WaltideError && error.code === 'SINK_LOCKED';
      if (!locked) throw error;
      if (performance.now() > deadline) throw taken(error);
      await sleep(LOCKED_RETRY_MS);
    }
  }
}

/** Whoever holds the file has won a race, or is another program; either way there is nothing here to query. */
function taken(error: WaltideError): WaltideError {
  return new WaltideError(
    'SINK_LOCKED',
    error.message,
    'Where that is Waltide (`waltide status`), it sets the sink up itself and this step is done; else close that program. Then run `waltide setup` again.',
    { cause: error },
  );
}

/** What runs beside the pipeline: the tables that it needs, the schedules, and a word about keys of the API. */
export async function setUpServices({ config, log, tell }: StepContext, schemaIsThere = false): Promise<void> {
  if (!schemaIsThere) await controlSchema({ config, log, tell });
  await withSession(config.source, 'setup', async (client) => {
    const { slot } = config.source;
    const known = await readSchedules(client, slot);
    const now = new Date();
    for (const schedule of config.schedules) await expectSchedule(client, slot, schedule, now);
    const names = config.schedules.map(({ name }) => name);
    const fresh = names.filter((name) => !known.has(name));
    const detail = names.length === 0 ? 'none are configured' : few(names, 12);
    tell({ name: 'schedules', status: fresh.length > 0 ? 'done' : 'there', detail });
    if (!config.api.enabled || !config.api.auth.includes('keys')) return;
    const keys = (await listApiKeys(client)).filter(({ revokedAt }) => revokedAt === null);
    tell(
      keys.length > 0
        ? { name: 'API keys', status: 'there', detail: few(keys.map((key) => `${key.name} (${key.role})`)) }
        : { name: 'API keys', status: 'skipped', detail: 'none yet: `waltide api-key create NAME --role operator`' },
    );
  });
}
