import { Command } from 'commander';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { connect } from '../../postgres/connection.ts';
import { migrate, readSlotRecord } from '../../postgres/control.ts';
import { installDdlCapture, removeDdlCapture } from '../../postgres/ddl-capture.ts';
import type { CliContext } from '../context.ts';
import { report } from './run.ts';

interface SetupOptions {
  readonly recopy?: boolean;
  readonly ddl?: boolean;
}

/** `waltide setup`: everything before streaming, then stop. */
export function setupCommand(context: CliContext): Command {
  return new Command('setup')
    .description('Create schema, publication and slot, copy existing rows, and stop. Safe to repeat.')
    .option('--recopy', 'drop the slot and copy every table anew, replacing rows in all sinks')
    .option('--ddl', 'install the capture trigger for schema changes, or bring it up to date (needs a superuser)')
    .option('--no-ddl', 'take the capture trigger away')
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
  waltide setup --recopy`,
    )
    .action(async (options: SetupOptions, command: Command) => {
      const loaded = await context.load(command);
      if (options.ddl !== undefined && !options.recopy && (await changeTrigger(loaded.config, options.ddl))) {
        const words = options.ddl ? 'the capture trigger is installed' : 'the capture trigger is taken away';
        return context.print(loaded.json ? toJson({ ddl: options.ddl }, 2) : words);
      }
      const { runPipeline } = await import('../run-pipeline.ts');
      const result = await runPipeline(context, loaded, {
        role: 'all',
        until: 'copied',
        recopy: options.recopy ?? false,
        metrics: false,
      });
      report(context, result, 'copied', loaded.json);
    });
}

/** Resolves with true where nothing is left to be set up. */
async function changeTrigger({ source }: Config, install: boolean): Promise<boolean> {
  const client = await connect(source.url, {
    applicationName: `waltide ${source.slot} setup`,
    timeoutMs: source.connectTimeoutMs,
  });
  try {
    await migrate(client);
    await (install ? installDdlCapture(client) : removeDdlCapture(client));
    const record = await readSlotRecord(client, source.slot);
    return !install || record?.state === 'streaming';
  } finally {
    await client.end().catch(() => {});
  }
}
