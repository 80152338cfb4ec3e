import { Command, Option } from 'commander';
import type { Config } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import { formatJson } from '../../event/plain-json.ts';
import { queryError } from '../../postgres/connection.ts';
import { readSlotRecord } from '../../postgres/control.ts';
import { matchesPattern, publishedTables } from '../../postgres/publication.ts';
import { checkServer, readServer } from '../../postgres/server.ts';
import { connectSource } from '../../postgres/session.ts';
import { loadProtection, type Protection } from '../../protect/protection.ts';
import { TemporarySlot } from '../../source/temporary-slot.ts';
import { patternList, positiveInteger } from '../arguments.ts';
import { type CliContext, EXIT } from '../context.ts';
import { debeziumFormatter, type EventFormatter, prettyFormatter } from '../event-format.ts';
import { paintFor } from '../output.ts';

interface Options {
  readonly format: 'json' | 'debezium' | 'pretty';
  readonly tables?: readonly string[];
  readonly limit?: number;
}

/** Lines are written together up to this size: a write per event would cost more than the event. */
const CHUNK_CHARACTERS = 64 * 1024;

/** `waltide tail`: live changes to stdout, through a slot of its own. */
export function tailCommand(context: CliContext): Command {
  return new Command('tail')
    .description('Print changes as they are committed, one line each, through a temporary slot of its own.')
    .addOption(
      new Option('--format <format>', 'json: compact; debezium: the envelope as in Kafka; pretty: for eyes')
        .choices(['json', 'debezium', 'pretty'])
        .default('json'),
    )
    .option('--tables <patterns>', 'only these tables, as in source.tables; several by commas', patternList)
    .option('--limit <n>', 'stop after that many events', positiveInteger)
    .addHelpText(
      'after',
      `
Shows what the configured publication carries, from now on; a running pipeline is not disturbed. Logical messages are
shown unless --tables is given. Ends with exit code 0 on Ctrl-C.

In format json, bool, int2, int4, oid and finite floats are JSON values; everything else is PostgreSQL's own text, int8
and numeric included, so that no digit is lost. "before" holds the key only, unless the table has REPLICA IDENTITY FULL;
"unchanged" names large values that an update did not touch and the WAL does not carry.

Examples:
  waltide tail --format pretty
  waltide tail --tables 'public.orders,public.item*' | jq .after
  waltide tail --limit 1 --format debezium`,
    )
    .action(async (options: Options, command: Command) => {
      const { config, log } = await context.load(command);
      context.drains = true;
      const protection = await loadProtection(config.source);
      const { names, database } = await findPublications(config, options.tables, protection);
      const slot = await TemporarySlot.open({ config: config.source, publications: names, log });
      log.info({ publication: config.source.publication }, 'showing changes from now on');
      const prefix = config.transport.type === 'kafka' ? config.transport.topicPrefix : config.source.slot;
      const paint = paintFor(context.io.stdout, context.io.env);
      const format =
        options.format === 'json'
          ? formatJson
          : options.format === 'pretty'
            ? prettyFormatter(paint)
            : debeziumFormatter(prefix, database);
      try {
        await printEvents(context, slot, protection, options, format);
      } finally {
        await slot.close();
      }
      context.exitCode = EXIT.ok;
    });
}

async function printEvents(
  context: CliContext,
  slot: TemporarySlot,
  protection: Protection,
  { tables, limit }: Options,
  format: EventFormatter,
): Promise<void> {
  let left = limit ?? Number.POSITIVE_INFINITY;
  const shown = (event: ChangeEvent): boolean =>
    !tables || (event.relation !== null && matchesAny(tables, event.relation));
  for await (const batch of slot.stream(context.signal)) {
    let text = '';
    for (const event of protection.batch(batch).events) {
      if (!shown(event)) continue;
      text += `${format(event)}\n`;
      if (--left === 0) break;
      if (text.length < CHUNK_CHARACTERS) continue;
      await write(context, text);
      text = '';
    }
    if (text) await write(context, text);
    if (left === 0) return;
  }
}

/** A slow reader holds up the stream, not our memory. */
async function write({ io, signal }: CliContext, text: string): Promise<void> {
  if (io.stdout.write(text) || signal.aborted) return;
  await new Promise<void>((resolve) => {
    io.stdout.once('drain', resolve);
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

function matchesAny(patterns: readonly string[], { schema, table }: { schema: string; table: string }): boolean {
  return patterns.some((pattern) => matchesPattern(pattern, schema, table));
}

/** The configured publication and the one beside it for tables without a key. Creates nothing. */
async function findPublications(
  { source }: Config,
  tables: readonly string[] | undefined,
  protection: Protection,
): Promise<{ names: string[]; database: string }> {
  const client = await connectSource(source, 'tail');
  try {
    checkServer(await readServer(client));
    const wanted = [source.publication, `${source.publication}_inserts`];
    const { rows } = await client.query<{ name: string; database: string }>(
      'SELECT pubname AS name, pg_catalog.current_database() AS database FROM pg_catalog.pg_publication WHERE pubname = ANY($1)',
      [wanted],
    );
    const names = rows.map((row) => row.name);
    if (!names.includes(source.publication))
      throw new WaltideError(
        'PUBLICATION',
        `publication "${source.publication}" does not exist in this database`,
        'Run `waltide setup`, which creates it, or name an existing one in source.publication.',
      );
    const published = await publishedTables(client, names);
    for (const pattern of tables ?? [])
      if (!published.some((table) => matchesAny([pattern], table)))
        throw new WaltideError(
          'USAGE',
          `--tables "${pattern}" matches no table of publication "${source.publication}"`,
          '`waltide publication show` lists what it carries.',
        );
    if (!protection.idle) {
      const captured = (await readSlotRecord(client, source.slot))?.tables ?? [];
      await protection.learn(client, published, (oid) => captured.find((table) => table.oid === oid));
    }
    return { names, database: rows[0]!.database };
  } catch (error) {
    throw queryError(error, 'reading the publication');
  } finally {
    await client.end().catch(() => {});
  }
}
