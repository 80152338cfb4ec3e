import { z } from 'zod';
import { messageOf } from '../../errors.ts';
import { parseLsn } from '../../event/lsn.ts';

/** An LSN as PostgreSQL prints it. */
export const lsn = z
  .string()
  .describe('an LSN, such as 16/B374D848')
  .transform((text, context) => {
    try {
      return parseLsn(text);
    } catch (error) {
      context.addIssue(messageOf(error));
      return z.NEVER;
    }
  });

export const lsnText = z.string().describe('an LSN, such as 16/B374D848');

/** Of a query string, in seconds; `500ms` and `5s` too. As milliseconds. */
export const timeout = (secondsMax: number) =>
  z
    .string()
    .describe(`how long to wait, in seconds; 500ms and 5s too; at most ${secondsMax} s`)
    .transform((text, context) => {
      const [, number, unit] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s)?$/.exec(text) ?? [];
      const ms = number === undefined ? Number.NaN : Math.round(Number(number) * (unit === 'ms' ? 1 : 1000));
      if (ms >= 1 && ms <= secondsMax * 1000) return ms;
      context.addIssue(`must be a time from 1ms to ${secondsMax}s`);
      return z.NEVER;
    });

/** How far sinks are, as the answer of a route. */
export const reached = z.array(z.object({ name: z.string(), applied_lsn: lsnText, reached: z.boolean() }));
