import type { Connection } from '@duckdb/node-bindings';
import type { Relation } from '../../event/relation.ts';
import type { KeyText } from '../../postgres/snapshots.ts';
import { keyName, ROW_HASH_CHARS, rowTextSql } from '../../validation/row-text.ts';
import type {
  Cells,
  Digest,
  Digestible,
  DigestTable,
  HeldColumn,
  KeyRange,
  Orphan,
  Reference,
  RowDigest,
} from '../../validation/validation.ts';
import {
  bucketSql,
  cellSql,
  changed,
  columnOf,
  EMPTY,
  type Held,
  heldColumn,
  numberSql,
  type ReadColumns,
  readColumns,
  whereSql,
} from './digest-sql.ts';
import { sqlName, type TableName } from './layout.ts';
import { quoteName, targetSchema } from './names.ts';
import { rangeDigests } from './range-digest.ts';
import { targetOfColumn } from './schema.ts';
import { sourceTextSql } from './source-text.ts';
import { readRows } from './state.ts';

/** Gives `work` a connection of its own, in a transaction that only reads. */
export type Reading = <T>(work: (connection: Connection) => Promise<T>, signal: AbortSignal) => Promise<T>;

/** Compares tables of a DuckDB file: digests are made by DuckDB itself, from the very texts that PostgreSQL prints. */
export class DuckdbDigests implements Digestible {
  readonly #held: (relation: Relation) => Held | null;
  readonly #reading: Reading;
  /** Tables whose rows do not lie in the order of their key; forgotten when the next comparison begins. */
  readonly #unordered = new Set<number>();

  constructor(held: (relation: Relation) => Held | null, reading: Reading) {
    this.#held = held;
    this.#reading = reading;
  }

  async describe(relation: Relation): Promise<ReadonlyMap<string, HeldColumn> | null> {
    const held = this.#held(relation);
    if (!held) return null;
    this.#unordered.delete(relation.oid);
    const columns = new Map<string, HeldColumn>();
    for (const column of relation.columns) {
      const own = columnOf(held, column.name);
      if (own) columns.set(column.name, heldColumn(own, column));
    }
    return columns;
  }

  async digests(table: DigestTable, ranges: readonly KeyRange[], signal: AbortSignal): Promise<Digest[]> {
    const columns = this.#columns(table);
    const { oid } = table.relation;
    return this.#reading(async (connection) => {
      const asTheyLie = this.#unordered.has(oid) ? null : await rangeDigests(connection, columns, ranges, false);
      if (asTheyLie) return asTheyLie;
      this.#unordered.add(oid);
      return (await rangeDigests(connection, columns, ranges, true))!;
    }, signal);
  }

  async rowDigests(table: DigestTable, ranges: readonly KeyRange[], signal: AbortSignal): Promise<RowDigest[]> {
    const columns = this.#columns(table);
    const rows = await this.#read(
      `SELECT ${columns.key.map(({ text }) => text).join(', ')}, left(sha256(${rowTextSql(columns.fields)}), ${ROW_HASH_CHARS})
       FROM ${columns.from} WHERE ${whereSql(columns, ranges)}`,
      signal,
    );
    return rows.map((row) => ({ key: row.slice(0, -1).map(String), hash: String(row.at(-1)), copies: 1 }));
  }

  async rows(
    table: DigestTable,
    keys: readonly KeyText[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, readonly Cells[]>> {
    const columns = this.#columns(table);
    const names = columns.key.map((_, i) => `w${i}`);
    const wanted = keys.map((key) => `(${columns.key.map((column, i) => column.literal(key[i]!)).join(', ')})`);
    const rows = await this.#read(
      `SELECT ${[...columns.key, ...columns.all].map(({ text }, i) => (i < columns.key.length ? text : cellSql(text))).join(', ')}
       FROM (VALUES ${wanted.join(', ')}) AS w (${names.join(', ')})
       JOIN ${columns.from} ON ${columns.key.map(({ sql }, i) => `${sql} = w${i}`).join(' AND ')}`,
      signal,
    );
    const found = new Map<string, Cells[]>();
    for (const row of rows) {
      const name = keyName(row.slice(0, columns.key.length).map(String));
      const cells = row.slice(columns.key.length).map((cell) => (cell === null ? null : String(cell)));
      found.set(name, [...(found.get(name) ?? []), cells]);
    }
    return found;
  }

  async buckets(table: DigestTable, count: number, signal: AbortSignal): Promise<Digest[]> {
    const columns = this.#columns(table);
    const rows = await this.#read(
      `SELECT bucket, count(*)::VARCHAR, concat(sum(${numberSql('h', 1)}), ' ', sum(${numberSql('h', 16)}))
       FROM (${bucketSql(columns, count)}) GROUP BY bucket`,
      signal,
    );
    const found = new Map(rows.map(([part, n, hash]) => [Number(part), { rows: Number(n), hash: String(hash) }]));
    return Array.from({ length: count }, (_, bucket) => found.get(bucket) ?? EMPTY);
  }

  async bucketRows(
    table: DigestTable,
    count: number,
    buckets: readonly number[],
    signal: AbortSignal,
  ): Promise<RowDigest[]> {
    const columns = this.#columns(table);
    const names = ['h', ...columns.key.map((_, i) => `k${i}`)].join(', ');
    const rows = await this.#read(
      `SELECT count(*)::VARCHAR, ${names}
       FROM (${bucketSql(columns, count)}) WHERE bucket IN (${buckets.map(Number).join(', ')}) GROUP BY ${names}`,
      signal,
    );
    return rows.map(([copies, hash, ...key]) => ({
      key: key.map(String),
      hash: String(hash).slice(0, ROW_HASH_CHARS),
      copies: Number(copies),
    }));
  }

  async orphans({ from, columns, to, toColumns }: Reference, max: number, signal: AbortSignal): Promise<Orphan[]> {
    const [child, parent] = [this.#held(from), this.#held(to)];
    if (!child || !parent) return [];
    const texts = columns.map((name) => {
      const own = columnOf(child, name);
      return own ? sourceTextSql(targetOfColumn(own), `c.${quoteName(name)}`) : `NULL`;
    });
    const meets = columns.map((name, i) => `p.${quoteName(toColumns[i]!)} = c.${quoteName(name)}`);
    const rows = await this.#read(
      `SELECT count(*)::VARCHAR, ${texts.map((text, i) => `${text} AS k${i}`).join(', ')} FROM ${sqlName(child.name)} AS c
       WHERE ${columns.map((name) => `c.${quoteName(name)} IS NOT NULL`).join(' AND ')}
         AND NOT EXISTS (SELECT 1 FROM ${sqlName(parent.name)} AS p WHERE ${meets.join(' AND ')})
       GROUP BY ALL LIMIT ${max}`,
      signal,
    );
    return rows.map(([count, ...key]) => ({ key: key.map(String), rows: Number(count) }));
  }

  #read(sql: string, signal: AbortSignal): Promise<unknown[][]> {
    return this.#reading((connection) => readRows(connection, sql), signal);
  }

  #columns(table: DigestTable): ReadColumns {
    const held = this.#held(table.relation);
    if (!held) throw changed(table, 'it is not held any more');
    return readColumns(held, table);
  }
}

/** Where a source table lies in the file. */
export function heldName(
  catalog: string,
  { schema, table }: { readonly schema: string; readonly table: string },
): TableName {
  return { catalog, schema: targetSchema(schema), table };
}
