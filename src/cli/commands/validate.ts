import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { call, findProcesses } from '../../api/control-client.ts';
import type { ControlFile } from '../../api/control-file.ts';
import { toJson } from '../../api/json.ts';
import { WaltideError } from '../../errors.ts';
import { CHECKS } from '../../validation/report.ts';
import { patternList, positiveInteger } from '../arguments.ts';
import { chooseSink } from '../choose-sink.ts';
import { type CliContext, EXIT, type Loaded } from '../context.ts';
import { parseAge } from '../moment.ts';
import { formatBytes, formatCount, formatTable, printable } from '../output.ts';
import { askPatiently } from '../patience.ts';
import { holding, notHeld } from '../sink-holder.ts';

interface Options {
  readonly checks?: string[];
  readonly sink?: string[];
  readonly key?: string[];
  readonly since?: string;
  readonly sinceColumn?: string;
  readonly sample?: number;
  readonly repair?: boolean;
  readonly rowsPerSecondMax?: number;
  readonly resume?: string;
}

/** As GET consistency/check/{id} gives it. */
interface Progress {
  readonly status: 'in_progress' | 'success' | 'error';
  readonly rows: number;
  readonly error: string | null;
  readonly error_class: string | null;
  readonly progress: { readonly table?: string; readonly sink?: string; readonly differences?: number };
  readonly validation: Validation | null;
}

interface Validation {
  readonly id: string;
  readonly ok: boolean | null;
  readonly score: number | null;
  readonly tables: readonly Table[];
  readonly references: readonly {
    sink: string;
    table: string;
    constraint: string;
    references: string;
    orphans: unknown[];
  }[];
  readonly rules: readonly { rule: string; side: string; holds: boolean; violations: number; error: string | null }[];
  readonly left_out: readonly { sink: string; table: string; why: string }[];
}

interface Table {
  readonly sink: string;
  readonly table: string;
  readonly source_rows: number;
  readonly sink_rows: number;
  readonly missing: number;
  readonly extra: number;
  readonly different: number;
  readonly unsettled: number;
  readonly repaired: number;
  readonly truncated: boolean;
  readonly score: number;
  readonly lsn: string;
  readonly bytes_moved: number;
  readonly duration_ms: number;
  readonly differences: readonly {
    readonly kind: string;
    readonly key: readonly string[];
    readonly columns: readonly {
      readonly name: string;
      readonly source: string | null;
      readonly sink: string | null;
    }[];
  }[];
}

const POLL_MS = 300;
const REQUEST_MS = 30_000;
const TOLD_EVERY_MS = 2000;
const DIFFERENCES_SHOWN = 20;

/** `waltide validate`: the process that holds the sinks compares them with the source. */
export function validateCommand(context: CliContext): Command {
  return new Command('validate')
    .description('Compare sinks with the source, row by row where digests differ, while both go on.')
    .argument(
      '[tables...]',
      'schema.table or patterns, as in source.tables; schema public may be left out (default: all)',
    )
    .option('--checks <list>', `some of ${CHECKS.join(', ')} (default: all)`, patternList)
    .option('--sink <name>', 'only this sink; may be given several times', patternList)
    .option('--key <value>', 'only the row with this key; once for each of its columns', collect)
    .option(
      '--since <time>',
      'only rows written since: how long ago (2h, "30 minutes ago"), or a time as PostgreSQL reads it: "2026-11-01", "yesterday"',
    )
    .option('--since-column <name>', 'the column that says when (default: validation.sinceColumn)')
    .option('--sample <n>', 'only so many rows of each table, at random', positiveInteger)
    .option('--repair', 'bring differing rows to the sink again, and compare once more')
    .option('--rows-per-second-max <n>', 'compare no faster than this', positiveInteger)
    .option('--resume <id>', 'go on with a validation that did not come to its end')
    .addHelpText(
      'after',
      `
Exit code 1 where anything differs. Ctrl-C ends the comparison; --resume goes on with it.

Examples:
  waltide validate
  waltide validate orders --key 42
  waltide validate "sales.*" --checks data_hash --repair`,
    )
    .action(async (tables: string[], options: Options, command: Command) => {
      const loaded = await context.load(command);
      const unknown = options.checks?.find((check) => !(CHECKS as readonly string[]).includes(check));
      if (unknown !== undefined)
        command.error(`error: there is no check "${unknown}"; there are: ${CHECKS.join(', ')}`);
      const holder = await holderOf(loaded, options.sink);
      context.drains = true;
      const done = await follow(context, holder, bodyOf(tables, options));
      if (done) print(context, done, loaded.json);
    });
}

const collect = (value: string, previous: readonly string[] = []): string[] => [...previous, value];

function bodyOf(tables: readonly string[], options: Options): object {
  const { checks, sink, key, since, sinceColumn, sample, repair, rowsPerSecondMax, resume } = options;
  return {
    ...{ tables, check_types: checks, sinks: sink, primary_key: key, since_column: sinceColumn, sample, repair },
    ...{ since: since === undefined ? undefined : (parseAge(since)?.toISOString() ?? since) },
    ...{ rows_per_second_max: rowsPerSecondMax, resume },
  };
}

/** The process that holds the sinks; where several do, the one that holds the first that is named. */
async function holderOf({ config }: Loaded, sinks: readonly string[] | undefined): Promise<ControlFile> {
  const found = await findProcesses(config.stateDir, config.source.slot);
  for (const name of sinks ?? []) chooseSink(config, name);
  const wanted = sinks?.[0] ?? null;
  const holder = holding(found, wanted);
  if (holder) return holder.file;
  throw notHeld(found, config.stateDir, wanted);
}

/** Null where it was interrupted. */
async function follow(context: CliContext, file: ControlFile, body: object): Promise<Validation | null> {
  const { run_id: id } = await call<{ run_id: string }>(file, 'POST', '/consistency/check', body, REQUEST_MS);
  const path = `/consistency/check/${id}`;
  for (let toldAt = performance.now(); ; ) {
    const {
      status,
      rows,
      error,
      error_class: errorClass,
      progress,
      validation,
    } = await askPatiently<Progress>(context, file, path);
    if (status === 'success' && validation) return validation;
    if (status !== 'in_progress')
      throw errorClass === 'config'
        ? new WaltideError('USAGE', error ?? 'the validation was refused', 'See `waltide validate --help`.')
        : new WaltideError('VALIDATION', error ?? 'the validation has ended', resumeHelp(validation));
    if (context.signal.aborted) {
      await call(file, 'DELETE', path, null, REQUEST_MS);
      context.exitCode = context.interruptedCode;
      context.note(`interrupted. ${resumeHelp(validation)}`);
      return null;
    }
    if (progress.table && performance.now() - toldAt > TOLD_EVERY_MS) {
      toldAt = performance.now();
      const where = printable(`${progress.sink} ${progress.table}`);
      context.note(`  ${where}: ${formatCount(rows)} rows, ${progress.differences ?? 0} differences`);
    }
    await sleep(POLL_MS, undefined, { signal: context.signal }).catch(() => {});
  }
}

function resumeHelp(validation: Validation | null): string {
  return validation
    ? `\`waltide validate --resume ${validation.id}\` goes on with it.`
    : 'See the log of the running process.';
}

function print(context: CliContext, validation: Validation, json: boolean): void {
  if (!validation.ok) context.exitCode = EXIT.failed;
  if (json) {
    context.print(toJson(validation, 2));
    return;
  }
  const { tables, references, rules, left_out: leftOut, ok, score } = validation;
  const right = (title: string) => ({ title, align: 'right' as const });
  if (tables.length > 0)
    context.print(
      formatTable(
        [
          { title: 'sink' },
          { title: 'table' },
          ...['rows', 'in sink', 'missing', 'extra', 'different', 'repaired', 'score', 'at', 'took', 'moved'].map(
            right,
          ),
        ],
        tables.map((table) => [
          table.sink,
          table.table,
          ...[table.source_rows, table.sink_rows, table.missing, table.extra, table.different, table.repaired].map(
            formatCount,
          ),
          `${table.score}%`,
          table.lsn,
          `${(table.duration_ms / 1000).toFixed(1)} s`,
          formatBytes(table.bytes_moved),
        ]),
      ),
    );
  for (const table of tables) printDifferences(context, table);
  for (const { sink, table, why } of leftOut) context.print(printable(`${sink} ${table}: not compared, ${why}`));
  for (const { sink, table, constraint, references: to, orphans } of references)
    context.print(
      printable(`${sink} ${table}: ${formatCount(orphans.length)} values of ${constraint} lead to no row of ${to}`),
    );
  for (const { rule, side, holds, violations, error } of rules)
    context.print(
      printable(`rule ${rule} in ${side}: ${error ?? (holds ? 'holds' : `broken by ${formatCount(violations)} rows`)}`),
    );
  const wrong =
    references.length > 0 || rules.some(({ holds }) => !holds) ? 'a reference or a rule does not hold' : null;
  const differs = tables.some(({ missing, extra, different }) => missing + extra + different > 0);
  if (ok) context.print('everything that was compared is equal');
  else context.print(differs ? `not equal: score ${score}%` : (wrong ?? 'not proven: a table could not be compared'));
}

function printDifferences(context: CliContext, { sink, table, differences, truncated, unsettled }: Table): void {
  for (const { kind, key, columns } of differences.slice(0, DIFFERENCES_SHOWN)) {
    const cells = columns.map(({ name, source, sink: held }) => `${name} ${source ?? 'NULL'} is ${held ?? 'NULL'}`);
    context.print(printable(`${sink} ${table} ${key.join(', ')}: ${kind}${cells.map((cell) => `; ${cell}`).join('')}`));
  }
  const name = printable(`${sink} ${table}`);
  const more = differences.length - DIFFERENCES_SHOWN;
  if (more > 0) context.print(`${name}: and ${formatCount(more)} more; --json shows them`);
  if (truncated) context.print(`${name}: more differences than validation.differencesMax; the counts are lower bounds`);
  if (unsettled > 0)
    context.print(`${name}: ${formatCount(unsettled)} rows changed faster than they could be compared`);
}
