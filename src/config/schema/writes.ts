import { z } from 'zod';
import { about, ms } from './common.ts';

export const writes = z.strictObject({
  /** Whoever may call the API could then change the source; nobody should find that out by accident. */
  enabled: z
    .boolean()
    .default(false)
    .meta(about('Let the API write to captured tables of the source, and make queued writes in this process.')),
  /** The safe one of those that do not wait for others. */
  consistency: z
    .enum(['strong', 'eventual', 'weak'])
    .default('eventual')
    .meta(
      about(
        'What a write waits for unless it says so: strong the sinks, eventual the commit, weak a place in the queue.',
      ),
    ),
  /** Long enough for a sink that is a little behind, shorter than what proxies and people wait. */
  timeoutMs: ms.default(10_000).meta(about('How long a strong write waits for the sinks unless it says so.')),
  /** Each is a connection to the source. */
  connectionsMax: z.number().int().min(1).max(100).default(4).meta(about('Most writes that are made at once.')),
  /** A lock that somebody holds must not hold up all that comes behind. */
  statementTimeoutMs: ms.default(30_000).meta(about('How long one write may take in PostgreSQL.')),
  /** Each holds a request of its caller. */
  waitingMax: z
    .number()
    .int()
    .min(1)
    .default(10_000)
    .meta(about('Most writes that wait for one of these connections; beyond it they are refused.')),
  /** One commit, so one flush of the disk, for so many. */
  batchMax: z
    .number()
    .int()
    .min(1)
    .max(10_000)
    .default(100)
    .meta(about('Most weak writes that are made in one transaction.')),
  queueMax: z
    .number()
    .int()
    .min(1)
    .default(100_000)
    .meta(about('Most weak writes in the queue; beyond it they are refused.')),
  /** With one second between them at first, and 30 at last: some minutes. */
  attemptsMax: z
    .number()
    .int()
    .min(1)
    .default(10)
    .meta(about('How often a weak write is tried that something temporary keeps from being made.')),
  keepHours: z
    .number()
    .int()
    .min(1)
    .default(168)
    .meta(about('How long it is known what became of a write; a second one of the same id is refused as long.')),
});
