import { z } from 'zod';
import { formatLsn } from '../../event/lsn.ts';
import { type RecordedChange, readHistory, readLastChanges } from '../../postgres/schema-history.ts';
import { defineRoute } from '../route.ts';
import { lsnText, table, tableName } from '../schemas/common.ts';

const change = z.object({
  lsn: lsnText,
  seq: z.number().int(),
  table_oid: z.number().int(),
  schema: z.string(),
  table: z.string(),
  command: z.string().nullable(),
  old: z.unknown().describe('the table before; null where it was new'),
  new: z.unknown().describe('the table after; null where it was dropped'),
  rewritten: z.unknown(),
  committed_at: z.date(),
});

const latest = defineRoute({
  method: 'GET',
  url: '/schema-history',
  role: 'viewer',
  summary: 'The last schema change of each table',
  reply: z.object({ changes: z.array(change) }),
  run: async (_request, { config, sessions }) => ({
    changes: (await sessions.use((client) => readLastChanges(client, config.source.slot))).map(shown),
  }),
});

const ofTable = defineRoute({
  method: 'GET',
  url: '/schema-history/:table',
  role: 'viewer',
  summary: 'Schema changes of a table, oldest first, also from before it was renamed',
  params: { table },
  reply: z.object({ changes: z.array(change) }),
  run: async ({ params }, { config, sessions }) => {
    const name = tableName(params.table);
    return { changes: (await sessions.use((client) => readHistory(client, config.source.slot, name))).map(shown) };
  },
});

function shown({ oid, position, committedAt, schema, table: name, command, rewritten, ...sides }: RecordedChange) {
  return {
    lsn: formatLsn(position.commitLsn),
    seq: position.seq,
    table_oid: oid,
    ...{ schema, table: name, command, old: sides.old, new: sides.new, rewritten },
    committed_at: committedAt,
  };
}

export const schemaHistoryRoutes = [latest, ofTable];
