import { Command } from 'commander';
import { stringify } from 'yaml';
import { loadConfig } from '../../config/load.ts';
import { maskedConfig } from '../../config/mask.ts';
import { configJsonSchema, configKeys, formatPath } from '../../config/shape.ts';
import { loadProtection } from '../../protect/protection.ts';

/** Options that stand before or after the command: `waltide --config FILE config check --json`. */
interface GlobalOptions {
  readonly config?: string;
  readonly json?: boolean;
}

/** `waltide config check | schema | print`. Nothing here connects anywhere. Faults leave as ConfigError. */
export function configCommand(): Command {
  const command = new Command('config').description(
    'Check, print and describe the configuration; connects to nothing.',
  );
  command.addCommand(checkCommand()).addCommand(schemaCommand()).addCommand(printCommand());
  return command.addHelpText(
    'after',
    `
Examples:
  waltide config check                       all faults at once, each with its line
  waltide config check --config prod.yaml --json
  waltide config schema > waltide.schema.json
  waltide config print                       what is in force, secrets masked`,
  );
}

function checkCommand(): Command {
  return new Command('check')
    .description(
      'List every fault of the configuration, each with its line and remedy. Exit code 2 where there is one.',
    )
    .addHelpText(
      'after',
      `
Examples:
  waltide config check
  waltide config check --config prod.yaml
  WALTIDE_SOURCE_URL=postgres://u:p@db/shop waltide config check --json`,
    )
    .action(async (_options: unknown, command: Command) => {
      const { config: file, json } = command.optsWithGlobals<GlobalOptions>();
      // Faults leave as ConfigError, which the command line prints, as JSON where asked for.
      const loaded = await loadConfig({ file });
      // Filters, keys and modules have faults of their own.
      await loadProtection(loaded.config.source);
      print(json ? JSON.stringify({ ok: true, file: loaded.file }) : `${loaded.file ?? 'the environment'}: no faults`);
    });
}

function schemaCommand(): Command {
  return new Command('schema')
    .description('Print the JSON Schema of the configuration, for editors and other checkers.')
    .option('--variables', 'list the environment variable of every key instead')
    .addHelpText(
      'after',
      `
Examples:
  waltide config schema > waltide.schema.json
  waltide config schema --variables

In an editor with YAML support, put this on the first line of waltide.yaml:
  # yaml-language-server: $schema=./waltide.schema.json`,
    )
    .action((options: { variables?: boolean }, command: Command) => {
      const { json } = command.optsWithGlobals<GlobalOptions>();
      if (!options.variables) return print(JSON.stringify(configJsonSchema(), null, 2));
      const keys = configKeys.map(({ path, variable, shape }) => ({
        path: formatPath(path),
        variable,
        description: shape.description,
      }));
      if (json) return print(JSON.stringify(keys, null, 2));
      const width = Math.max(...keys.map((key) => key.variable.length));
      print(keys.map((key) => `${key.variable.padEnd(width)}  ${key.path}`).join('\n'));
    });
}

function printCommand(): Command {
  return new Command('print')
    .description('Print the configuration in force: file, environment and defaults. Secrets are masked.')
    .addHelpText(
      'after',
      `
Examples:
  waltide config print
  waltide config print --json | jq .transport`,
    )
    .action(async (_options: unknown, command: Command) => {
      const { config: file, json } = command.optsWithGlobals<GlobalOptions>();
      const shown = maskedConfig((await loadConfig({ file })).config);
      print(json ? JSON.stringify(shown, null, 2) : stringify(shown, { lineWidth: 0 }).trimEnd());
    });
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
