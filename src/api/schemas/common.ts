import { z } from 'zod';
import { messageOf } from '../../errors.ts';
import { parseLsn } from '../../event/lsn.ts';

/* What several routes take or give. */

export const lsnText = z.string().describe('an LSN, such as 16/B374D848');

/** A name of PostgreSQL has at most 63 bytes; NUL is in none. */
const part = z
  .string()
  .min(1)
  .max(127)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is refused.
  .regex(/^[^\u0000]*$/, 'holds a NUL');

export const table = part.describe('schema.table, or a table of schema public');
export const sinkName = z.string().min(1).max(200).describe('name of a sink');
export const limit = (max: number, usual: number) => z.coerce.number().int().min(1).max(max).default(usual);

/** `orders` or `sales.orders` as a pair; the first dot separates. */
export function tableName(text: string): { readonly schema: string; readonly table: string } {
  const dot = text.indexOf('.');
  return dot < 0 ? { schema: 'public', table: text } : { schema: text.slice(0, dot), table: text.slice(dot + 1) };
}

/** What a run that goes on is asked for by. */
export const startedRun = z.object({
  run_id: z.string().describe('GET sync/runs/{id} says how it goes, DELETE sync/runs/{id} ends it'),
  sync_type: z.string(),
});

export const startedSnapshots = startedRun.extend({ snapshots: z.array(z.string()).describe('their ids') });

export const startedReplay = startedRun.extend({
  sink: z.string(),
  tables: z.array(z.string()).nullable(),
  from: lsnText.nullable().describe('null where the log was searched by time'),
  stood_at: lsnText.describe('the sink is here again once it is replayed'),
});

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
