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
});
