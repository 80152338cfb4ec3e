import { WaltideError } from '../errors.ts';
import type { Sink } from '../sink/sink.ts';

/** The sink of that name, or the only one, if it can be queried. Throws SINK_QUERY where there is no such. */
export function queryable(sinks: readonly Sink[], name: string | undefined): Sink & Required<Pick<Sink, 'query'>> {
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
