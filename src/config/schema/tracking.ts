import { z } from 'zod';
import { about, ms, name } from './common.ts';

const retry = z.strictObject({
  /** With the waits below, half a minute: a restart of a server, but no outage. */
  attemptsMax: z.number().int().min(1).max(100).default(5).meta(about('Attempts of one run; 1 means no retry.')),
  firstMs: ms.default(1000).meta(about('Longest wait before the second attempt; it doubles from one to the next.')),
  maxMs: ms
    .default(60_000)
    .meta(about('Longest wait between two attempts. Each is cut by chance, to between half and all.')),
});

export const tracking = z.strictObject({
  instance: name
    .optional()
    .meta(about('What this process is called in history; default: the name of its host. Its pid is added.')),
  /** One small update of one row; a dead process should be known within half a minute. */
  heartbeatIntervalMs: ms.default(10_000).meta(about('How often a process says that it lives.')),
  /** Two heartbeats may be lost to a busy machine before anyone concludes anything. */
  heartbeatTimeoutMs: ms
    .default(30_000)
    .meta(about('Silence after which a process counts as dead, and its runs are closed as abandoned.')),
  retry: retry.prefault({}).meta(about('How a tracked run is tried again where the error may pass by itself.')),
  /** A quarter of a year: long enough to compare with, short enough that the table stays small. */
  historyDays: z
    .number()
    .positive()
    .default(90)
    .meta(about('How long the history of runs is kept; the last run and the last success of each type stay.')),
  /** Deleting by an index what is old costs nothing when there is nothing. */
  cleanupIntervalMs: ms.default(3_600_000).meta(about('How often what is older is removed.')),
});
