import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { type Relation, relationName } from '../event/relation.ts';
import { queryError, sqlState } from '../postgres/connection.ts';
import { matchesPattern, type PublishedTable } from '../postgres/publication.ts';
import { readValidation } from '../postgres/validations.ts';
import type { ValidationRequest } from './report.ts';
import type { ValidatedSink, ValidationRun } from './run.ts';
import { describeSourceTable, type SourceTable } from './source-table.ts';

/** Null where the sink does not hold it. Throws USAGE where the key or the time that is asked for is none of the table's. */
export async function describe(
  { config, request, control, treatment }: Pick<ValidationRun, 'config' | 'request' | 'control' | 'treatment'>,
  sink: ValidatedSink,
  published: PublishedTable,
  relation: Relation,
): Promise<SourceTable | null> {
  const held = await sink.digests.describe(relation);
  if (!held) return null;
  const { since, sinceColumn = config.validation.sinceColumn, checks } = request;
  const table = await describeSourceTable(control, published, held, relation, {
    // Rows are counted by their keys: a missing one and an extra one make no equal count.
    only: !checks || checks.includes('data_hash') ? null : [],
    maskOf: (column) => treatment.maskOf(relation, column),
    since: since === undefined ? null : { column: sinceColumn, text: since },
  });
  const { key } = request;
  if ((key || request.sample !== undefined) && (table.key.length === 0 || (key && key.length !== table.key.length)))
    throw new WaltideError(
      'USAGE',
      `${relationName(relation)} has ${table.key.length === 0 ? 'no key' : `a key of ${table.key.length} columns (${table.key.map(({ name }) => name).join(', ')})`}`,
      'Give one value for each column of the key, in their order, and name the table that it is of.',
    );
  for (const [i, { name, typeSql }] of (key ? table.key : []).entries())
    await printedText(control, key![i]!, typeSql, `column ${name} of the key of ${relationName(relation)}`);
  if (!table.since) return table;
  const { text, typeSql, column } = table.since;
  // Only PostgreSQL knows what `yesterday` is; and what it is must not change while the table is compared.
  return {
    ...table,
    since: { ...table.since, text: await printedText(control, text, typeSql, `column ${column.name}`) },
  };
}

/** As PostgreSQL prints it. Throws USAGE where it does not read the text as a value of the column's type. */
async function printedText(control: pg.Client, text: string, typeSql: string, column: string): Promise<string> {
  try {
    const { rows } = await control.query<{ printed: string }>(
      `SELECT concat(CAST($1::text AS ${typeSql})) AS printed`,
      [text],
    );
    return rows[0]!.printed;
  } catch (error) {
    // Data exceptions, and the conditions of a domain.
    if (!/^2[23]/.test(sqlState(error) ?? '')) throw queryError(error, `reading "${text}"`);
    throw new WaltideError(
      'USAGE',
      `"${text}" is no value of ${column}: ${messageOf(error)}`,
      `Write it as PostgreSQL reads the type ${typeSql}.`,
      { cause: error },
    );
  }
}

/** True where tables are compared row by row, beside their references and rules. */
export function looksAtRows({ checks }: ValidationRequest): boolean {
  return !checks || checks.includes('data_hash') || checks.includes('row_count');
}

/** True where the table was asked for by its name, not by a pattern that it happens to match. */
export function isNamed(table: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) => pattern === table || `public.${pattern}` === table);
}

export function chooseTables(published: readonly PublishedTable[], patterns: readonly string[]): PublishedTable[] {
  const matches = (pattern: string, { schema, table }: PublishedTable): boolean =>
    matchesPattern(pattern.includes('.') ? pattern : `public.${pattern}`, schema, table);
  for (const pattern of patterns)
    if (!published.some((table) => matches(pattern, table)))
      throw new WaltideError(
        'USAGE',
        `"${pattern}" matches no table that is captured`,
        `Captured are: ${published.map(relationName).join(', ') || 'none'}.`,
      );
  return published.filter((table) => patterns.length === 0 || patterns.some((pattern) => matches(pattern, table)));
}

export function checkRequest(request: ValidationRequest, config: Config): void {
  const narrow = [request.key, request.since, request.sample].filter((one) => one !== undefined);
  if (narrow.length > 1)
    throw new WaltideError(
      'USAGE',
      'a key, a time and a sample exclude each other',
      'Choose one of --key, --since and --sample.',
    );
  if (request.key && request.tables?.length !== 1)
    throw new WaltideError('USAGE', 'a key is of one table', 'Name the table: waltide validate orders --key 42.');
  const names = config.validation.rules.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice)
    throw new WaltideError(
      'CONFIG_INVALID',
      `validation.rules: "${twice}" is there twice`,
      'Give each rule a name of its own.',
    );
}

export async function requestOf(control: pg.Client, { source }: Config, id: string): Promise<ValidationRequest> {
  const record = await readValidation(control, source.slot, id);
  if (!record)
    throw new WaltideError('USAGE', `there is no validation ${id}`, 'Ids are in waltide.validations of the source.');
  if (record.state === 'completed')
    throw new WaltideError('USAGE', `validation ${id} is completed`, 'Begin a new one: leave out --resume.');
  return record.request as ValidationRequest;
}
