import { z } from 'zod';
import { STRATEGIES, type Strategy } from '../../config/strategy.ts';
import { WaltideError } from '../../errors.ts';
import { formatLsn } from '../../event/lsn.ts';
import { mayMask } from '../../protect/rules.ts';
import type { JsonRow, Operation } from '../../write/operation.ts';
import type { Writer } from '../../write/writer.ts';
import { Accepted, type Deps, defineRoute } from '../route.ts';
import { lsnText, reached } from '../schemas/common.ts';

const TIMEOUT_MS_MAX = 300_000;
const COLUMNS_MAX = 1_600;

const consistency = z.enum(['strong', 'eventual', 'weak']);
const type = z.enum(['create', 'update', 'delete']);
const strategy = z.enum(Object.keys(STRATEGIES) as [Strategy, ...Strategy[]]);
/** Values by column; PostgreSQL's own columns are at most 1,600. */
const row = z
  .record(z.string().min(1).max(63), z.json())
  .refine((columns) => Object.keys(columns).length <= COLUMNS_MAX, `has more than ${COLUMNS_MAX} columns`);

const operation = z.object({
  operation_id: z.uuid(),
  table_name: z.string(),
  operation_type: type,
  consistency_level: consistency,
  strategy: strategy.nullable(),
  status: z
    .enum(['queued', 'committed', 'applied', 'failed'])
    .describe('applied: every sink that was asked for has it'),
  primary_key: row.nullable(),
  lsn: lsnText.nullable().describe('the token: GET sync/wait?lsn=… ends when a sink holds the write'),
  sinks: reached,
  attempts: z.number().int(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
  created_at: z.iso.datetime(),
  finished_at: z.iso.datetime().nullable(),
});

const write = defineRoute({
  method: 'POST',
  url: '/sync/operation',
  role: 'operator',
  summary: 'Write a row to the source, with a consistency level',
  description:
    'The write goes to PostgreSQL only; sinks get it by the stream. strong: answered when every sink (or those named) has it, with 202 and the operation where that takes longer than timeout_ms. eventual: answered at commit. weak: answered with 202 once it is durably queued; a worker makes it, exactly once. With an `id` of your own a repeated request writes nothing again.',
  body: z.strictObject({
    table_name: z.string().min(1).max(200).describe('schema.table, or the table alone where that is clear'),
    operation_type: type,
    primary_key: z.json().optional().describe('of the row to update or delete: a value, or an object by column'),
    data: row.optional().describe('values by column; what JSON cannot say as text, as PostgreSQL takes it'),
    consistency_level: consistency.optional().describe('default: writes.consistency'),
    strategy: strategy.optional().describe('real_time: what is on its way does not linger for more'),
    sinks: z
      .array(z.string().min(1).max(200))
      .min(1)
      .max(100)
      .optional()
      .describe('those that a strong write waits for'),
    timeout_ms: z.number().int().min(1).max(TIMEOUT_MS_MAX).optional().describe('default: writes.timeoutMs'),
    id: z.uuid().optional(),
  }),
  reply: operation,
  accepted: operation,
  audited: ({ body: { table_name, operation_type, primary_key, id } }, { source }) => ({
    ...{ table_name, operation_type, operation_id: id },
    primary_key: shownKey(primary_key, table_name, source.protect?.rules ?? []),
  }),
  run: async ({ body }, deps) => {
    const { table_name: table, operation_type, primary_key: primaryKey, consistency_level, timeout_ms, ...rest } = body;
    const written = await writerOf(deps).write({
      ...{ table, type: operation_type },
      ...(primaryKey !== undefined && { primaryKey }),
      ...(rest.data !== undefined && { data: rest.data as JsonRow }),
      ...(consistency_level !== undefined && { consistency: consistency_level }),
      ...(rest.strategy !== undefined && { strategy: rest.strategy }),
      ...(rest.sinks !== undefined && { sinks: rest.sinks }),
      ...(timeout_ms !== undefined && { timeoutMs: timeout_ms }),
      ...(rest.id !== undefined && { id: rest.id }),
    });
    const answer = toAnswer(written);
    const { consistency: level, state } = written;
    const open = state === 'queued' || (level === 'strong' && state === 'committed');
    return open ? new Accepted(answer) : answer;
  },
});

const get = defineRoute({
  method: 'GET',
  url: '/sync/operation/:id',
  role: 'viewer',
  summary: 'What became of a write',
  params: { id: z.uuid() },
  reply: operation,
  run: async ({ params }, deps) => toAnswer(await writerOf(deps).get(params.id)),
});

/** What of a key no rule masks; of a value without a name, whose column only the source knows, nothing where some column may be masked. */
function shownKey(key: unknown, table: string, rules: Parameters<typeof mayMask>[0]): unknown {
  if (key === undefined || key === null) return undefined;
  if (typeof key !== 'object' || Array.isArray(key)) return mayMask(rules, table, null) ? undefined : key;
  const shown = Object.entries(key).filter(([column]) => !mayMask(rules, table, column));
  return shown.length > 0 ? Object.fromEntries(shown) : undefined;
}

function writerOf({ writer }: Deps): Writer {
  if (writer) return writer;
  throw new WaltideError(
    'FORBIDDEN',
    'writes are not enabled in this process',
    'Set writes: { enabled: true } in its configuration.',
  );
}

function toAnswer({
  id,
  table,
  type: operation_type,
  consistency: level,
  state,
  ...rest
}: Operation): z.input<typeof operation> {
  return {
    ...{ operation_id: id, table_name: table, operation_type, consistency_level: level, strategy: rest.strategy },
    ...{ status: state, primary_key: rest.primaryKey as z.input<typeof row> | null, attempts: rest.attempts },
    lsn: rest.lsn === null ? null : formatLsn(rest.lsn),
    sinks: rest.sinks.map(({ name, appliedLsn, reached: there }) => ({
      ...{ name, applied_lsn: formatLsn(appliedLsn), reached: there },
    })),
    error: rest.error,
    created_at: rest.createdAt.toISOString(),
    finished_at: rest.finishedAt?.toISOString() ?? null,
  };
}

export const operationRoutes = [write, get];
