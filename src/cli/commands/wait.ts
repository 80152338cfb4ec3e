import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { findProcesses, type RunningProcess, waitInProcess } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../event/lsn.ts';
import { withSession } from '../../postgres/session.ts';
import { walPosition } from '../../postgres/slot.ts';
import { durationMs, patternList } from '../arguments.ts';
import { chooseSink } from '../choose-sink.ts';
import type { CliContext } from '../context.ts';
import { parseLsnOption } from '../moment.ts';
import { Patience } from '../patience.ts';
import { holding, nobodyApplies, notHeld } from '../sink-holder.ts';
import { describeDecoding } from './status.ts';

interface Options {
  readonly lsn?: string;
  readonly sink?: readonly string[];
  readonly timeout: number;
}

/** Of one request; a longer wait is several. */
const REQUEST_MS = 60_000;
/** A process that begins again, or is just being started, is there in a moment. */
const LOOK_AGAIN_MS = 200;

/** `waltide wait`: ends once sinks hold what was committed before an LSN. */
export function waitCommand(context: CliContext): Command {
  return new Command('wait')
    .description('Wait until sinks hold what was committed before an LSN: whoever has written reads it there then.')
    .option('--lsn <lsn>', 'such as 16/B374D848 (default: everything committed by now)')
    .option('--sink <name>', 'which sink; may be given several times (default: all)', patternList)
    .option('--timeout <time>', 'how long at most: 500ms, 30s, 2m (default: 30s)', durationMs, 30_000)
    .addHelpText(
      'after',
      `
Take the LSN behind your own commit: SELECT pg_current_wal_insert_lsn(). Exit code 1 where a sink does not come so far in time.

Examples:
  waltide wait --lsn 16/B374D848 --sink analytics && waltide query 'select count(*) from orders'
  waltide wait --timeout 5s`,
    )
    .action(async (options: Options, command: Command) => {
      const { config, json } = await context.load(command);
      const sinks = options.sink?.map((name) => chooseSink(config, name)) ?? config.sinks.map(({ name }) => name);
      const lsn = options.lsn === undefined ? await committed(config) : parseLsnOption(options.lsn, '--lsn');
      const deadline = performance.now() + options.timeout;
      for (const sink of sinks) await waitFor(context, config, { sink, lsn, deadline });
      if (json) context.print(toJson({ ok: true, lsn: formatLsn(lsn), sinks }));
      else context.print(`${sinks.join(', ')}: everything committed before ${formatLsn(lsn)} is there`);
    });
}

/** Every commit that anybody was told of lies before it. */
function committed({ source }: Config): Promise<Lsn> {
  return withSession(source, 'control', async (client) => (await walPosition(client)).flushed);
}

/** With what the sink waits for itself, where that is known. */
function told(error: unknown, holder: RunningProcess | null): unknown {
  const decoding = holder?.status.source?.decoding;
  if (!decoding || !(error instanceof WaltideError)) return error;
  return new WaltideError(error.code, `${error.message}; ${describeDecoding(decoding)}`, error.help, { cause: error });
}

async function waitFor(
  context: CliContext,
  config: Config,
  { sink, lsn, deadline }: { readonly sink: string; readonly lsn: Lsn; readonly deadline: number },
): Promise<void> {
  const patience = new Patience(context);
  for (;;) {
    const found = await findProcesses(config.stateDir, config.source.slot);
    const holder = holding(found, sink);
    // Somebody who is there may take time; nobody who is not there comes by waiting.
    if (!holder && nobodyApplies(found)) throw notHeld(found, config.stateDir, sink);
    const leftMs = Math.max(1, Math.round(deadline - performance.now()));
    try {
      if (!holder) throw notHeld(found, config.stateDir, sink);
      patience.heard();
      return await waitInProcess(holder.file, sink, lsn, Math.min(leftMs, REQUEST_MS));
    } catch (error) {
      const again = error instanceof WaltideError && (error.code === 'NOT_REACHED' || error.code === 'NOT_RUNNING');
      if (!again || performance.now() >= deadline) throw told(error, holder);
      if (found.slow[0]) patience.silent(found.slow[0]);
    }
    await sleep(LOOK_AGAIN_MS);
  }
}
