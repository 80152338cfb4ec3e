import { createHmac } from 'node:crypto';
import type { DuckDBConnection } from '@duckdb/node-api';
import pg from 'pg';
import { deriveKeys } from '../../src/protect/keys.ts';
import { unmask } from '../../src/protect/mask.ts';
import tidyTags from './transforms.mjs';

/*
 * Every table value by value: what PostgreSQL has, after the rules of waltide.yaml written down once more and independently,
 * and what DuckDB has. Both are asked for one text per value.
 */

interface Compared {
  /** A row must be there where this is true. */
  readonly where?: string;
  /** Columns of the source that are not there. */
  readonly drop?: readonly string[];
  /** New names, by the old ones. */
  readonly rename?: Readonly<Record<string, string>>;
  /** The whole row, as texts by the source's names. */
  readonly change?: (row: Record<string, string | null>) => Record<string, string | null>;
  /** What the text of a column becomes. */
  readonly masks?: Readonly<Record<string, Mask>>;
}

/** `told` is what the target says; what cannot be computed again is turned back. */
interface Mask {
  readonly source?: (text: string, key: string) => string;
  readonly target?: (text: string, key: string) => string;
}

const TABLES: Readonly<Record<string, Compared>> = {
  users: {
    masks: {
      email: { source: (text, key) => createHmac('sha256', deriveKeys(key).hash).update(text).digest('hex') },
      full_name: { target: (text, key) => unmask(key, text) },
      phone: { source: (text) => (text.length < 6 ? '***' : `***${text.slice(-3)}`) },
      hashed_password: { source: () => '***' },
    },
  },
  projects: {},
  domains: {},
  pages_v2: {},
  project_pages: {
    where: "review_status <> 'irrelevant'",
    drop: ['internal_score'],
    rename: { reviewer_notes: 'notes' },
    change: (row) => tidyTags(row, { schema: 'public', table: 'project_pages' }) as Record<string, string | null>,
  },
};

const POSTGRES: Readonly<Record<string, (column: string) => string>> = {
  timestamptz: (c) => `to_char(${c} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')`,
  timestamp: (c) => `to_char(${c}, 'YYYY-MM-DD HH24:MI:SS.US')`,
  bytea: (c) => `encode(${c}, 'hex')`,
  float8: (c) => `encode(float8send(${c}), 'hex')`,
  bool: (c) => `CASE WHEN ${c} THEN 'true' WHEN NOT ${c} THEN 'false' END`,
};
const DUCKDB: Readonly<Record<string, (column: string) => string>> = {
  timestamptz: (c) => `strftime(${c} AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%f')`,
  timestamp: (c) => `strftime(${c}, '%Y-%m-%d %H:%M:%S.%f')`,
  bytea: (c) => `lower(hex(${c}))`,
  float8: (c) => `${c}`,
  _text: (c) => `to_json(${c})`,
};

const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`;

function bits(value: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.toString('hex');
}

/** PostgreSQL's text of a text[], as JSON. */
function arrayText(value: string): string {
  const items = [...value.slice(1, -1).matchAll(/"((?:[^"\\]|\\.)*)"|([^,]+)/gs)];
  return JSON.stringify(
    items.map(([, quoted, plain]) => (quoted === undefined ? plain : quoted.replace(/\\(.)/gs, '$1'))),
  );
}

export interface TableCount {
  readonly table: string;
  readonly rows: number;
}

/** Differences in words, none where every value is as it must be, and the rows of each table. */
export async function compareArchive(
  url: string,
  target: DuckDBConnection,
  key: string,
): Promise<{ differences: string[]; tables: TableCount[] }> {
  const client = new pg.Client(url);
  await client.connect();
  const differences: string[] = [];
  const tables: TableCount[] = [];
  try {
    for (const [table, rules] of Object.entries(TABLES)) {
      const { rows: all } = await client.query<{ name: string; type: string }>(
        `SELECT attname AS name, t.typname AS type FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`,
        [table],
      );
      const columns = all.filter(({ name }) => !rules.drop?.includes(name));
      const expected = await sourceRows(client, table, columns, rules, key);
      const found = await targetRows(target, table, columns, rules, key);
      differences.push(...differing(table, expected, found));
      tables.push({ table, rows: expected.length });
    }
  } finally {
    await client.end();
  }
  return { differences, tables };
}

type Columns = readonly { readonly name: string; readonly type: string }[];

async function sourceRows(
  client: pg.Client,
  table: string,
  columns: Columns,
  { where = 'true', change, masks = {} }: Compared,
  key: string,
): Promise<string[]> {
  const list = columns.map(
    ({ name, type }) => `${POSTGRES[type]?.(quote(name)) ?? `${quote(name)}::text`} AS ${quote(name)}`,
  );
  const { rows } = await client.query<Record<string, string | null>>(
    `SELECT ${list.join(', ')} FROM ${table} WHERE ${where}`,
  );
  return rows.map((plain) => {
    const row = change ? change(plain) : plain;
    return JSON.stringify(
      columns.map(({ name, type }) => {
        const text = row[name] ?? null;
        if (text === null) return null;
        return type === '_text' ? arrayText(text) : (masks[name]?.source?.(text, key) ?? text);
      }),
    );
  });
}

async function targetRows(
  target: DuckDBConnection,
  table: string,
  columns: Columns,
  { rename = {}, masks = {} }: Compared,
  key: string,
): Promise<string[]> {
  const list = columns.map(({ name, type }) => {
    const column = quote(rename[name] ?? name);
    return DUCKDB[masks[name] ? 'text' : type]?.(column) ?? `${column}::varchar`;
  });
  const rows = (await target.runAndReadAll(`SELECT ${list.join(', ')} FROM main.${quote(table)}`)).getRows();
  return rows.map((row) =>
    JSON.stringify(
      columns.map(({ name, type }, i) => {
        const value = row[i];
        if (value === null || value === undefined) return null;
        if (type === 'float8') return bits(Number(value));
        return masks[name]?.target?.(String(value), key) ?? String(value);
      }),
    ),
  );
}

/** As multisets: a row too many counts as much as one too few. */
function differing(table: string, expected: readonly string[], found: readonly string[]): string[] {
  const counts = new Map<string, number>();
  for (const row of expected) counts.set(row, (counts.get(row) ?? 0) + 1);
  for (const row of found) counts.set(row, (counts.get(row) ?? 0) - 1);
  const wrong = [...counts].filter(([, count]) => count !== 0);
  return wrong
    .slice(0, 10)
    .map(([row, count]) => `${table}: ${count > 0 ? 'missing' : 'extra'} ${row.slice(0, 400)}`)
    .concat(wrong.length > 10 ? [`${table}: and ${wrong.length - 10} more`] : []);
}
