import { z } from 'zod';
import { WaltideError } from '../../errors.ts';
import { formatLsn } from '../../event/lsn.ts';
import { relationName } from '../../event/relation.ts';
import { readMarks } from '../../postgres/positions.ts';
import { QUERY_ROWS_MAX, QUERY_TIMEOUT_MS_MAX } from '../limits.ts';
import { startReplay } from '../long-work.ts';
import { Accepted, type Deps, defineRoute } from '../route.ts';
import { lsn, lsnText, sinkName, startedReplay } from '../schemas/common.ts';

const query = defineRoute({
  method: 'POST',
  url: '/sinks/:name/query',
  role: 'operator',
  summary: 'Read-only SQL on a sink',
  changes: false,
  params: { name: sinkName },
  body: z.strictObject({
    sql: z.string().min(1).max(1_000_000),
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
  params: { name: sinkName },
  body: z.strictObject({
    tables: z
      .array(z.strictObject({ schema: z.string().min(1).max(200), table: z.string().min(1).max(200) }))
      .min(1)
      .max(1000)
      .nullable()
      .default(null),
    from: z.union([
      z.strictObject({ lsn }),
      z.strictObject({ time: z.iso.datetime({ offset: true }).transform((text) => new Date(text)) }),
    ]),
  }),
  reply: startedReplay,
  accepted: startedReplay,
  audited: ({ body: { tables, from } }) => ({
    tables: tables?.map(relationName),
    from: 'lsn' in from ? { lsn: formatLsn(from.lsn) } : from,
  }),
  run: async ({ params, body }, deps) => new Accepted(await startReplay(deps, { sink: params.name, ...body })),
});

const offset = z.object({
  name: z.string(),
  type: z.string(),
  applied_lsn: lsnText.nullable().describe('null where this process does not hold the sink'),
  lag_bytes: z.number().nullable(),
  lag_seconds: z.number().nullable(),
  saved_lsn: lsnText.nullable().describe('as it was last noted in the source, by whichever process'),
  saved_at: z.date().nullable(),
});

const list = defineRoute({
  method: 'GET',
  url: '/sinks',
  role: 'viewer',
  summary: 'Sinks, and how far each is',
  reply: z.object({ sinks: z.array(offset) }),
  run: async (_request, deps) => ({ sinks: await offsets(deps) }),
});

const offsetsOf = defineRoute({
  method: 'GET',
  url: '/sinks/:name/offsets',
  role: 'viewer',
  summary: 'How far a sink is',
  params: { name: sinkName },
  reply: offset,
  run: async ({ params }, deps) => {
    const found = (await offsets(deps)).find((one) => one.name === params.name);
    if (found) return found;
    throw new WaltideError('NOT_FOUND', `there is no sink "${params.name}"`, 'GET sinks lists them.');
  },
});

async function offsets({ config, pipeline, sessions }: Deps): Promise<z.input<typeof offset>[]> {
  const marks = await sessions.use((client) => readMarks(client, config.source.slot));
  const held = pipeline.status().sinks;
  const names = new Set([...config.sinks.map(({ name }) => name), ...held.map(({ name }) => name)]);
  return [...names].map((name) => {
    const sink = held.find((one) => one.name === name);
    const mark = marks.get(name);
    return {
      name,
      type: sink?.type ?? config.sinks.find((one) => one.name === name)!.type,
      applied_lsn: sink?.appliedLsn ?? null,
      lag_bytes: sink?.lagBytes ?? null,
      lag_seconds: sink?.lagSeconds ?? null,
      saved_lsn: mark ? formatLsn(mark.lsn) : null,
      saved_at: mark?.at ?? null,
    };
  });
}

export const sinkRoutes = [list, offsetsOf, query, replay];
