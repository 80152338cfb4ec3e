import { Command, Option } from 'commander';
import { toJson } from '../api/json.ts';
import { VERSION } from '../version.ts';
import type { CliContext } from './context.ts';
import { describeFailure } from './failure.ts';

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];

const HELP = `
Results go to stdout, everything else to stderr. --json works with every command.

Exit codes:
  0    done; also a run that was stopped by Ctrl-C or SIGTERM and drained in order
  1    failed, a check of \`doctor\` failed, or nothing runs (\`status\`, \`query\`)
  2    wrong usage or configuration
  3    the work is done, but a table is stopped (\`run --until-caught-up\`, \`setup\`, \`status\`)
  130  ended by SIGINT (143 by SIGTERM) before its goal, or by a second one while draining

Configuration: --config FILE, else $WALTIDE_CONFIG, else waltide.yaml, waltide.yml or waltide.json in the working
directory. Every key can be overridden by an environment variable: \`waltide config schema --variables\` lists them.

Control address: a running process leaves {pid, url, token} in <stateDir>/<slot>.<role>.<pid>.json, readable by its
user alone, and answers the whole API (see \`api\` in the configuration) on 127.0.0.1 with that token; \`status\`,
\`dashboard\`, \`query\` and \`replay\` use it.

Examples:
  waltide doctor                         is everything there that is needed?
  waltide run                            copy, then stream
  waltide run --until-caught-up          once, for cron
  waltide dashboard                      how everything stands, live
  waltide tail --format pretty           watch changes, beside a running process
  waltide query 'select count(*) from orders'
  waltide status --json`;

/** In the order of the help. Each is loaded when it is used: together they take a tenth of a second. */
const COMMANDS: readonly (readonly [name: string, load: () => Promise<(context: CliContext) => Command>])[] = [
  ['run', async () => (await import('./commands/run.ts')).runCommand],
  ['setup', async () => (await import('./commands/setup.ts')).setupCommand],
  ['doctor', async () => (await import('./commands/doctor.ts')).doctorCommand],
  ['status', async () => (await import('./commands/status.ts')).statusCommand],
  ['dashboard', async () => (await import('./commands/dashboard.ts')).dashboardCommand],
  ['tail', async () => (await import('./commands/tail.ts')).tailCommand],
  ['query', async () => (await import('./commands/query.ts')).queryCommand],
  ['export', async () => (await import('./commands/export.ts')).exportCommand],
  ['backup', async () => (await import('./commands/backup.ts')).backupCommand],
  ['restore', async () => (await import('./commands/restore.ts')).restoreCommand],
  ['wait', async () => (await import('./commands/wait.ts')).waitCommand],
  ['validate', async () => (await import('./commands/validate.ts')).validateCommand],
  ['replay', async () => (await import('./commands/replay.ts')).replayCommand],
  ['slot', async () => (await import('./commands/slot.ts')).slotCommand],
  ['snapshot', async () => (await import('./commands/snapshot.ts')).snapshotCommand],
  ['dead-letter', async () => (await import('./commands/dead-letter.ts')).deadLetterCommand],
  ['history', async () => (await import('./commands/history.ts')).historyCommand],
  ['stats', async () => (await import('./commands/stats.ts')).statsCommand],
  ['instances', async () => (await import('./commands/instances.ts')).instancesCommand],
  ['alerts', async () => (await import('./commands/alerts.ts')).alertsCommand],
  ['schedule', async () => (await import('./commands/schedule.ts')).scheduleCommand],
  ['publication', async () => (await import('./commands/publication.ts')).publicationCommand],
  ['schema', async () => (await import('./commands/schema.ts')).schemaCommand],
  ['api-key', async () => (await import('./commands/api-key.ts')).apiKeyCommand],
  ['config', async () => (await import('./commands/config.ts')).configCommand],
  ['demo', async () => (await import('./commands/demo.ts')).demoCommand],
];

/** The command line: all of it, or with the one command that is `wanted`. `waltide` alone prints the help. */
export async function createProgram(context: CliContext, wanted?: string): Promise<Command> {
  const program = new Command('waltide')
    .description('Change data capture from PostgreSQL: every row, every value, exactly once.')
    .version(VERSION, '--version', 'print the version')
    .option('--config <file>', 'the configuration file')
    .option('--json', 'machine-readable output on stdout')
    .addOption(new Option('--log-level <level>', 'least level that is logged to stderr').choices(LEVELS))
    .addHelpText('after', HELP)
    .showHelpAfterError('(see `waltide --help`)');
  const one = COMMANDS.filter(([name]) => name === wanted);
  for (const [, load] of one.length > 0 ? one : COMMANDS) {
    const command = await load();
    program.addCommand(command(context));
  }
  each(program, (command) => {
    command.exitOverride().configureHelp({ showGlobalOptions: true });
    command.configureOutput({
      writeOut: (text) => context.io.stdout.write(text),
      writeErr: (text) => context.io.stderr.write(text),
    });
  });
  return program;
}

function each(command: Command, visit: (command: Command) => void): void {
  visit(command);
  for (const child of command.commands) each(child, visit);
}

/** Runs one command line and resolves with the exit code. Never rejects. */
export async function runCli(argv: readonly string[], context: CliContext): Promise<number> {
  const program = await createProgram(context, argv[0]);
  if (argv.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return context.exitCode || Number(process.exitCode ?? 0);
  } catch (error) {
    const debug = argv.some(
      (word, i) =>
        /^--log-level=(debug|trace)$/.test(word) ||
        (word === '--log-level' && /^(debug|trace)$/.test(argv[i + 1] ?? '')),
    );
    const failure = describeFailure(error, debug);
    if (failure.text) context.note(failure.text);
    if (failure.json && argv.includes('--json')) context.print(toJson(failure.json, 2));
    return failure.exitCode;
  }
}
