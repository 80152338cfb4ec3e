import { findProcesses } from '../api/control-client.ts';
import type { ControlFile } from '../api/control-file.ts';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';

/** What holds a sink open; null where no process of the slot runs, so that its store can be opened here. */
export async function sinkHolder({ stateDir, source }: Config, sink: string): Promise<ControlFile | null> {
  const { running, silent } = await findProcesses(stateDir, source.slot);
  const holder = running.find(({ status }) => status.sinks.some(({ name }) => name === sink));
  if (holder) return holder.file;
  if (running.some(({ status }) => status.role !== 'capture' && status.state === 'starting'))
    throw new WaltideError('NOT_RUNNING', 'the process is still starting', 'Try again in a moment.');
  // One that only captures holds no sink.
  const others = running.filter(({ status }) => status.role !== 'capture');
  if (others.length === 0 && silent.length === 0) return null;
  throw notHeld(sink, stateDir, silent);
}

/** No process holds the sink, and it is not to be opened here. */
export function notHeld(sink: string, stateDir: string, silent: readonly string[] = []): WaltideError {
  const why = silent.length > 0 ? `; ${silent.join('; ')}` : '';
  const message = `no running process holds sink "${sink}" (looked in ${stateDir})${why}`;
  return new WaltideError('NOT_RUNNING', message, 'Start one with `waltide run`, then ask again.');
}
