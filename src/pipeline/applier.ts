import type { Config } from '../config/schema.ts';
import type { Offset } from '../event/offset.ts';
import type { Log } from '../log.ts';
import { ApplyLoop, type ApplyLoopOptions } from '../sink/apply-loop.ts';
import { Pace } from '../sink/pace.ts';
import type { Sink } from '../sink/sink.ts';
import type { Tracer } from '../tracing/tracer.ts';
import type { Subscription, Transport } from '../transport/transport.ts';
import type { OpenedSink } from './open-sinks.ts';

/** One sink with what drives it. */
export interface Applier {
  readonly sink: Sink;
  readonly type: string;
  readonly loop: ApplyLoop;
  readonly subscription: Subscription;
  /** What the sink had saved when it was opened. */
  readonly offsets: readonly Offset[];
}

export interface ApplierOptions {
  readonly config: Config;
  readonly transport: Transport;
  readonly log: Log;
  readonly tracer: Tracer | null;
  /** See `ApplyingOptions`. */
  readonly letters: ApplyLoopOptions['letters'];
  readonly onLacking: (oid: number) => void;
  readonly beginAgain: ApplyLoopOptions['beginAgain'];
  /** What the sink is to read instead of all that comes. */
  readonly bounded: (subscription: Subscription) => Subscription;
}

/** Takes up a sink where it is. `lacks`: what it does not have yet never comes by itself, it needs snapshots. */
export async function openApplier(
  { sink, type, pace, breaker, consistency, state }: OpenedSink,
  { config, transport, log, tracer, letters, onLacking, beginAgain, bounded }: ApplierOptions,
): Promise<{ readonly applier: Applier; readonly lacks: boolean }> {
  const { offsets, instance = null } = state;
  const subscription = bounded(await transport.subscribe(sink.name, offsets, { consistency, instance }));
  const loop = new ApplyLoop({
    ...{ sink, subscription, state, breaker, letters, log, tracer, onLacking, beginAgain },
    pace: new Pace(pace),
  });
  for (const table of state.stopped)
    log.warn({ sink: sink.name, table: `${table.schema}.${table.table}` }, `table is stopped: ${table.reason}`);
  // On Kafka what a sink lacks may still lie ahead of it in the log.
  const lacks = config.transport.type === 'in-process' || subscription.startsEmpty;
  return { applier: { sink, type, subscription, offsets, loop }, lacks };
}

export interface StoppedTableOf {
  readonly sink: string;
  readonly table: string;
  readonly reason: string;
}

export function stoppedTables(appliers: readonly Applier[]): StoppedTableOf[] {
  return appliers.flatMap(({ sink, loop }) =>
    loop.status.stopped.map(({ schema, table, reason }) => ({ sink: sink.name, table: `${schema}.${table}`, reason })),
  );
}
