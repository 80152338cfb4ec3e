import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { findProcesses, waitInProcess } from '../../api/control-client.ts';
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
      for (const sink of sinks) await waitFor(config, sink, lsn, deadline);
      if (json) context.print(toJson({ ok: true, lsn: formatLsn(lsn), sinks }));
      else context.print(`${sinks.join(', ')}: everything committed before ${formatLsn(lsn)} is there`);
    });
}

/** Every commit that anybody was told of lies before it. */
function committed({ source }: Config): Promise<Lsn> {
  return withSession(source, 'control', async (client) => (await walPosition(client)).flushed);
}

async function waitFor(config: Config, sink: string, lsn: Lsn, deadline: number): Promise<void> {
  for (;;) {
    const leftMs = Math.max(1, Math.round(deadline - performance.now()));
    const { running, silent } = await findProcesses(config.stateDir, config.source.slot);
    const holder = running.find(({ status }) => status.sinks.some(({ name }) => name === sink));
    if (running.length === 0)
      throw new WaltideError(
        'NOT_RUNNING',
        `no process runs that applies to sink "${sink}" (looked in ${config.stateDir})${silent.map((one) => `; ${one}`).join('')}`,
        'Start one with `waltide run`.',
      );
    try {
      if (!holder) throw notOpen(sink);
      return await waitInProcess(holder.file, sink, lsn, Math.min(leftMs, REQUEST_MS));
    } catch (error) {
      const again = error instanceof WaltideError && (error.code === 'NOT_REACHED' || error.code === 'NOT_RUNNING');
      if (!again || performance.now() >= deadline) throw error;
    }
    await sleep(LOOK_AGAIN_MS);
  }
}

function notOpen(sink: string): WaltideError {
  return new WaltideError(
    'NOT_RUNNING',
    `no running process has sink "${sink}" open`,
    'See `waltide status` and its log.',
  );
}
