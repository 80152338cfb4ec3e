import { z } from 'zod';
import { formatLsn } from '../../event/lsn.ts';
import { QUERY_ROWS_MAX, QUERY_TIMEOUT_MS_MAX } from '../limits.ts';
import { defineRoute } from '../route.ts';
import { lsn } from '../schemas/common.ts';

const name = z.string().min(1).max(200).describe('name of the sink');

const query = defineRoute({
  method: 'POST',
  url: '/sinks/:name/query',
  role: 'operator',
  summary: 'Read-only SQL on a sink',
  changes: false,
  params: { name },
  body: z.strictObject({
    sql: z.string().min(1),
    rows_max: z.number().int().min(1).max(QUERY_ROWS_MAX).default(1000),
    timeout_ms: z.number().int().min(1).max(QUERY_TIMEOUT_MS_MAX).default(30_000),
    min_lsn: lsn.optional().describe('only once the sink has applied what was committed before; else 504, NOT_REACHED'),
  }),
  reply: z.object({ columns: z.array(z.string()), rows: z.array(z.array(z.unknown())), truncated: z.boolean() }),
  run: async ({ params, body }, { pipeline }) => {
    const { columns, rows, truncated } = await pipeline.query(body.sql, {
      sink: params.name,
      rowsMax: body.rows_max,
      timeoutMs: body.timeout_ms,
      ...(body.min_lsn !== undefined && { minLsn: body.min_lsn }),
    });
    return { columns: [...columns], rows: rows as unknown[][], truncated };
  },
});

const replay = defineRoute({
  method: 'POST',
  url: '/sinks/:name/replay',
  role: 'operator',
  summary: 'Apply changes once more, from an LSN or a time on',
  params: { name },
  body: z.strictObject({
    tables: z
      .array(z.strictObject({ schema: z.string().min(1), table: z.string().min(1) }))
      .nullable()
      .default(null),
    from: z.union([
      z.strictObject({ lsn }),
      z.strictObject({ time: z.iso.datetime().transform((text) => new Date(text)) }),
    ]),
  }),
  reply: z.object({
    sink: z.string(),
    tables: z.array(z.string()).nullable(),
    from: z.string().nullable(),
    stood_at: z.string().describe('the sink is here again once it is replayed'),
  }),
  run: async ({ params, body }, { pipeline }) => {
    const { sink, tables, from, stoodAt } = await pipeline.replay({ sink: params.name, ...body });
    return {
      sink,
      tables: tables && [...tables],
      from: from === null ? null : formatLsn(from),
      stood_at: formatLsn(stoodAt),
    };
  },
});

export const sinkRoutes = [query, replay];
