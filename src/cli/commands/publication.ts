import { Command } from 'commander';
import type pg from 'pg';
import { toJson } from '../../api/json.ts';
import type { SourceConfig } from '../../config/schema.ts';
import type { CapturedTable } from '../../postgres/captured.ts';
import { listTables } from '../../postgres/catalog.ts';
import { queryError } from '../../postgres/connection.ts';
import { readSlotRecord } from '../../postgres/control.ts';
import { type PublishedTable, publishedTables, selectTables } from '../../postgres/publication.ts';
import { withSession } from '../../postgres/session.ts';
import type { CliContext } from '../context.ts';
import { formatTable, printable } from '../output.ts';

/** What the publication carries, held against the configuration. */
export interface PublicationView {
  readonly name: string;
  readonly exists: boolean;
  /** True where Waltide made it, and so may alter it. */
  readonly ours: boolean;
  readonly tables: readonly {
    readonly name: string;
    readonly columns: readonly string[];
    readonly rowFilter: string | null;
    readonly identity: string;
    readonly insertsOnly: boolean;
    readonly copied: boolean;
  }[];
  readonly left: readonly { readonly name: string; readonly why: string }[];
  /** They match the configuration and are not published, or not filled yet. */
  readonly uncopied: readonly string[];
}

/** `waltide publication show`. */
export function publicationCommand(context: CliContext): Command {
  const show = new Command('show')
    .description('Tables that are published, those left out and why, and those not filled yet.')
    .addHelpText('after', '\nExamples:\n  waltide publication show\n  waltide publication show --json')
    .action(async (_options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const view = await readView(config.source);
      context.print(json ? toJson(view, 2) : describe(view));
    });
  return new Command('publication')
    .description('Show the publication.')
    .addCommand(show)
    .addHelpText('after', '\nExamples:\n  waltide publication show');
}

async function readView(source: SourceConfig): Promise<PublicationView> {
  try {
    return await withSession(source, 'publication', (client) => view(client, source));
  } catch (error) {
    throw queryError(error, 'reading the publication');
  }
}

async function view(client: pg.Client, source: SourceConfig): Promise<PublicationView> {
  const inserts = `${source.publication}_inserts`;
  const { rows } = await client.query<{ name: string; comment: string | null }>(
    `SELECT pubname AS name, pg_catalog.obj_description(oid, 'pg_publication') AS comment FROM pg_catalog.pg_publication WHERE pubname = ANY($1)`,
    [[source.publication, inserts]],
  );
  const main = rows.find((row) => row.name === source.publication);
  const ours = main?.comment === 'managed by waltide';
  const second = rows.some((row) => row.name === inserts && row.comment === 'managed by waltide');
  const all = await listTables(client);
  const selection = selectTables(all, source, true);
  const record = await readSlotRecord(client, source.slot);
  const copied = (record?.tables ?? []).filter(({ filled }) => filled);
  const published = [
    ...(main ? await publishedTables(client, [source.publication]) : []).map((table) => shown(table, false, copied)),
    ...(second ? await publishedTables(client, [inserts]) : []).map((table) => shown(table, true, copied)),
  ];
  const isCopied = new Set(copied.map((table) => table.oid));
  const uncopied =
    record?.state === 'streaming'
      ? [...selection.tables, ...selection.keyless].filter((table) => !isCopied.has(table.oid))
      : [];
  return {
    name: source.publication,
    exists: main !== undefined,
    ours,
    tables: published,
    left: selection.left,
    uncopied: uncopied.map((table) => `${table.schema}.${table.table}`),
  };
}

const IDENTITIES = { d: 'primary key', i: 'index', f: 'full row', n: 'nothing' } as const;

function shown(
  table: PublishedTable,
  insertsOnly: boolean,
  copied: readonly CapturedTable[],
): PublicationView['tables'][number] {
  const { columns, rowFilter } = table;
  const identity =
    table.replicaIdentity === 'd' && !table.hasPrimaryKey ? 'nothing' : IDENTITIES[table.replicaIdentity];
  return {
    name: `${table.schema}.${table.table}`,
    columns,
    rowFilter,
    identity,
    insertsOnly,
    copied: copied.some((one) => one.oid === table.oid),
  };
}

function describe({ name, exists, ours, tables, left, uncopied }: PublicationView): string {
  const made = ours
    ? 'made by Waltide, which alters it to match source.tables'
    : 'not made by Waltide, which never alters it';
  const lines = [
    exists
      ? `publication ${printable(name)}: ${made}`
      : `publication ${printable(name)} does not exist; \`waltide setup\` creates it`,
  ];
  if (tables.length > 0) {
    const rows = tables.map((table) => [
      table.name,
      table.identity,
      table.insertsOnly ? 'inserts' : 'all',
      table.copied ? 'yes' : 'no',
      table.rowFilter ?? '',
      table.columns.join(', '),
    ]);
    lines.push(
      '',
      formatTable(
        ['table', 'identity', 'changes', 'copied', 'row filter', 'columns'].map((title) => ({ title })),
        rows,
      ),
    );
  }
  if (left.length > 0)
    lines.push('', 'left out:', ...left.map((table) => `  ${printable(table.name)}: ${printable(table.why)}`));
  if (uncopied.length > 0)
    lines.push(
      '',
      'match, and are not filled yet (a running capture takes them in; `waltide snapshot list` shows how far it is):',
      ...uncopied.map((table) => `  ${printable(table)}`),
    );
  return lines.join('\n');
}
