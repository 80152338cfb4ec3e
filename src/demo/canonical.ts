import { type DuckDBConnection, DuckDBInstance } from '@duckdb/node-api';
import pg from 'pg';
import { type CanonicalRow, type Cell, compareRows, type RowStream, type TableComparison } from './compare.ts';

const FETCH_ROWS = 2000;

/** How the values of one PostgreSQL type are written, so that equal values are equal text in both databases. */
interface Canonical {
  readonly postgres: (column: string) => string;
  readonly duckdb: (column: string) => string;
  /** Where the databases spell the same value differently. */
  readonly text?: (text: string) => string;
}

/** Microseconds since 1970: no zone, no style. */
const INSTANT: Canonical = {
  postgres: (c) => `(extract(epoch from ${c}) * 1000000)::bigint::text`,
  duckdb: (c) => `epoch_us(${c})::VARCHAR`,
};
const FLOAT: Canonical = {
  postgres: (c) => `${c}::text`,
  duckdb: (c) => `${c}::VARCHAR`,
  text: (text) => String(Number(text.replace(/^(-?)inf(inity)?$/i, '$1Infinity'))),
};
const BYTES: Canonical = { postgres: (c) => `encode(${c}, 'hex')`, duckdb: (c) => `lower(hex(${c}))` };
const ARRAY: Canonical = {
  postgres: (c) => `to_json(${c})::text`,
  duckdb: (c) => `to_json(${c})::VARCHAR`,
  text: (text) => JSON.stringify(JSON.parse(text)),
};
const PLAIN: Canonical = { postgres: (c) => `${c}::text`, duckdb: (c) => `${c}::VARCHAR` };

/** What the server prints, which a cast to text does not do for these: it adds a mask, or cuts blanks. */
const PRINTED: Canonical = {
  postgres: (c) => `CASE WHEN ${c} IS NOT NULL THEN format('%s', ${c}) END`,
  duckdb: PLAIN.duckdb,
};

const BY_TYPE: Readonly<Record<string, Canonical>> = {
  timestamptz: INSTANT,
  timestamp: INSTANT,
  float4: FLOAT,
  float8: FLOAT,
  bytea: BYTES,
  inet: PRINTED,
  bpchar: PRINTED,
};

interface Column {
  readonly name: string;
  /** Name of the type, of the base type for a domain. */
  readonly type: string;
  readonly isArray: boolean;
  /** From 1; null for a column outside the primary key. */
  readonly keyPosition: number | null;
}

interface Table {
  readonly name: string;
  readonly columns: readonly Column[];
}

const COLUMNS = `
SELECT c.relname AS "table", a.attname AS name, base.typname AS type, base.typelem <> 0 AND base.typlen = -1 AS "isArray",
       array_position(i.indkey::int2[], a.attnum) AS "keyPosition"
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type base ON base.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY c.oid, a.attnum`;

const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`;
const canonicalOf = (column: Column): Canonical => (column.isArray ? ARRAY : (BY_TYPE[column.type] ?? PLAIN));

/**
 * Compares every row of every table of schema `public` with DuckDB's `main`. Both must be at rest, and no other process
 * may have the file open.
 */
export async function compareDatabases(
  url: string,
  duckdbFile: string,
  progress: (table: string, rows: number) => void = () => {},
): Promise<TableComparison[]> {
  const client = new pg.Client({ connectionString: url, ssl: false, application_name: 'waltide demo compare' });
  client.on('error', () => {}); // The query under way tells.
  const instance = await DuckDBInstance.create(duckdbFile, {
    access_mode: 'READ_ONLY',
    threads: '2',
    memory_limit: '512MB',
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
  });
  const connection = await instance.connect();
  try {
    await client.connect();
    await client.query(
      `SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1`,
    );
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const results: TableComparison[] = [];
    for (const table of await readTables(client)) {
      results.push(await compareTable(client, connection, table, (rows) => progress(table.name, rows)));
    }
    return results;
  } finally {
    connection.closeSync();
    instance.closeSync();
    await client.end().catch(() => {});
  }
}

async function readTables(client: pg.Client): Promise<Table[]> {
  const { rows } = await client.query<Column & { table: string }>(COLUMNS);
  const tables = new Map<string, Column[]>();
  for (const { table, ...column } of rows) tables.set(table, [...(tables.get(table) ?? []), column]);
  return [...tables].map(([name, columns]) => ({ name, columns }));
}

async function compareTable(
  client: pg.Client,
  connection: DuckDBConnection,
  table: Table,
  progress: (rows: number) => void,
): Promise<TableComparison> {
  const there = await targetColumns(connection, table.name);
  const known = new Set(table.columns.map(({ name }) => name));
  const unmatched = [
    ...table.columns.filter(({ name }) => !there.has(name)).map(({ name }) => ({ name, side: 'source' as const })),
    ...[...there].filter((name) => !known.has(name)).map((name) => ({ name, side: 'target' as const })),
  ];
  const { columns } = table;
  const key = columns.filter(({ keyPosition }) => keyPosition !== null);
  key.sort((a, b) => a.keyPosition! - b.keyPosition!);
  // Without a key the whole row takes its place.
  const sorted = (key.length > 0 ? key : columns).map((column) => columns.indexOf(column));
  const inSource = columns.map((column) => canonicalOf(column).postgres(quote(column.name)));
  const inTarget = columns.map((column) =>
    there.has(column.name) ? canonicalOf(column).duckdb(quote(column.name)) : 'NULL::VARCHAR',
  );
  const source = `SELECT ${inSource.join(', ')} FROM ${quote(table.name)}
    ORDER BY ${sorted.map((i) => `(${inSource[i]}) COLLATE "C" NULLS FIRST`).join(', ')}`;
  const target = `SELECT ${inTarget.join(', ')} FROM main.${quote(table.name)}
    ORDER BY ${sorted.map((i) => `${inTarget[i]} NULLS FIRST`).join(', ')}`;
  const normalise = normaliser(columns);
  return compareRows(
    { table: table.name, key: sorted, columns: columns.map(({ name }) => name), unmatched },
    postgresRows(client, source, normalise),
    there.size === 0 ? noRows() : duckdbRows(connection, target, normalise),
    progress,
  );
}

/** Empty where the table is not there. */
async function targetColumns(connection: DuckDBConnection, table: string): Promise<Set<string>> {
  const reader = await connection.runAndReadAll(
    `SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = 'main' AND table_name = $1`,
    [table],
  );
  return new Set(reader.getRows().map(([name]) => String(name)));
}

function normaliser(columns: readonly Column[]): (row: Cell[]) => CanonicalRow {
  const steps = columns.flatMap((column, index) => {
    const { text } = canonicalOf(column);
    return text ? [{ index, text }] : [];
  });
  return (row) => {
    for (const { index, text } of steps) {
      const value = row[index];
      if (typeof value === 'string') row[index] = text(value);
    }
    return row;
  };
}

async function* postgresRows(client: pg.Client, sql: string, normalise: (row: Cell[]) => CanonicalRow): RowStream {
  await client.query(`DECLARE waltide_demo NO SCROLL CURSOR FOR ${sql}`);
  for (;;) {
    const { rows } = await client.query<Cell[]>({
      text: `FETCH FORWARD ${FETCH_ROWS} FROM waltide_demo`,
      rowMode: 'array',
    });
    if (rows.length === 0) break;
    yield rows.map(normalise);
  }
  await client.query('CLOSE waltide_demo');
}

async function* duckdbRows(
  connection: DuckDBConnection,
  sql: string,
  normalise: (row: Cell[]) => CanonicalRow,
): RowStream {
  const result = await connection.stream(sql);
  for (;;) {
    const chunk = await result.fetchChunk();
    if (!chunk || chunk.rowCount === 0) break;
    yield chunk.getRows().map((row) => normalise(row as Cell[]));
  }
}

async function* noRows(): RowStream {}
