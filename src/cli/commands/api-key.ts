import { Command, Option } from 'commander';
import { createApiKey } from '../../api/auth/api-keys.ts';
import { userName } from '../../api/auth/user-name.ts';
import { toJson } from '../../api/json.ts';
import { WaltideError } from '../../errors.ts';
import {
  ACCESS_ROLES,
  type AccessRole,
  API_KEY_NAME,
  type ApiKey,
  listApiKeys,
  revokeApiKey,
} from '../../postgres/api-keys.ts';
import { migrate } from '../../postgres/control.ts';
import { withSession } from '../../postgres/session.ts';
import { lifetimeMs } from '../arguments.ts';
import type { CliContext } from '../context.ts';
import { formatTable, printable } from '../output.ts';

interface CreateOptions {
  readonly role: AccessRole;
  readonly expires?: number;
}

/** `waltide api-key create | list | revoke`. */
export function apiKeyCommand(context: CliContext): Command {
  const parent = new Command('api-key').description('Keys of the REST API: who may use it, and for what.').addHelpText(
    'after',
    `
A key is shown once, when it is made; the source's schema "waltide" holds its hash alone. A revoked key works for at most
five more seconds.

Examples:
  waltide api-key create grafana --role viewer
  waltide api-key create deploy --role operator --expires 90d
  waltide api-key list
  waltide api-key revoke grafana`,
  );
  return parent.addCommand(createCommand(context)).addCommand(listCommand(context)).addCommand(revokeCommand(context));
}

function createCommand(context: CliContext): Command {
  return new Command('create')
    .description('Make a key and print it, once.')
    .argument('<name>', 'who it is for; the audit log calls it by this')
    .addOption(
      new Option('--role <role>', 'viewer: states; operator: also rows, and starting work; admin: everything')
        .choices(ACCESS_ROLES)
        .default('viewer'),
    )
    .option('--expires <time>', 'how long it is good for: 12h, 90d (default: until revoked)', lifetimeMs)
    .addHelpText('after', '\nExamples:\n  export WALTIDE_API_KEY=$(waltide api-key create deploy --role operator)')
    .action(async (name: string, { role, expires }: CreateOptions, command: Command) => {
      const { config, json } = await context.load(command);
      if (!API_KEY_NAME.test(name))
        throw new WaltideError(
          'USAGE',
          `"${printable(name)}" is no name for a key`,
          'Use up to 64 letters, digits, "_", ".", "@" and "-".',
        );
      const expiresAt = expires === undefined ? null : new Date(Date.now() + expires);
      const { key, text } = await withSession(config.source, 'api-key', async (client) => {
        await migrate(client);
        return createApiKey(client, { name, role, createdBy: userName(), expiresAt });
      });
      if (json) return context.print(toJson({ ok: true, key: text, ...key }, 2));
      context.print(text);
      context.note(`key "${name}" (${role}) is stored as a hash: it cannot be shown again`);
    });
}

function listCommand(context: CliContext): Command {
  return new Command('list')
    .description('All keys, also those that were revoked or have expired.')
    .addHelpText('after', '\nExamples:\n  waltide api-key list --json')
    .action(async (_options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const keys = await withSession(config.source, 'api-key', listApiKeys);
      if (json) return context.print(toJson(keys, 2));
      if (keys.length === 0) return context.print('no keys yet; make one with `waltide api-key create NAME`');
      const titles = ['name', 'id', 'role', 'state', 'created', 'by', 'last used'];
      context.print(
        formatTable(
          titles.map((title) => ({ title })),
          keys.map(cells),
        ),
      );
    });
}

function cells({ name, id, role, createdAt, createdBy, lastUsedAt, ...key }: ApiKey): string[] {
  const moment = (at: Date | null): string => at?.toISOString().slice(0, 16) ?? '';
  return [name, id, role, stateOf(key), moment(createdAt), printable(createdBy), moment(lastUsedAt) || 'never'];
}

function stateOf({ revokedAt, expiresAt }: Pick<ApiKey, 'revokedAt' | 'expiresAt'>): string {
  if (revokedAt) return `revoked ${revokedAt.toISOString().slice(0, 16)}`;
  if (!expiresAt) return 'good';
  return `${expiresAt.getTime() <= Date.now() ? 'expired' : 'good until'} ${expiresAt.toISOString().slice(0, 16)}`;
}

function revokeCommand(context: CliContext): Command {
  return new Command('revoke')
    .description('Take a key back, for good.')
    .argument('<name>', 'its name or id')
    .addHelpText('after', '\nExamples:\n  waltide api-key revoke grafana')
    .action(async (name: string, _options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const key = await withSession(config.source, 'api-key', (client) => revokeApiKey(client, name));
      if (!key)
        throw new WaltideError(
          'NOT_FOUND',
          `there is no key "${printable(name)}" that is in use`,
          'See `waltide api-key list`.',
        );
      if (json) return context.print(toJson({ ok: true, ...key }, 2));
      context.print(`key "${key.name}" (${key.id}) is revoked`);
    });
}
