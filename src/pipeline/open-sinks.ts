import type { BreakerConfig, Config } from '../config/schema.ts';
import { paceOf, type SinkPace } from '../config/strategy.ts';
import type { DeadLetterStore } from '../dead-letter/store.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Log } from '../log.ts';
import { createSink } from '../sink/registry.ts';
import type { Sink, SinkState } from '../sink/sink.ts';

/** A sink with what the pipeline must know of it, and its state once it is open. */
export interface OpenedSink {
  readonly sink: Sink;
  readonly type: string;
  readonly pace: SinkPace;
  readonly breaker: BreakerConfig;
  readonly consistency: 'table' | 'transaction';
  readonly state: SinkState;
}

const BATCH_OF_OWN_SINKS = { rowsMax: 10_000, bytesMax: 8 * 1024 * 1024 };
const BREAKER_OF_OWN_SINKS = { failuresMax: 8, openMs: 30_000 };

/**
 * Opens the sinks of the configuration, then a library user's own. Whatever was opened is in `opened` even where one
 * rejects, so that it can be closed. `onOpen` may change a sink's state before it goes on.
 */
export async function openSinks(
  config: Config,
  own: readonly Sink[],
  identity: SourceIdentity,
  letters: DeadLetterStore,
  opened: Sink[],
  onOpen: ((sink: Sink, state: SinkState, identity: SourceIdentity) => Promise<SinkState>) | undefined,
  log: Log,
): Promise<OpenedSink[]> {
  const all: Omit<OpenedSink, 'state'>[] = [];
  for (const options of config.sinks)
    all.push({ sink: await createSink(options, log), pace: paceOf(config, options), ...options });
  for (const sink of own) {
    const pace = paceOf(config, { name: sink.name, batch: BATCH_OF_OWN_SINKS });
    all.push({ sink, type: 'own', pace, breaker: BREAKER_OF_OWN_SINKS, consistency: 'table' });
  }
  const sinks: OpenedSink[] = [];
  for (const one of all) {
    opened.push(one.sink);
    const state = await one.sink.open(identity, letters.of(one.sink.name));
    sinks.push({ ...one, state: (await onOpen?.(one.sink, state, identity)) ?? state });
  }
  return sinks;
}
