import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, Option } from 'commander';
import type pg from 'pg';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { askDiscard, askRetry, oneLetter } from '../../dead-letter/requests.ts';
import {
  countLetters,
  countRefused,
  type DeadLetter,
  LETTER_STATES,
  type LetterFilter,
  type LetterState,
  listLetters,
  newestLetters,
} from '../../dead-letter/table.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import { formatPosition } from '../../event/position.ts';
import { migrate } from '../../postgres/control.ts';
import { withSession } from '../../postgres/session.ts';
import { positiveInteger } from '../arguments.ts';
import { type CliContext, EXIT, type Output } from '../context.ts';
import { parseMoment } from '../moment.ts';
import { formatCount, formatTable, printable } from '../output.ts';

const WAIT_POLL_MS = 300;
/** Letters that are read at once. */
const PAGE = 500;

interface FilterOptions {
  readonly sink?: string;
  readonly table?: string;
  readonly state?: LetterState[];
  readonly code?: string;
  readonly since?: string;
}

/** `waltide dead-letter list | show | retry | discard | export`. */
export function deadLetterCommand(context: CliContext): Command {
  return new Command('dead-letter')
    .description('Changes that a sink refused: look at them, apply them again, or give them up.')
    .addHelpText(
      'after',
      `
A letter is open while its row is missing in the sink, or as it was before. A later change that brings the row whole, or
deletes it, closes its letter. Letters are in the source's schema "waltide", table dead_letters.

Examples:
  waltide dead-letter list --table orders
  waltide dead-letter show 17
  waltide dead-letter retry --all --sink analytics
  waltide dead-letter discard 17 --reason "test data"`,
    )
    .addCommand(listCommand(context))
    .addCommand(showCommand(context))
    .addCommand(retryCommand(context))
    .addCommand(discardCommand(context))
    .addCommand(exportCommand(context));
}

function withFilters(command: Command): Command {
  return command
    .option('--sink <name>', 'only of this sink; "*" for what never came into Kafka')
    .option('--table <pattern>', 'only of tables schema.table or patterns; schema public may be left out')
    .option('--code <code>', 'only with this error code')
    .option('--since <time>', 'only those written since: 2026-11-22T18:00:00Z, or how long ago: 2h');
}

const withStates = (command: Command): Command =>
  command.addOption(
    new Option('--state <state...>', 'in these states (default: open and retrying)').choices(LETTER_STATES),
  );

function filterOf({ sink, table, state, code, since }: FilterOptions, ids: readonly number[] = []): LetterFilter {
  return {
    ...(ids.length > 0 && { ids }),
    ...(sink !== undefined && { sink }),
    ...(table !== undefined && { table: table.includes('.') ? table : `public.${table}` }),
    ...(state && { states: state }),
    ...(code !== undefined && { code }),
    ...(since !== undefined && { since: parseMoment(since, '--since') }),
  };
}

const session = <T>({ source }: Config, work: (client: pg.Client, slot: string) => Promise<T>): Promise<T> =>
  withSession(source, 'dead letters', async (client) => {
    await migrate(client);
    return work(client, source.slot);
  });

function listCommand(context: CliContext): Command {
  return withFilters(withStates(new Command('list')))
    .description('Letters, the newest first.')
    .option('--limit <n>', 'at most so many', positiveInteger, 50)
    .addHelpText(
      'after',
      '\nExamples:\n  waltide dead-letter list\n  waltide dead-letter list --state retried --since 1h --json',
    )
    .action(async (options: FilterOptions & { limit: number }, command: Command) => {
      const { config, json } = await context.load(command);
      const filter = { states: ['open', 'retrying'] as const, ...filterOf(options) };
      const { letters, count } = await session(config, async (client, slot) => ({
        letters: await newestLetters(client, slot, filter, options.limit),
        count: await countLetters(client, slot, filter),
      }));
      if (json) return context.print(toJson(letters.map(plain), 2));
      if (count === 0) return context.print('no dead letters');
      const titles = ['id', 'sink', 'table', 'row', 'op', 'state', 'attempts', 'since', 'error'];
      context.print(
        formatTable(
          titles.map((title) => ({ title, align: title === 'id' || title === 'attempts' ? 'right' : 'left' })),
          letters.map(cells),
        ),
      );
      if (count > letters.length) context.note(`${formatCount(count - letters.length)} more; --limit shows them`);
    });
}

function cells({ id, sink, schema, table, row, op, state, attempts, createdAt, code, message }: DeadLetter): string[] {
  const since = createdAt.toISOString().slice(0, 19);
  return [String(id), sink, `${schema}.${table}`, row, op, state, String(attempts), since, `${code}: ${message}`];
}

/** Without the description of the table, which repeats. */
function plain({ position, closedBy, relation, ...letter }: DeadLetter): object {
  const columns = relation.columns.map(({ name, type }) => ({ name, type: type.name }));
  return { ...letter, position: formatPosition(position), closedBy: closedBy && formatPosition(closedBy), columns };
}

function showCommand(context: CliContext): Command {
  return new Command('show')
    .description('One letter with its whole change.')
    .argument('<id>', 'as `waltide dead-letter list` gives it', positiveInteger)
    .addHelpText('after', '\nExamples:\n  waltide dead-letter show 17')
    .action(async (id: number, _options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const letter = await session(config, (client, slot) => oneLetter(client, slot, id));
      if (json) return context.print(toJson(plain(letter), 2));
      const { before, after, columns, ...rest } = plain(letter) as Record<string, unknown>;
      for (const [name, value] of Object.entries(rest))
        if (value !== null) context.print(`${name}: ${printable(typeof value === 'string' ? value : toJson(value))}`);
      for (const { name, type } of columns as { name: string; type: string }[])
        context.print(`  ${printable(name)} (${printable(type)}): ${change(before, after, name)}`);
    });
}

function change(before: unknown, after: unknown, name: string): string {
  const side = (of: unknown): string | null => {
    if (of === null) return null;
    const value = (of as Record<string, unknown>)[name];
    return value === undefined ? '(unchanged)' : printable(typeof value === 'string' ? value : toJson(value));
  };
  return [side(before), side(after)].filter((text) => text !== null).join(' → ');
}

function retryCommand(context: CliContext): Command {
  return withFilters(new Command('retry'))
    .description('Apply letters again, in the order of their changes, through the process that holds the sink.')
    .argument('[ids...]', 'which letters', (text, before: number[] = []) => [...before, positiveInteger(text)])
    .option('--all', 'every open letter that the other options let through')
    .option('--force', 'also where a later change of the row is in the sink: the row becomes as the letter has it')
    .option('--no-wait', 'do not wait until they are applied')
    .addHelpText(
      'after',
      '\nExamples:\n  waltide dead-letter retry 17 18\n  waltide dead-letter retry --all --table orders',
    )
    .action(async (ids: number[] = [], options: FilterOptions & RetryOptions, command: Command) => {
      const { config, json } = await context.load(command);
      checkWhich(ids, options.all);
      await session(config, async (client, slot) => {
        const { asked: taken, reread } = await askRetry(client, slot, filterOf(options, ids), options.force === true);
        if (reread.length > 0)
          context.note(`${formatCount(reread.length)} rows that never came into Kafka are read anew`);
        if (!options.wait || taken.length === 0) {
          if (json) return context.print(toJson({ ok: true, asked: taken, reread }, 2));
          if (reread.length > 0 && taken.length === 0) return;
          return context.print(
            taken.length === 0 ? 'there is nothing to retry' : `${formatCount(taken.length)} are asked for`,
          );
        }
        await waitFor(context, client, slot, taken, json);
      });
    });
}

interface RetryOptions {
  readonly all?: boolean;
  readonly force?: boolean;
  readonly wait: boolean;
}

function checkWhich(ids: readonly number[], all: boolean | undefined): void {
  if (ids.length > 0 !== (all === true)) return;
  throw new WaltideError('USAGE', 'say which letters: their ids, or --all', 'See `waltide dead-letter list`.');
}

async function waitFor(
  context: CliContext,
  client: pg.Client,
  slot: string,
  ids: readonly number[],
  json: boolean,
): Promise<void> {
  context.drains = true;
  let told = false;
  for (;;) {
    const left = await countLetters(client, slot, { ids, states: ['retrying'] });
    if (left === 0) break;
    if (!told && left === ids.length) context.note('waiting for the process that holds the sink (`waltide run`)');
    told = true;
    await sleep(WAIT_POLL_MS, undefined, { signal: context.signal }).catch(() => {});
    if (context.signal.aborted) {
      context.note('They stay asked for; `waltide dead-letter list` shows what became of them.');
      context.exitCode = context.interruptedCode;
      return;
    }
  }
  const refused = await countRefused(client, slot, ids);
  if (refused > 0) context.exitCode = EXIT.failed;
  if (json) return context.print(toJson({ ok: refused === 0, asked: ids, refused }, 2));
  context.print(`${formatCount(ids.length - refused)} applied, ${formatCount(refused)} refused again`);
}

function discardCommand(context: CliContext): Command {
  return withFilters(new Command('discard'))
    .description('Give letters up: they stay in the table with the reason, and the rows stay as they are in the sink.')
    .argument('[ids...]', 'which letters', (text, before: number[] = []) => [...before, positiveInteger(text)])
    .option('--all', 'every open letter that the other options let through')
    .requiredOption('--reason <text>', 'why; kept with the letter')
    .addHelpText('after', '\nExamples:\n  waltide dead-letter discard 17 --reason "test data"')
    .action(
      async (ids: number[] = [], options: FilterOptions & { all?: boolean; reason: string }, command: Command) => {
        const { config, json } = await context.load(command);
        checkWhich(ids, options.all);
        const taken = await session(config, (client, slot) =>
          askDiscard(client, slot, filterOf(options, ids), options.reason),
        );
        if (json) return context.print(toJson({ ok: true, discarded: taken }, 2));
        context.print(`${formatCount(taken.length)} discarded`);
      },
    );
}

function exportCommand(context: CliContext): Command {
  return withFilters(withStates(new Command('export')))
    .description('Letters as lines of JSON, the oldest first.')
    .option('--output <file>', 'into this file, which must not exist (default: stdout)')
    .addHelpText('after', '\nExamples:\n  waltide dead-letter export --output letters.jsonl')
    .action(async (options: FilterOptions & { output?: string }, command: Command) => {
      const { config } = await context.load(command);
      const filter = { states: ['open', 'retrying'] as const, ...filterOf(options) };
      const file = options.output === undefined ? null : createWriteStream(options.output, { flags: 'wx' });
      const out = file ?? context.io.stdout;
      try {
        if (file) await once(file, 'open');
        const count = await session(config, (client, slot) => exportAll(client, slot, filter, out));
        if (file) await new Promise<void>((resolve, reject) => file.on('error', reject).end(resolve));
        context.note(`${formatCount(count)} letters`);
      } catch (error) {
        if (!file || error instanceof WaltideError) throw error;
        throw new WaltideError('USAGE', `${options.output}: ${messageOf(error)}`, 'Name a new file with --output.', {
          cause: error,
        });
      }
    });
}

async function exportAll(
  client: pg.Client,
  slot: string,
  filter: LetterFilter,
  out: Pick<Output, 'write' | 'once'>,
): Promise<number> {
  let count = 0;
  for (let after = 0; ; ) {
    const page = await listLetters(client, slot, filter, { max: PAGE, after });
    for (const letter of page) {
      if (out.write(`${toJson(plain(letter))}\n`)) continue;
      await new Promise<void>((resolve) => out.once('drain', resolve));
    }
    count += page.length;
    if (page.length < PAGE) return count;
    after = page.at(-1)!.id;
  }
}
