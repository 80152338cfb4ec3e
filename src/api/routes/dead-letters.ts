import { z } from 'zod';
import { askDiscard, askRetry, oneLetter } from '../../dead-letter/requests.ts';
import { countLetters, type DeadLetter, LETTER_STATES, newestLetters } from '../../dead-letter/table.ts';
import { formatPosition } from '../../event/position.ts';
import { defineRoute } from '../route.ts';

const LIMIT_MAX = 1_000;

const id = z
  .string()
  .regex(/^[1-9]\d{0,14}$/, 'must be the id of a letter')
  .transform(Number);
const which = {
  sink: z.string().min(1).max(200).optional().describe('* for what never came into Kafka'),
  table: z.string().min(1).max(200).optional().describe('schema.table; * and ? match within a name'),
  code: z.string().min(1).max(100).optional().describe('error code'),
};
const reason = z.string().trim().min(1).max(1000).optional().describe('why, for who reads the record later');
const values = z.record(z.string(), z.json()).nullable().describe('texts by column');

const letter = z.object({
  id: z.number().int(),
  sink: z.string(),
  table_name: z.string(),
  row: z.array(z.string().nullable()).describe('its key, or all of it where there is none'),
  operation: z.string(),
  position: z.string(),
  committed_at: z.iso.datetime(),
  before: values,
  after: values,
  error: z.object({ class: z.string(), code: z.string(), message: z.string() }),
  attempts: z.number().int(),
  state: z.enum(LETTER_STATES),
  superseded_by: z.number().int().nullable(),
  closed_reason: z.string().nullable(),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
  closed_at: z.iso.datetime().nullable(),
});

const list = defineRoute({
  method: 'GET',
  url: '/sync/dead-letter-queue',
  // Letters are rows.
  role: 'operator',
  summary: 'Changes that a sink refused, the newest first',
  query: {
    ...which,
    state: z.enum(LETTER_STATES).optional().describe('default: open and retrying'),
    since: z.iso.datetime().optional(),
    limit: z.coerce.number().int().min(1).max(LIMIT_MAX).default(100),
  },
  reply: z.object({ total: z.number().int(), letters: z.array(letter) }),
  run: async ({ query: { limit, since, state, ...rest } }, { config, sessions }) => {
    const filter = {
      ...given(rest),
      states: state ? [state] : (['open', 'retrying'] as const),
      ...(since !== undefined && { since: new Date(since) }),
    };
    const { slot } = config.source;
    return sessions.use(async (client) => ({
      total: await countLetters(client, slot, filter),
      letters: (await newestLetters(client, slot, filter, limit)).map(toAnswer),
    }));
  },
});

const show = defineRoute({
  method: 'GET',
  url: '/sync/dead-letter-queue/:id',
  role: 'operator',
  summary: 'One of them',
  params: { id },
  reply: letter,
  run: ({ params }, { config, sessions }) =>
    sessions.use(async (client) => toAnswer(await oneLetter(client, config.source.slot, params.id))),
});

const asked = z.object({
  asked: z.array(z.number().int()).describe('letters that the process which holds the sink applies'),
  reread: z.array(z.number().int()).describe('letters whose rows are read anew'),
});

const retry = defineRoute({
  method: 'POST',
  url: '/sync/dead-letter-queue/:id/retry',
  role: 'operator',
  summary: 'Apply one again',
  description:
    'Refused where a later change of the row was applied, unless forced. GET the letter to see what became of it.',
  params: { id },
  query: { force: z.enum(['true', 'false']).optional() },
  reply: asked,
  run: ({ params, query }, { config, sessions }) =>
    sessions.use((client) => askRetry(client, config.source.slot, { ids: [params.id] }, query.force === 'true')),
});

const retryAll = defineRoute({
  method: 'POST',
  url: '/sync/dead-letter-queue/retry',
  role: 'operator',
  summary: 'Apply every open one of these again, in the order of their changes',
  body: z.strictObject(which),
  reply: asked,
  audited: ({ body }) => body,
  run: ({ body }, { config, sessions }) =>
    sessions.use((client) => askRetry(client, config.source.slot, given(body), false)),
});

const discard = defineRoute({
  method: 'DELETE',
  url: '/sync/dead-letter-queue/:id',
  role: 'operator',
  summary: 'Give one up: it stays on record with the reason',
  params: { id },
  description: 'The reason comes in the body or in the query; without one it is: discarded by … over the API.',
  query: { reason },
  body: z.strictObject({ reason }).optional(),
  audited: ({ body }) => ({ ...body }),
  reply: z.object({ discarded: z.array(z.number().int()) }),
  run: ({ params, query, body, principal }, { config, sessions }) => {
    // The older systems' scripts give none.
    const why = body?.reason ?? query.reason ?? `discarded by ${principal.name} over the API`;
    return sessions.use(async (client) => ({
      discarded: await askDiscard(client, config.source.slot, { ids: [params.id] }, why),
    }));
  },
});

type Which = { [K in keyof typeof which]?: string | undefined };

function given({ sink, table, code }: Which): { sink?: string; table?: string; code?: string } {
  return {
    ...(sink !== undefined && { sink }),
    ...(table !== undefined && { table: table.includes('.') ? table : `public.${table}` }),
    ...(code !== undefined && { code }),
  };
}

function toAnswer(of: DeadLetter): z.input<typeof letter> {
  return {
    ...{ id: of.id, sink: of.sink, table_name: `${of.schema}.${of.table}`, row: JSON.parse(of.row), operation: of.op },
    ...{ position: formatPosition(of.position), committed_at: of.committedAt.toISOString() },
    ...{ before: of.before as z.input<typeof values>, after: of.after as z.input<typeof values> },
    ...{ error: { class: of.errorClass, code: of.code, message: of.message }, attempts: of.attempts, state: of.state },
    ...{ superseded_by: of.supersededBy, closed_reason: of.closedReason },
    ...{ created_at: of.createdAt.toISOString(), updated_at: of.updatedAt.toISOString() },
    closed_at: of.closedAt?.toISOString() ?? null,
  };
}

export const deadLetterRoutes = [list, show, retryAll, retry, discard];
