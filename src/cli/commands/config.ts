import { Command } from 'commander';
import { stringify } from 'yaml';
import { ConfigError } from '../../config/faults.ts';
import { loadConfig } from '../../config/load.ts';
import { maskedConfig } from '../../config/mask.ts';
import { configJsonSchema, configKeys, formatPath } from '../../config/shape.ts';

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
  return subcommand(
    'check',
    'List every fault of the configuration, with line and remedy. Exit code as for any invalid configuration.',
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
      try {
        const loaded = await loadConfig({ file });
        const from = loaded.file ?? 'the environment';
        print(json ? JSON.stringify({ ok: true, file: loaded.file, faults: [] }) : `${from}: no faults`);
      } catch (error) {
        if (!json || !(error instanceof ConfigError)) throw error;
        print(JSON.stringify({ ok: false, file: file ?? null, faults: error.faults }, null, 2));
        process.exitCode = 1;
      }
    });
}

function schemaCommand(): Command {
  return subcommand('schema', 'Print the JSON Schema of the configuration, for editors and other checkers.')
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
  return subcommand('print', 'Print the configuration in force: file, environment and defaults. Secrets are masked.')
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

function subcommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option('--config <file>', 'the configuration file')
    .option('--json', 'machine-readable output');
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
