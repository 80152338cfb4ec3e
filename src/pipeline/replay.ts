import type pg from 'pg';
import type { Config, SourceConfig } from '../config/schema.ts';
import type { Letters } from '../dead-letter/dead-letter.ts';
import { WaltideError } from '../errors.ts';
import { formatLsn, LSN_MAX, type Lsn } from '../event/lsn.ts';
import type { Offset, SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import { readSlotRecord } from '../postgres/control.ts';
import { momentAfter, momentBefore, momentOf, momentUpTo } from '../postgres/positions.ts';
import { slotSide, withSession } from '../postgres/session.ts';
import { readSlot, walPosition } from '../postgres/slot.ts';
import { listSnapshots, requestSnapshot } from '../postgres/snapshots.ts';
import type { Sink, SinkState } from '../sink/sink.ts';
import type { StartOf, TableName, Transport } from '../transport/transport.ts';
import type { Applier } from './applier.ts';
import type { Capture } from './capture.ts';
import type { UntilBound } from './until.ts';

/** What to apply once more, and into which sink. */
export interface ReplayRequest {
  readonly sink: string;
  /** Null for all. */
  readonly tables: readonly TableName[] | null;
  readonly from: StartOf;
}

/** A request that can be done: where the sink goes back to, and how far it was. */
export interface ReplayPlan {
  readonly sink: string;
  readonly tables: readonly string[] | null;
  /** Where it begins; null where the log was searched by time. */
  readonly from: Lsn | null;
  /** Replayed means: the sink is here again. */
  readonly stoodAt: Lsn;
  readonly offsets: readonly Offset[];
}

export interface ReplayGround {
  readonly config: Config;
  /** Open, with an identity. */
  readonly transport: Transport;
  /** What the sink has saved. */
  readonly offsets: readonly Offset[];
  /** How far the sink is, where `offsets` do not say it. */
  readonly stoodAt?: Lsn;
}

/**
 * Finds where a replay has to begin. Changes nothing. Rejects with REPLAY or USAGE where it cannot be done, saying which
 * range is missing and what else helps.
 */
export function planReplay(request: ReplayRequest, ground: ReplayGround): Promise<ReplayPlan> {
  const { config, transport, offsets } = ground;
  const { source } = config;
  return withSession(source, 'replay', async (client) => {
    const tables = await findTables(client, source.slot, request.tables);
    let stoodAt: Lsn = ground.stoodAt ?? 0n;
    if (ground.stoodAt === undefined)
      for (const { position } of offsets) if (position.commitLsn > stoodAt) stoodAt = position.commitLsn;
    if (stoodAt === 0n)
      throw new WaltideError(
        'REPLAY',
        `sink "${request.sink}" has never applied anything`,
        'Fill it with `waltide run` first.',
      );
    const { flushed } = await walPosition(client);
    if ('lsn' in request.from) checkLsn(request.from.lsn, flushed, stoodAt, request.sink);
    const from =
      config.transport.type === 'in-process' ? { lsn: await retainedFrom(client, source, request) } : request.from;
    if ('lsn' in from) checkLsn(from.lsn, flushed, stoodAt, request.sink);
    const located = await transport.locate(tables, from, offsets);
    const removed = config.transport.type === 'in-process' ? [] : located.removed;
    if (removed.length > 0) throw removedFromLog(request, removed);
    return {
      sink: request.sink,
      tables: request.tables?.map(({ schema, table }) => `${schema}.${table}`) ?? null,
      from: 'lsn' in from ? from.lsn : null,
      stoodAt,
      offsets: located.offsets,
    };
  });
}

/** Rejects where a replay into a sink that is open, and goes on, cannot be done. Which offsets it would be, only the sink can tell. */
export async function checkReplay(
  request: ReplayRequest,
  config: Config,
  transport: Transport,
  { sink, subscription, offsets }: Applier,
): Promise<void> {
  requireRewind(request, sink);
  const opened = offsets.length > 0 ? offsets : [{ partition: '', next: null }];
  const position = { commitLsn: LSN_MAX, seq: 0 };
  const everywhere = opened.map((offset) => ({ ...offset, position }));
  const stoodAt = subscription.appliedLsn() || LSN_MAX;
  await planReplay(request, { config, transport, offsets: everywhere, stoodAt });
}

export interface Rewound {
  readonly state: SinkState;
  /** Null for a sink that the request is not about. */
  readonly plan: ReplayPlan | null;
}

/** Throws REPLAY for a sink that cannot go back. */
function requireRewind(request: ReplayRequest, sink: Sink): asserts sink is Sink & Required<Pick<Sink, 'rewind'>> {
  if (sink.rewind) return;
  throw new WaltideError(
    'REPLAY',
    `sink "${sink.name}" cannot go back: it has no rewind`,
    `Fill it anew: ${snapshotCommand(request)}.`,
  );
}

/** Takes a sink that has just been opened back to where the replay begins. Changes nothing where it rejects. */
export async function rewindSink(
  request: ReplayRequest,
  ground: {
    readonly config: Config;
    readonly log: Log;
    readonly transport: Transport;
    readonly capture: Capture | null;
    readonly sink: Sink;
    readonly state: SinkState;
    readonly identity: SourceIdentity;
    readonly letters: Letters;
  },
): Promise<Rewound> {
  const { config, log, transport, capture, sink, state, identity, letters } = ground;
  if (sink.name !== request.sink) return { state, plan: null };
  requireRewind(request, sink);
  // The log is asked; with both ends in one process the other end has not been opened yet.
  if (config.transport.type === 'kafka') await transport.identity(AbortSignal.timeout(config.shutdownTimeoutMs));
  const plan = await planReplay(request, { config, transport, offsets: state.offsets });
  // First, so that nothing can come between: nobody takes it up before the sink has gone back.
  if (config.transport.type === 'in-process') await copyAgain(config.source, request, plan, log);
  await sink.rewind(plan.offsets, request.tables);
  capture?.marks.delete(sink.name);
  const from = plan.from === null ? 'the time asked for' : formatLsn(plan.from);
  log.info(
    { sink: sink.name, tables: plan.tables ?? 'all', from, upTo: formatLsn(plan.stoodAt) },
    'the sink goes back and applies again',
  );
  return { state: await sink.open(identity, letters), plan };
}

/**
 * What a snapshot brought is not in the WAL: where one has ended since, the changes of before would undo it (they were followed
 * by some that nobody decoded, while the table was not published, say). So the table is copied once more afterwards.
 */
async function copyAgain(source: SourceConfig, request: ReplayRequest, plan: ReplayPlan, log: Log): Promise<void> {
  const { slot } = source;
  const { sink, tables } = request;
  await withSession(source, 'replay', async (client) => {
    const since = plan.from === null ? null : ((await momentUpTo(client, plan.from))?.at ?? null);
    const brought = (await listSnapshots(client, slot, false)).filter(
      ({ state, sinks, finishedAt }) =>
        state === 'completed' && (sinks?.includes(sink) ?? true) && (since === null || finishedAt! >= since),
    );
    const oids = new Set(brought.map(({ tableOid }) => tableOid));
    for (const table of (await readSlotRecord(client, slot))?.tables ?? []) {
      const asked = tables?.some((one) => one.schema === table.schema && one.table === table.table) ?? true;
      if (!asked || table.leftLsn !== null || !oids.has(table.oid)) continue;
      const reason = 'a replay went back to before its last snapshot, whose rows the WAL does not hold';
      const id = await requestSnapshot(client, { slot, table, sinks: [sink], reason });
      if (id)
        log.info({ sink, table: `${table.schema}.${table.table}`, snapshot: id }, `snapshot asked for: ${reason}`);
    }
  });
}

/** As they were captured: a renamed table keeps its topic. */
async function findTables(
  client: pg.Client,
  slot: string,
  tables: readonly TableName[] | null,
): Promise<readonly TableName[] | null> {
  if (!tables) return null;
  const followed = (await readSlotRecord(client, slot))?.tables ?? [];
  return tables.map(({ schema, table }) => {
    const found = followed.find((one) => one.schema === schema && one.table === table);
    if (found) return found;
    const names = followed.map((one) => `${one.schema}.${one.table}`).join(', ') || 'none';
    throw new WaltideError('USAGE', `table ${schema}.${table} is not followed`, `Followed are: ${names}.`);
  });
}

function checkLsn(from: Lsn, flushed: Lsn, stoodAt: Lsn, sink: string): void {
  if (from > flushed)
    throw new WaltideError(
      'REPLAY',
      `${formatLsn(from)} lies beyond the end of the server's WAL at ${formatLsn(flushed)}`,
      'It is in the future, or of another server or timeline; `waltide status` shows where the sinks are.',
    );
  if (from >= stoodAt)
    throw new WaltideError(
      'REPLAY',
      `sink "${sink}" is at ${formatLsn(stoodAt)}, so nothing from ${formatLsn(from)} on has to be applied again`,
      'It applies what is new by itself: `waltide run`.',
    );
}

/** In-process the slot is the only log: it goes back to what has been acknowledged. */
async function retainedFrom(client: pg.Client, source: SourceConfig, request: ReplayRequest): Promise<Lsn> {
  const { slot: slotName } = source;
  const slot = await withSession(slotSide(source), 'replay', (other) => readSlot(other, slotName));
  const held = slot?.confirmedFlushLsn ?? null;
  if (!slot || held === null || slot.invalidation !== null)
    throw new WaltideError('REPLAY', `slot "${slotName}" is gone or lost`, 'Copy anew with `waltide run --recopy`.');
  const from = 'lsn' in request.from ? request.from.lsn : await lsnAt(client, request.from.time);
  if (from !== null && from >= held) return from;
  const since = (await momentOf(client, held))?.at;
  const asked = 'lsn' in request.from ? formatLsn(request.from.lsn) : request.from.time.toISOString();
  const gone = from === null ? `what was committed from ${asked} on` : `WAL from ${formatLsn(from)}`;
  const holds = `slot "${slotName}" holds WAL from ${formatLsn(held)} on${since ? ` (about ${since.toISOString()})` : ''}`;
  throw new WaltideError(
    'REPLAY',
    `${gone} up to ${formatLsn(held)} cannot be replayed: ${holds}, what lies before is gone`,
    `Replay from there on (--from-lsn ${formatLsn(held)}), or fill the tables anew: ${snapshotCommand(request)}. To be able to go back further next time, set source.retain.`,
  );
}

/** Whatever was committed from `time` on lies at or after the result; null where the time is not known. */
async function lsnAt(client: pg.Client, time: Date): Promise<Lsn | null> {
  return (await momentBefore(client, time))?.lsn ?? null;
}

function removedFromLog(
  request: ReplayRequest,
  removed: readonly { partition: string; first: { commitLsn: Lsn } | null }[],
): WaltideError {
  const where = removed
    .slice(0, 5)
    .map(
      ({ partition, first }) =>
        `${partition} (${first ? `its first change is of ${formatLsn(first.commitLsn)}` : 'holds nothing'})`,
    )
    .join(', ');
  const more = removed.length > 5 ? ` and ${removed.length - 5} more` : '';
  const asked = 'lsn' in request.from ? formatLsn(request.from.lsn) : request.from.time.toISOString();
  return new WaltideError(
    'REPLAY',
    `not everything from ${asked} on can be replayed: retention has removed older records of ${where}${more}`,
    `Replay from later on, or fill the tables anew: ${snapshotCommand(request)}. A longer retention.ms of the topics keeps more.`,
  );
}

function snapshotCommand({ sink, tables }: ReplayRequest): string {
  const names = tables?.map(({ schema, table }) => `${schema}.${table}`).join(' ') ?? 'TABLE…';
  return `\`waltide snapshot start ${names} --sink ${sink}\``;
}

/** Where a replay that goes no further than `until` has to stop. */
export function findUntil(config: Config, until: StartOf, from: StartOf | null = null): Promise<UntilBound> {
  const { source } = config;
  return withSession(source, 'replay', async (client) => {
    if (from && (await endsBefore(client, until, from)))
      throw new WaltideError(
        'USAGE',
        '--until lies before where the replay is to begin, so nothing would be applied',
        'Give an --until that is later than --from-lsn or --since.',
      );
    const { flushed, inserted } = await walPosition(client);
    if ('time' in until) return { lsn: (await momentAfter(client, until.time))?.lsn ?? inserted, time: until.time };
    if (until.lsn > flushed)
      throw new WaltideError(
        'REPLAY',
        `--until: ${formatLsn(until.lsn)} lies beyond the end of the server's WAL at ${formatLsn(flushed)}`,
        'Leave --until out to replay everything.',
      );
    return { lsn: until.lsn, time: null };
  });
}

async function endsBefore(client: pg.Client, until: StartOf, from: StartOf): Promise<boolean> {
  if ('time' in until && 'time' in from) return until.time < from.time;
  const end = 'lsn' in until ? until.lsn : (await momentAfter(client, until.time))?.lsn;
  const start = 'lsn' in from ? from.lsn : (await momentBefore(client, from.time))?.lsn;
  return end !== undefined && start !== undefined && end < start;
}
