import { type Found, findProcesses, type RunningProcess } from '../api/control-client.ts';
import type { ControlFile } from '../api/control-file.ts';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { PipelineState } from '../pipeline/status.ts';

/** What holds a sink open; null where no process of the slot runs, so that its store can be opened here. */
export async function sinkHolder({ stateDir, source }: Config, sink: string): Promise<ControlFile | null> {
  const found = await findProcesses(stateDir, source.slot);
  const holder = holding(found, sink);
  if (holder) return holder.file;
  if (nobodyApplies(found)) return null;
  throw notHeld(found, stateDir, sink);
}

/** The process that has the sink open, or any sink where `sink` is null; null where none answers that has. */
export function holding({ running }: Pick<Found, 'running'>, sink: string | null): RunningProcess | null {
  const has = ({ status }: RunningProcess): boolean => status.sinks.some(({ name }) => sink === null || name === sink);
  return running.find(has) ?? null;
}

/** True where no process lives that has sinks, or will have: one that only captures has none. */
export function nobodyApplies({ running, silent }: Pick<Found, 'running' | 'silent'>): boolean {
  return silent.length === 0 && running.every(({ status }) => status.role === 'capture');
}

const PHASE: Record<PipelineState, string> = {
  starting: 'is still starting, or begins again',
  copying: 'is in its first copy',
  streaming: 'runs',
  resting: 'rests',
  failed: 'cannot go on by itself',
  stopping: 'is stopping',
  stopped: 'is stopping',
};

/**
 * Why a sink (null = any) cannot be reached through a process: which one is there, and what it does. Only where there is
 * none is a start the remedy: a second one would find slot and file taken.
 */
export function notHeld(found: Found, stateDir: string, sink: string | null): WaltideError {
  const what = sink === null ? 'a sink' : `sink "${sink}"`;
  const [running] = found.running.filter(({ status }) => status.role !== 'capture');
  if (running) {
    const { pid } = running.file;
    const { state, failure } = running.status;
    const message = `the process with pid ${pid} ${PHASE[state]}, and does not have ${what} open${failure ? `: ${failure}` : ''}`;
    const soon = state === 'starting' || state === 'copying';
    const help = soon
      ? 'Try again in a moment; `waltide status` shows how far it is.'
      : 'See `waltide status` and its log.';
    return new WaltideError('NOT_RUNNING', message, help);
  }
  if (found.silent.length > 0)
    return new WaltideError(
      'NOT_RUNNING',
      `whether ${what} is open is not known: ${found.silent.join('; ')}`,
      'It may only be busy: try again in a moment, and see its log. Do not start a second one while it lives.',
    );
  return new WaltideError(
    'NOT_RUNNING',
    `no running process holds ${what} (looked in ${stateDir})`,
    'Start one with `waltide run`, then ask again.',
  );
}
