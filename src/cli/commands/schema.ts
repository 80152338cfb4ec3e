import { Command } from 'commander';
import { toJson } from '../../api/json.ts';
import { WaltideError } from '../../errors.ts';
import { formatPosition } from '../../event/position.ts';
import { parseRelationName } from '../../event/relation.ts';
import { controlVersion } from '../../postgres/control.ts';
import { type RecordedChange, readHistory } from '../../postgres/schema-history.ts';
import { withSession } from '../../postgres/session.ts';
import type { CliContext } from '../context.ts';
import { formatTable } from '../output.ts';
import { changeWords } from '../schema-words.ts';

/** `waltide schema history`. */
export function schemaCommand(context: CliContext): Command {
  return new Command('schema')
    .description('What became of the tables: their changes of schema.')
    .addCommand(historyCommand(context))
    .addHelpText('after', '\nExamples:\n  waltide schema history orders');
}

function historyCommand(context: CliContext): Command {
  return new Command('history')
    .description('Every change of a table that came through the stream, with what it was before and after.')
    .argument('<table>', 'schema.table, or a table of schema public; a name that it had once will do')
    .addHelpText(
      'after',
      `
Renames, defaults and rewrites are known where the capture trigger is installed (\`waltide setup --ddl\`); without it
only what a row that follows the change shows.

Examples:
  waltide schema history orders
  waltide schema history sales.orders --json`,
    )
    .action(async (name: string, _options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const table = parseRelationName(name);
      const changes = await withSession(config.source, 'schema', async (client) => {
        await controlVersion(client);
        return readHistory(client, config.source.slot, table);
      });
      if (changes.length === 0)
        throw new WaltideError(
          'TABLES',
          `nothing is recorded of table ${table.schema}.${table.table}`,
          'A table is recorded once a change of it came through the stream. `waltide publication show` lists the tables that are followed.',
        );
      context.print(json ? toJson(changes.map(toObject), 2) : describe(changes));
    });
}

const toObject = ({ position, ...change }: RecordedChange): object => ({
  lsn: formatPosition(position).split('#')[0],
  seq: position.seq,
  ...change,
  words: changeWords({ position, ...change }),
});

function describe(changes: readonly RecordedChange[]): string {
  const rows = changes.flatMap((change) =>
    changeWords(change).map((words, i) =>
      i === 0
        ? [
            change.committedAt.toISOString(),
            formatPosition(change.position).split('#')[0]!,
            change.command ?? '',
            words,
          ]
        : ['', '', '', words],
    ),
  );
  return formatTable(
    ['committed at', 'LSN', 'command', 'change'].map((title) => ({ title })),
    rows,
  );
}
