import { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { report } from './run.ts';

/** `waltide setup`: everything before streaming, then stop. */
export function setupCommand(context: CliContext): Command {
  return new Command('setup')
    .description('Create schema, publication and slot, copy existing rows, and stop. Safe to repeat.')
    .option('--recopy', 'drop the slot and copy every table anew, replacing rows in all sinks')
    .addHelpText(
      'after',
      `
From then on the slot retains WAL until \`waltide run\` streams it.

Examples:
  waltide setup
  waltide setup --recopy`,
    )
    .action(async (options: { recopy?: boolean }, command: Command) => {
      const loaded = await context.load(command);
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
