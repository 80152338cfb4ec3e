import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { type SinkColumn, targetOfColumn } from '../../src/sink/duckdb/schema.ts';
import { sourceTextSql } from '../../src/sink/duckdb/source-text.ts';
import { withDuckdb } from '../support/compare.ts';
import { TYPES, TYPES_SQL } from '../support/every-type.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

/*
 * Every type × every edge value, in one wide table: copied, inserted while streaming, and brought by an update. Row 0
 * is NULL throughout. The oracle is what the server's output functions print.
 */

const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;
const column = (index: number): string => `c${index}`;
const COLUMNS = TYPES.map(({ type }, i) => `${column(i)} ${type}`).join(', ');
const PHASES = { copied: 0, inserted: 1000, updated: 2000 };

/** One INSERT per row: its id and, of each type, the value of that number, or NULL where there are fewer. */
function inserts(base: number, values: (index: number) => readonly string[]): string {
  const count = Math.max(...TYPES.map((_, i) => values(i).length)) + 1;
  const rows = Array.from({ length: count }, (_, row) => {
    const cells = TYPES.map((_, i) => {
      const value = row === 0 ? undefined : values(i)[row - 1];
      return value === undefined ? 'NULL' : literal(value);
    });
    return `insert into every values (${[base + row, ...cells].join(', ')})`;
  });
  return rows.join(';\n');
}

/** Ids with the texts that the server prints, read as Waltide's sessions read. */
async function oracle(url: string): Promise<unknown[][]> {
  const client = new pg.Client({
    connectionString: url,
    types: { getTypeParser: () => (text: string) => text } as never,
  });
  await client.connect();
  try {
    await client.query(
      "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3; set search_path = pg_catalog",
    );
    return (await client.query({ text: 'select * from public.every order by id', rowMode: 'array' })).rows;
  } finally {
    await client.end();
  }
}

interface Held {
  readonly rows: readonly (readonly unknown[])[];
  readonly types: readonly string[];
}

async function held(path: string): Promise<Held> {
  return withDuckdb(path, async (query) => {
    const [[json]] = (await query(`select "columns" from _waltide.tables where table_name = 'every'`)) as [[string]];
    const columns = (JSON.parse(json) as SinkColumn[]).slice(1);
    const texts = columns.map((c) => sourceTextSql(targetOfColumn(c), c.name));
    const rows = await query(`select id::varchar, ${texts.join(', ')} from every order by id`);
    const types = await query("select column_type from (describe every) where column_name <> 'id'");
    return { rows, types: types.map(([type]) => String(type).replace(/^ENUM.*/, 'ENUM')) };
  });
}

/** Per type, what differs. */
function compare(expected: readonly (readonly unknown[])[], rows: Held['rows']): string[] {
  expect(rows.map(([id]) => id)).toEqual(expected.map(([id]) => id));
  return TYPES.flatMap(({ type }, i) =>
    expected.flatMap((row, r) => {
      const [want, got] = [row[i + 1], rows[r]![i + 1]];
      return want === got
        ? []
        : [`${type} in row ${row[0]}: ${String(want).slice(0, 80)} became ${String(got).slice(0, 80)}`];
    }),
  );
}

describe('every value of every type, PostgreSQL → DuckDB in-process', () => {
  let database: TestDatabase;
  let config: Config;
  let path: string;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query(TYPES_SQL);
    await database.query(`create table every (id int primary key, ${COLUMNS})`);
    await database.query(inserts(PHASES.copied, (i) => TYPES[i]!.values));
    ({ config, path } = testPipeline(database));
  });
  afterAll(() => database?.drop());

  it('is the same by copy, insert and update', async () => {
    await catchUp(config);
    await database.query(inserts(PHASES.inserted, (i) => TYPES[i]!.values));
    await database.query(
      `insert into every (id) select id - ${PHASES.inserted} + ${PHASES.updated} from every where id >= ${PHASES.inserted}`,
    );
    const set = TYPES.map((_, i) => `${column(i)} = s.${column(i)}`).join(', ');
    await database.query(
      `update every set ${set} from every s where every.id >= ${PHASES.updated} and s.id = every.id - ${PHASES.updated}`,
    );
    expect(await catchUp(config)).toEqual([]);
    const { rows, types } = await held(path);
    expect(compare(await oracle(database.url), rows)).toEqual([]);
    expect(types).toEqual(TYPES.map(({ typed }) => typed ?? 'VARCHAR'));
  });

  it('turns a column to text where its type cannot hold a value, with what it held before', async () => {
    await database.query(inserts(3000, (i) => TYPES[i]!.wide ?? []));
    expect(await catchUp(config)).toEqual([]);
    const { rows, types } = await held(path);
    expect(compare(await oracle(database.url), rows)).toEqual([]);
    expect(types).toEqual(TYPES.map(({ typed, wide }) => (wide ? 'VARCHAR' : (typed ?? 'VARCHAR'))));
  });
});
