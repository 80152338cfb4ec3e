import { z } from 'zod';
import { WaltideError } from '../../errors.ts';
import { ACCESS_ROLES, API_KEY_NAME, listApiKeys, revokeApiKey } from '../../postgres/api-keys.ts';
import { createApiKey } from '../auth/api-keys.ts';
import { defineRoute } from '../route.ts';
import { snaked } from '../snake.ts';

const apiKey = z.object({
  id: z.string(),
  name: z.string().describe('the audit log calls it by this'),
  role: z.enum(ACCESS_ROLES),
  created_at: z.date(),
  created_by: z.string(),
  expires_at: z.date().nullable(),
  revoked_at: z.date().nullable(),
  last_used_at: z.date().nullable().describe('to the minute'),
});

const list = defineRoute({
  method: 'GET',
  url: '/api-keys',
  role: 'admin',
  summary: 'Keys of this API, also those that were revoked or have expired; never their secrets',
  reply: z.object({ api_keys: z.array(apiKey) }),
  run: async (_request, { sessions }) => ({ api_keys: snaked(await sessions.use(listApiKeys)) }),
});

const create = defineRoute({
  method: 'POST',
  url: '/api-keys',
  role: 'admin',
  summary: 'Make a key; the answer holds it, this once',
  description: 'Only its SHA-256 is stored. Refused where a key of that name is in use.',
  body: z.strictObject({
    name: z.string().regex(API_KEY_NAME, 'must be up to 64 letters, digits, "_", ".", "@" and "-"'),
    role: z.enum(ACCESS_ROLES),
    expires_at: z.iso
      .datetime({ offset: true })
      .refine((at) => Date.parse(at) > Date.now(), 'lies in the past')
      .nullable()
      .default(null)
      .describe('null: until it is revoked'),
  }),
  reply: apiKey.extend({ key: z.string().describe('as `Authorization: Bearer`; it cannot be shown again') }),
  audited: ({ body: { name, role, expires_at } }) => ({ name, role, expires_at }),
  run: ({ body: { name, role, expires_at }, principal }, { sessions }) =>
    sessions.use(async (client) => {
      const expiresAt = expires_at === null ? null : new Date(expires_at);
      const { key, text } = await createApiKey(client, { name, role, createdBy: principal.name, expiresAt });
      return { ...snaked(key), key: text };
    }),
});

const revoke = defineRoute({
  method: 'DELETE',
  url: '/api-keys/:key',
  role: 'admin',
  summary: 'Take a key back, for good',
  description: 'It works for at most five more seconds. What runs that it has started goes on.',
  params: { key: z.string().regex(API_KEY_NAME, 'is neither name nor id of a key').describe('its name or id') },
  reply: apiKey,
  run: async ({ params }, { sessions }) => {
    const revoked = await sessions.use((client) => revokeApiKey(client, params.key));
    if (revoked) return snaked(revoked);
    throw new WaltideError('NOT_FOUND', `there is no key "${params.key}" that is in use`, 'GET api-keys lists them.');
  },
});

export const apiKeyRoutes = [list, create, revoke];
