import { Command, Option } from 'commander';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { migrate, readSlotRecord } from '../../postgres/control.ts';
import { installDdlCapture, removeDdlCapture } from '../../postgres/ddl-capture.ts';
import { withSession } from '../../postgres/session.ts';
import { type CliContext, EXIT, type Loaded } from '../context.ts';
import type { CheckResult } from '../doctor/check.ts';
import { paintFor, printable } from '../output.ts';
import { grants } from '../setup/ask-grants.ts';
import { PLATFORMS, type Platform } from '../setup/grants.ts';
import type { Step } from '../setup/steps.ts';
import { checksTable, setupChecks } from '../setup/verify.ts';
import { examine } from './doctor.ts';
import { report } from './run.ts';

interface SetupOptions {
  readonly recopy?: boolean;
  readonly ddl?: boolean;
  readonly grants?: boolean;
  readonly platform?: Platform;
  readonly role?: string;
  readonly all?: boolean;
  readonly createDuckdb?: boolean;
  readonly setupCdc?: boolean;
  readonly initializeServices?: boolean;
  readonly verifySetup?: boolean;
}

const PARTS = {
  all: '--all',
  setupCdc: '--setup-cdc',
  createDuckdb: '--create-duckdb',
  initializeServices: '--initialize-services',
  verifySetup: '--verify-setup',
} as const;

const HELP = `
Without a part it copies existing rows, too; from then on the slot retains WAL until \`waltide run\` streams it. --all and the
parts copy nothing: the first \`waltide run\` does. They can be repeated, combined, and run by several processes at once.

The capture trigger writes a small message into the WAL for every change of a table's schema. With it sinks rename what is
renamed, give rows that are there the default of a new column, and know when values changed without a word in the WAL.
--ddl and --no-ddl work beside a running process, and do nothing else after \`setup\`, --all or --setup-cdc: they copy nothing
then. --setup-cdc installs it where the role may; with --ddl it must.

Exit code of --verify-setup (and --all): 1 where a check fails.

Examples:
  waltide setup
  waltide setup --all
  waltide setup --verify-setup --json
  waltide setup --ddl
  waltide setup --grants --role waltide > grants.sql
  waltide setup --recopy`;

/** `waltide setup`: everything before streaming, then stop. */
export function setupCommand(context: CliContext): Command {
  return new Command('setup')
    .description('Create schema, publication and slot, copy existing rows, and stop. Safe to repeat.')
    .option(
      '--all',
      'set up everything but the rows: --setup-cdc, --create-duckdb, --initialize-services; then verify it',
    )
    .option('--setup-cdc', 'control schema, publication, slot, and the capture trigger where the role may')
    .option('--create-duckdb', 'the files of all DuckDB sinks, with their bookkeeping')
    .option('--initialize-services', 'what runs beside the pipeline: its tables and the schedules')
    .option(
      '--verify-setup',
      'check all of it, and what `waltide doctor` checks; a table, and what to do about each failure',
    )
    .option('--recopy', 'drop the slot and copy every table anew, replacing rows in all sinks')
    .option('--ddl', 'install the capture trigger for schema changes, or bring it up to date (needs a superuser)')
    .option('--no-ddl', 'take the capture trigger away')
    .option('--grants', 'print the SQL that gives a role the least it needs, and do nothing')
    .option(
      '--role <name>',
      'with --grants: which role; default: that of source.url, or waltide where that is a superuser',
    )
    .addOption(
      new Option('--platform <name>', 'with --grants: whose PostgreSQL it is; default: found out').choices(PLATFORMS),
    )
    .addHelpText('after', HELP)
    .action(async (options: SetupOptions, command: Command) => {
      const conflict = conflictOf(options);
      if (conflict !== null) command.error(`error: ${conflict}`);
      const loaded = await context.load(command);
      if (options.grants) return context.print(await grants(context, loaded.config, options));
      if (partsOf(options).length > 0) return parts(context, loaded, options);
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

function partsOf(options: SetupOptions): string[] {
  return Object.entries(PARTS).flatMap(([key, flag]) => (options[key as keyof typeof PARTS] ? [flag] : []));
}

/** What cannot go together, in words; null where all can. */
function conflictOf(options: SetupOptions): string | null {
  const chosen = partsOf(options);
  const ddl = options.ddl === undefined ? [] : [options.ddl ? '--ddl' : '--no-ddl'];
  const others = [...chosen, ...ddl, ...(options.recopy ? ['--recopy'] : [])];
  if (options.grants && others.length > 0)
    return `--grants only prints, and cannot go together with ${others.join(', ')}`;
  if (!options.grants && options.platform !== undefined) return '--platform needs --grants';
  if (!options.grants && options.role !== undefined) return '--role needs --grants';
  if (options.recopy && chosen.length > 0)
    return `--recopy copies rows, and ${chosen.join(', ')} copies none: run one after the other`;
  if (options.ddl === false && chosen.length > 0)
    return `--no-ddl takes the capture trigger away, and cannot go together with ${chosen.join(', ')}`;
  if (options.ddl && chosen.length > 0 && !options.all && !options.setupCdc)
    return `--ddl belongs to --setup-cdc or --all, and not to ${chosen.join(', ')}`;
  if (options.all && chosen.length > 1) return `--all includes ${chosen.slice(1).join(', ')}: leave that out`;
  return null;
}

async function parts(context: CliContext, { config, log, json }: Loaded, options: SetupOptions): Promise<void> {
  const { all } = options;
  const steps: Step[] = [];
  const tell = (step: Step): void => {
    steps.push(step);
    const marks = { done: '✓', there: '✓', skipped: '–' };
    if (!json) context.note(`${marks[step.status]} ${step.name}: ${printable(step.detail)}`);
  };
  if ((all || options.createDuckdb) && config.sinks.length === 0)
    context.note('there are no sinks in the configuration, and so no file to create');
  const { oneAtATime, setUpCdc, setUpServices, setUpSinks } = await import('../setup/steps.ts');
  const step = { config, log, tell };
  let checks: readonly CheckResult[] | null = null;
  await oneAtATime(config, async () => {
    if (all || options.setupCdc) await setUpCdc(step, options.ddl ?? false);
    if (all || options.createDuckdb) await setUpSinks(step);
    if (all || options.initializeServices) await setUpServices(step, all || options.setupCdc);
    if (all || options.verifySetup) checks = await examine(config, setupChecks(config));
  });
  tellChecks(context, steps, checks, json);
}

function tellChecks(
  context: CliContext,
  steps: readonly Step[],
  checks: readonly CheckResult[] | null,
  json: boolean,
): void {
  const failed = (checks ?? []).filter(({ status }) => status === 'fail').length;
  context.exitCode = failed > 0 ? EXIT.failed : EXIT.ok;
  if (json) context.print(toJson({ ok: failed === 0, steps, ...(checks && { checks }) }, 2));
  if (json || !checks) return;
  context.print(checksTable(checks, paintFor(context.io.stdout, context.io.env)));
  context.print(
    failed > 0 ? `\n${failed} of ${checks.length} checks fail` : `\nset up: ${checks.length} checks, none fails`,
  );
}

/** Resolves with true where nothing is left to be set up: a slot that --all or --setup-cdc has made waits for the first run. */
function changeTrigger({ source }: Config, install: boolean): Promise<boolean> {
  return withSession(source, 'setup', async (client) => {
    await migrate(client);
    await (install ? installDdlCapture(client) : removeDdlCapture(client));
    const record = await readSlotRecord(client, source.slot);
    return !install || record?.state === 'streaming' || record?.state === 'prepared';
  });
}
