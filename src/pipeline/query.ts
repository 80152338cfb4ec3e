import { WaltideError } from '../errors.ts';
import type { Lsn } from '../event/lsn.ts';
import type { QueryResult, Sink } from '../sink/sink.ts';
import { type Arrivals, requireReached } from './arrivals.ts';

export interface QueryOptions {
  /** The only sink that can be queried when left out. */
  readonly sink?: string;
  /** Only once the sink has applied what was committed before it. */
  readonly minLsn?: Lsn;
  readonly rowsMax: number;
  /** Waiting for `minLsn` included. */
  readonly timeoutMs: number;
}

/** Rejects with SINK_QUERY where no such sink can be queried, with NOT_REACHED where it does not come to `minLsn` in time. */
export async function querySink(
  sinks: readonly Sink[],
  sql: string,
  options: QueryOptions,
  arrivals: Arrivals,
): Promise<QueryResult> {
  const { sink: asked, minLsn, rowsMax, timeoutMs } = options;
  const sink = queryable(sinks, asked);
  const began = performance.now();
  if (minLsn !== undefined) {
    const arrival = await arrivals.wait(minLsn, { sinks: [sink.name], timeoutMs });
    requireReached(arrival, minLsn, timeoutMs);
  }
  const leftMs = Math.max(1, Math.round(timeoutMs - (performance.now() - began)));
  return sink.query(sql, { rowsMax, timeoutMs: leftMs });
}

function queryable(sinks: readonly Sink[], name: string | undefined): Sink & Required<Pick<Sink, 'query'>> {
  const able = sinks.filter((sink): sink is Sink & Required<Pick<Sink, 'query'>> => sink.query !== undefined);
  const found =
    name === undefined ? (able.length === 1 ? able[0] : undefined) : able.find((sink) => sink.name === name);
  if (found) return found;
  const names = able.map((sink) => sink.name).join(', ') || 'none';
  throw new WaltideError(
    'SINK_QUERY',
    name === undefined ? 'several or no sinks can be queried' : `no sink "${name}" that can be queried`,
    `Name one with --sink; there are: ${names}.`,
  );
}
