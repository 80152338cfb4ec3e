import { Command, Option } from 'commander';
import { toJson } from '../api/json.ts';
import { VERSION } from '../version.ts';
import { alertsCommand } from './commands/alerts.ts';
import { apiKeyCommand } from './commands/api-key.ts';
import { backupCommand } from './commands/backup.ts';
import { configCommand } from './commands/config.ts';
import { dashboardCommand } from './commands/dashboard.ts';
import { deadLetterCommand } from './commands/dead-letter.ts';
import { demoCommand } from './commands/demo.ts';
import { doctorCommand } from './commands/doctor.ts';
import { exportCommand } from './commands/export.ts';
import { historyCommand } from './commands/history.ts';
import { instancesCommand } from './commands/instances.ts';
import { publicationCommand } from './commands/publication.ts';
import { queryCommand } from './commands/query.ts';
import { replayCommand } from './commands/replay.ts';
import { restoreCommand } from './commands/restore.ts';
import { runCommand } from './commands/run.ts';
import { scheduleCommand } from './commands/schedule.ts';
import { schemaCommand } from './commands/schema.ts';
import { setupCommand } from './commands/setup.ts';
import { slotCommand } from './commands/slot.ts';
import { snapshotCommand } from './commands/snapshot.ts';
import { statsCommand } from './commands/stats.ts';
import { statusCommand } from './commands/status.ts';
import { tailCommand } from './commands/tail.ts';
import { validateCommand } from './commands/validate.ts';
import { waitCommand } from './commands/wait.ts';
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

/** The whole command line. `waltide` alone prints the help. */
export function createProgram(context: CliContext): Command {
  const program = new Command('waltide')
    .description('Change data capture from PostgreSQL: every row, every value, exactly once.')
    .version(VERSION, '--version', 'print the version')
    .option('--config <file>', 'the configuration file')
    .option('--json', 'machine-readable output on stdout')
    .addOption(new Option('--log-level <level>', 'least level that is logged to stderr').choices(LEVELS))
    .addHelpText('after', HELP)
    .showHelpAfterError('(see `waltide --help`)');
  for (const command of [
    runCommand(context),
    setupCommand(context),
    doctorCommand(context),
    statusCommand(context),
    dashboardCommand(context),
    tailCommand(context),
    queryCommand(context),
    exportCommand(context),
    backupCommand(context),
    restoreCommand(context),
    waitCommand(context),
    validateCommand(context),
    replayCommand(context),
    slotCommand(context),
    snapshotCommand(context),
    deadLetterCommand(context),
    historyCommand(context),
    statsCommand(context),
    instancesCommand(context),
    alertsCommand(context),
    scheduleCommand(context),
    publicationCommand(context),
    schemaCommand(context),
    apiKeyCommand(context),
    configCommand(),
    demoCommand(context),
  ])
    program.addCommand(command);
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
  const program = createProgram(context);
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
