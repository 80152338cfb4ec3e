import { resolve } from 'node:path';
import { Command } from 'commander';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { sinkConfig } from '../../control/store-runs.ts';
import { WaltideError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../event/lsn.ts';
import { identify } from '../../postgres/identity.ts';
import { slotSide, withSession } from '../../postgres/session.ts';
import { checkOffset, readSlot, type SlotInfo, walPosition } from '../../postgres/slot.ts';
import { restoreSink } from '../../sink/registry.ts';
import type { Restored } from '../../sink/upkeep.ts';
import { chooseSink } from '../choose-sink.ts';
import type { CliContext } from '../context.ts';
import { formatCount } from '../output.ts';
import { sinkHolder } from '../sink-holder.ts';

interface Options {
  readonly sink?: string;
  readonly from: string;
  readonly refill?: boolean;
}

/** `waltide restore`: a backup in the place of a sink's store. */
export function restoreCommand(context: CliContext): Command {
  return new Command('restore')
    .description('Put a backup in the place of the DuckDB file of a sink, while no process has it open.')
    .option('--sink <name>', 'which sink; needed where there are several')
    .requiredOption('--from <file>', 'what `waltide backup` has written')
    .option('--refill', 'where what came after the backup is gone: restore all the same, and fill every table anew')
    .addHelpText(
      'after',
      `
The file that was there is kept beside it. Before anything is changed, the backup is read whole, must be of this source and
slot, and the slot must still hold what came after it; see docs/recovery.md.

Examples:
  waltide restore --from /srv/backups/analytics.duckdb
  waltide restore --from /srv/backups/analytics.duckdb --refill`,
    )
    .action(async (options: Options, command: Command) => {
      const { config, json } = await context.load(command);
      const sink = chooseSink(config, options.sink);
      if (await sinkHolder(config, sink))
        throw new WaltideError('SINK_LOCKED', `a running process holds sink "${sink}"`, 'Stop it first.');
      context.drains = true;
      const ground = await readGround(config);
      const request = {
        from: resolve(context.io.cwd, options.from),
        owner: ground.identity,
        decide: (lsn: Lsn) => decide(config, sink, lsn, ground, options.refill ?? false),
      };
      const restored = await restoreSink(sinkConfig(config, sink), request, { signal: context.signal, note: () => {} });
      report(context, config, restored, json);
    });
}

interface Ground {
  readonly identity: { readonly systemIdentifier: string; readonly database: string; readonly slot: string };
  readonly slot: SlotInfo | null;
  readonly flushed: Lsn;
}

function readGround({ source }: Config): Promise<Ground> {
  return withSession(slotSide(source), 'restore', async (client) => ({
    identity: await identify(client, source.slot),
    slot: await readSlot(client, source.slot),
    flushed: (await walPosition(client)).flushed,
  }));
}

/** See RestoreRequest.decide. Through Kafka, the log is looked at when the sink is opened. */
function decide(
  { transport }: Config,
  sink: string,
  lsn: Lsn,
  { slot, flushed }: Ground,
  refill: boolean,
): string | null {
  if (lsn === 0n || transport.type === 'kafka') return refill ? reasonOf(lsn) : null;
  try {
    if (!slot || slot.invalidation !== null)
      throw new WaltideError(
        'SLOT_LOST',
        'the slot is gone or lost, and with it what came after the backup',
        'Add --refill to have the rows of the backup again; then copy anew with `waltide run --recopy`.',
      );
    checkOffset(sink, lsn, slot, flushed);
    return null;
  } catch (error) {
    if (!(error instanceof WaltideError) || !['SLOT_AHEAD', 'SLOT_LOST'].includes(error.code)) throw error;
    if (refill) return reasonOf(lsn);
    const help = `Add --refill: the rows of the backup can be read, and each table is filled anew beside the stream. ${KEEP}`;
    throw error.code === 'SLOT_LOST' ? error : new WaltideError('SLOT_AHEAD', error.message, help, { cause: error });
  }
}

const KEEP = 'source.retain keeps WAL for such a case, next time.';
const reasonOf = (lsn: Lsn): string =>
  `restored as of ${formatLsn(lsn)}; what came after is gone, so it is filled anew`;

function report(context: CliContext, { transport }: Config, restored: Restored, json: boolean): void {
  const { path, keptAs, lsn, refill, tables } = restored;
  const rows = tables.reduce((sum, table) => sum + table.rows, 0);
  if (json) {
    context.print(toJson({ ok: true, path, keptAs, lsn: formatLsn(lsn), refill: refill !== null, tables }, 2));
    return;
  }
  context.print(`${path}: ${tables.length} tables, ${formatCount(rows)} rows, as of ${formatLsn(lsn)}`);
  if (keptAs) context.note(`what was there is ${keptAs}`);
  const log =
    transport.type === 'kafka' ? 'the log, which the start looks at' : 'the slot, which holds all that came after';
  context.note(
    refill === null
      ? `the next \`waltide run\` goes on from ${formatLsn(lsn)}, from ${log}`
      : 'the next `waltide run` fills every table anew beside the stream; until then its rows are those of the backup',
  );
}
