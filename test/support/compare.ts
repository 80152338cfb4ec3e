import { DuckDBInstance } from '@duckdb/node-api';
import pg from 'pg';

interface ColumnInfo {
  readonly name: string;
  readonly type: string;
}

/** Both sides are asked for the same text form of each value; what they then say must be equal, row by row. */
const POSTGRES_TEXT: Record<string, (column: string) => string> = {
  'timestamp with time zone': (c) => `to_char(${c} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')`,
  'timestamp without time zone': (c) => `to_char(${c}, 'YYYY-MM-DD HH24:MI:SS.US')`,
  bytea: (c) => `encode(${c}, 'hex')`,
  ARRAY: (c) => `to_json(${c})::text`,
};
const DUCKDB_TEXT: Record<string, (column: string) => string> = {
  'timestamp with time zone': (c) => `strftime(${c} AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%f')`,
  'timestamp without time zone': (c) => `strftime(${c}, '%Y-%m-%d %H:%M:%S.%f')`,
  bytea: (c) => `lower(hex(${c}))`,
  ARRAY: (c) => `to_json(${c})::varchar`,
};

const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`;

export type DuckQuery = (sql: string) => Promise<readonly (readonly unknown[])[]>;

/** Opens the file, which no other process may have open, for the time of `work`. */
export async function withDuckdb<T>(path: string, work: (query: DuckQuery) => Promise<T>): Promise<T> {
  const instance = await DuckDBInstance.create(path, { access_mode: 'READ_ONLY' });
  const connection = await instance.connect();
  try {
    return await work(async (sql) => (await connection.runAndReadAll(sql)).getRows());
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}

/** Changes a file by hand, as no sink would. */
export async function damage(path: string, ...statements: string[]): Promise<void> {
  const instance = await DuckDBInstance.create(path);
  const connection = await instance.connect();
  try {
    for (const statement of statements) await connection.run(statement);
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}

/** What a column of the source, named `schema.table.column`, is to be in the target. */
export interface Masked {
  /** SQL of the source for the masked value of a column. */
  readonly source: (column: string) => string;
  /** What the target's value stands for, where SQL cannot compute it. */
  readonly target?: (text: string) => string;
}

/** Differences between source and target, in words; empty when every row of every table is equal. */
export async function differences(
  url: string,
  query: DuckQuery,
  tables: readonly string[],
  masked: Readonly<Record<string, Masked>> = {},
): Promise<string[]> {
  const client = new pg.Client(url);
  await client.connect();
  const found: string[] = [];
  try {
    for (const name of tables) {
      const [schema, table] = name.split('.') as [string, string];
      const { rows: columns } = await client.query<ColumnInfo>(
        `SELECT column_name AS name, data_type AS type FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position`,
        [schema, table],
      );
      const maskOf = (column: string): Masked | undefined => masked[`${name}.${column}`];
      const list = (texts: typeof POSTGRES_TEXT, plain: string): string =>
        columns
          .map(({ name: column, type }) => {
            const mask = maskOf(column);
            if (mask) return texts === POSTGRES_TEXT ? mask.source(`${quote(column)}::text`) : quote(column);
            return texts[type]?.(quote(column)) ?? `${quote(column)}::${plain}`;
          })
          .join(', ');
      const source = await client.query<unknown[]>({
        text: `SELECT ${list(POSTGRES_TEXT, 'text')} FROM ${quote(schema)}.${quote(table)}`,
        rowMode: 'array',
      });
      const target = await query(
        `SELECT ${list(DUCKDB_TEXT, 'varchar')} FROM ${quote(schema === 'public' ? 'main' : schema)}.${quote(table)}`,
      );
      const read = target.map((row) =>
        row.map((value, i) => (typeof value === 'string' && maskOf(columns[i]!.name)?.target?.(value)) || value),
      );
      found.push(...rowDifferences(name, source.rows, read));
    }
  } finally {
    await client.end();
  }
  return found;
}

/** As multisets: a row too many counts as much as one too few. */
function rowDifferences(
  name: string,
  source: readonly (readonly unknown[])[],
  target: readonly (readonly unknown[])[],
): string[] {
  const counts = new Map<string, number>();
  for (const row of source) counts.set(JSON.stringify(row), (counts.get(JSON.stringify(row)) ?? 0) + 1);
  for (const row of target) counts.set(JSON.stringify(row), (counts.get(JSON.stringify(row)) ?? 0) - 1);
  const wrong = [...counts].filter(([, count]) => count !== 0);
  const shown = wrong
    .slice(0, 10)
    .map(([row, count]) => `${name}: ${count > 0 ? 'missing' : 'extra'} ${Math.abs(count)} × ${row.slice(0, 300)}`);
  if (wrong.length > 10)
    shown.push(
      `${name}: … and ${wrong.length - 10} more (${source.length} rows in the source, ${target.length} in the target)`,
    );
  return shown;
}
