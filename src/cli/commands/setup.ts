import { Command, Option } from 'commander';
import type pg from 'pg';
import { toJson } from '../../api/json.ts';
import { urlPerHost } from '../../config/hosts.ts';
import type { Config } from '../../config/schema.ts';
import { messageOf } from '../../errors.ts';
import { listTables } from '../../postgres/catalog.ts';
import { migrate, readSlotRecord } from '../../postgres/control.ts';
import { installDdlCapture, removeDdlCapture } from '../../postgres/ddl-capture.ts';
import { selectTables } from '../../postgres/publication.ts';
import { connectSource, withSession } from '../../postgres/session.ts';
import type { CliContext } from '../context.ts';
import { grantsSql, PLATFORMS, type Platform, platformOf } from '../setup/grants.ts';
import { report } from './run.ts';

interface SetupOptions {
  readonly recopy?: boolean;
  readonly ddl?: boolean;
  readonly grants?: boolean;
  readonly platform?: Platform;
}

/** `waltide setup`: everything before streaming, then stop. */
export function setupCommand(context: CliContext): Command {
  return new Command('setup')
    .description('Create schema, publication and slot, copy existing rows, and stop. Safe to repeat.')
    .option('--recopy', 'drop the slot and copy every table anew, replacing rows in all sinks')
    .option('--ddl', 'install the capture trigger for schema changes, or bring it up to date (needs a superuser)')
    .option('--no-ddl', 'take the capture trigger away')
    .option('--grants', 'print the SQL that gives the role of source.url the least it needs, and do nothing')
    .addOption(
      new Option('--platform <name>', 'with --grants: whose PostgreSQL it is; default: found out').choices(PLATFORMS),
    )
    .addHelpText(
      'after',
      `
From then on the slot retains WAL until \`waltide run\` streams it.

The capture trigger writes a small message into the WAL for every change of a table's schema. With it sinks rename what is
renamed, give rows that are there the default of a new column, and know when values changed without a word in the WAL.
--ddl and --no-ddl work beside a running process, and do nothing else where the set-up is complete.

Examples:
  waltide setup
  waltide setup --ddl
  waltide setup --grants > grants.sql
  waltide setup --recopy`,
    )
    .action(async (options: SetupOptions, command: Command) => {
      const loaded = await context.load(command);
      if (options.grants) return context.print(await grants(context, loaded.config, options.platform));
      if (options.ddl !== undefined && !options.recopy && (await changeTrigger(loaded.config, options.ddl))) {
        const words = options.ddl ? 'the capture trigger is installed' : 'the capture trigger is taken away';
        return context.print(loaded.json ? toJson({ ddl: options.ddl }, 2) : words);
      }
      const { runPipeline } = await import('../run-pipeline.ts');
      const result = await runPipeline(context, loaded, {
        role: 'all',
        until: 'copied',
        recopy: options.recopy ?? false,
        serves: false,
      });
      report(context, result, 'copied', loaded.json);
    });
}

/** Resolves with true where nothing is left to be set up. */
function changeTrigger({ source }: Config, install: boolean): Promise<boolean> {
  return withSession(source, 'setup', async (client) => {
    await migrate(client);
    await (install ? installDdlCapture(client) : removeDdlCapture(client));
    const record = await readSlotRecord(client, source.slot);
    return !install || record?.state === 'streaming';
  });
}

/** The server is asked for its tables where the login works already; otherwise the patterns must do. */
async function grants(context: CliContext, config: Config, platform: Platform | undefined): Promise<string> {
  const { source } = config;
  const writes = config.writes.enabled;
  const url = new URL(urlPerHost(source.primaryUrl ?? source.url)[0]!);
  const role = decodeURIComponent(url.username);
  const database = decodeURIComponent(url.pathname.slice(1)) || role;
  let client: pg.Client;
  try {
    client = await connectSource(source, 'setup');
  } catch (error) {
    context.note(`the server cannot be asked which tables there are: ${messageOf(error)}`);
    return grantsSql({
      source,
      writes,
      role,
      database,
      platform: platform ?? platformOf(url.hostname, []),
      tables: [],
      keyless: [],
    });
  }
  try {
    const { tables, keyless } = selectTables(await listTables(client), source, true);
    const { rows } = await client.query<{ role: string }>('SELECT rolname AS role FROM pg_catalog.pg_roles');
    return grantsSql({
      source,
      writes,
      role,
      database,
      platform:
        platform ??
        platformOf(
          url.hostname,
          rows.map((row) => row.role),
        ),
      tables,
      keyless: keyless.map(({ schema, table }) => `${schema}.${table}`),
    });
  } finally {
    await client.end().catch(() => {});
  }
}
