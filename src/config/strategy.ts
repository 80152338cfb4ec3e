import type { BatchConfig, Config } from './schema.ts';

export type Strategy = Config['strategy'];

/** How the changes of some tables are gathered before they are applied. */
export interface Batching extends BatchConfig {
  /** `lingerMs` is the most of it: from 0, as long as the sink keeps up easily. */
  readonly adaptive: boolean;
}

const MIB = 1024 * 1024;

/** What each strategy stands for. `bytesMax` is never more than half of what may be in flight (`transport.inFlightBytesMax`). */
export const STRATEGIES: Readonly<Record<Strategy, Batching>> = {
  /** What came while the last batch was applied is the next: nothing waits, and a busy sink still gathers. */
  real_time: { rowsMax: 50_000, bytesMax: 10 * MIB, lingerMs: 0, adaptive: false },
  /** DuckDB loads 10,000 rows at a time at half, 50,000 at nearly its full speed. Nobody notices 10 ms, which save transactions. */
  near_real_time: { rowsMax: 50_000, bytesMax: 10 * MIB, lingerMs: 10, adaptive: false },
  /** A transaction of the sink every few seconds: for stores that charge for each, and tables that nobody watches. */
  batch: { rowsMax: 200_000, bytesMax: 32 * MIB, lingerMs: 5_000, adaptive: false },
  /** Between the first and half a second, by how busy the sink is. */
  hybrid: { rowsMax: 200_000, bytesMax: 32 * MIB, lingerMs: 500, adaptive: true },
  /** Much is behind: as large as batches may be; one second costs nothing, since a backlog fills them before. */
  recovery: { rowsMax: 200_000, bytesMax: 32 * MIB, lingerMs: 1_000, adaptive: false },
};

/** How a sink gathers: by table where that was said, else as the sink, else as all. */
export interface SinkPace {
  readonly base: Batching;
  /** The first whose pattern matches counts. */
  readonly tables: readonly { readonly patterns: readonly string[]; readonly batching: Batching }[];
}

interface PacedSink {
  readonly name: string;
  readonly strategy?: Strategy | undefined;
  readonly batch?: { readonly [K in keyof BatchConfig]?: number | undefined };
}

/** `sink` as configured; a library user's own has no more than a name. What `batch` says wins over the strategy. */
export function paceOf(config: Pick<Config, 'strategy' | 'tableStrategies' | 'transport'>, sink: PacedSink): SinkPace {
  const preset = STRATEGIES[sink.strategy ?? config.strategy];
  const { rowsMax = preset.rowsMax, bytesMax = preset.bytesMax, lingerMs = preset.lingerMs } = sink.batch ?? {};
  // A batch that the budget never lets fill would wait for the rest of its transaction for ever.
  const bytesMost = Math.floor(config.transport.inFlightBytesMax / 2);
  const bounded = (batching: Batching): Batching => ({
    ...batching,
    bytesMax: Math.min(batching.bytesMax, bytesMost),
  });
  return {
    base: bounded({ ...preset, rowsMax, bytesMax, lingerMs }),
    tables: config.tableStrategies
      .filter(({ sinks }) => sinks?.includes(sink.name) ?? true)
      .map(({ tables, strategy }) => ({ patterns: tables, batching: bounded(STRATEGIES[strategy]) })),
  };
}
