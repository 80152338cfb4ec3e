import { z } from 'zod';
import { about } from './common.ts';

export const deadLetters = z.strictObject({
  /** Past this many it is not single rows that do not fit. */
  perTableMax: z
    .number()
    .int()
    .min(1)
    .default(10_000)
    .meta(about('Most open dead letters of one table and sink; with one more the table is set aside as a whole.')),
  /** As long as a quarter's accounts are looked at. */
  keepDays: z
    .number()
    .positive()
    .default(90)
    .meta(about('How long a letter is kept once it is closed: retried, resolved, superseded or discarded.')),
});
