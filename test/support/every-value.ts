import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type SinkColumn, targetOfColumn } from '../../src/sink/duckdb/schema.ts';
import { sourceTextSql } from '../../src/sink/duckdb/source-text.ts';
import { withDuckdb } from './compare.ts';
import type { TypeCase } from './every-type.ts';
import { catchUp, type TestPipeline } from './pipeline.ts';
import type { TestDatabase } from './postgres.ts';
import { askForSnapshot } from './snapshots.ts';

export const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;
const column = (index: number): string => `c${index}`;
/** Ids of the rows of each phase begin here. */
const INSERTED = 1000;
const UPDATED = 2000;
const WIDE = 3000;

export type Texts = readonly (readonly unknown[])[];

/** One INSERT per row: its id and, of each type, the value of that number, or NULL where there are fewer. */
export function inserts(base: number, values: readonly (readonly string[])[]): string {
  const count = Math.max(...values.map(({ length }) => length)) + 1;
  const rows = Array.from({ length: count }, (_, row) => {
    const cells = values.map((texts) => {
      const value = row === 0 ? undefined : texts[row - 1];
      return value === undefined ? 'NULL' : literal(value);
    });
    return `insert into every values (${[base + row, ...cells].join(', ')})`;
  });
  return rows.join(';\n');
}

/** Ids with the texts that the server's output functions print, read as Waltide's sessions read. */
export async function printed(url: string, table: string): Promise<Texts> {
  const types = { getTypeParser: () => (text: string) => text } as never;
  const client = new pg.Client({ connectionString: url, types });
  await client.connect();
  try {
    await client.query(
      "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3; set search_path = pg_catalog",
    );
    return (await client.query({ text: `select * from public.${table} order by id`, rowMode: 'array' })).rows;
  } finally {
    await client.end();
  }
}

export interface Held {
  readonly rows: Texts;
  readonly types: readonly string[];
}

/** What the sink holds, in the texts that PostgreSQL prints. */
export async function held(path: string, table: string): Promise<Held> {
  return withDuckdb(path, async (query) => {
    const state = await query(`select "columns" from _waltide.tables where table_name = '${table}'`);
    const columns = (JSON.parse(String(state[0]![0])) as SinkColumn[]).filter(({ name }) => name !== 'id');
    const texts = columns.map((c) => sourceTextSql(targetOfColumn(c), `"${c.name.replaceAll('"', '""')}"`));
    const rows = await query(`select id::varchar, ${texts.join(', ')} from "${table}" order by id`);
    const types = await query(`select column_type from (describe "${table}") where column_name <> 'id'`);
    return { rows, types: types.map(([type]) => String(type).replace(/^ENUM.*/, 'ENUM')) };
  });
}

/** Per type, what differs. */
function differences(types: readonly TypeCase[], expected: Texts, rows: Texts): string[] {
  expect(rows.map(([id]) => id)).toEqual(expected.map(([id]) => id));
  const short = (value: unknown): string => JSON.stringify(value)?.slice(0, 80) ?? 'nothing';
  return types.flatMap(({ type }, i) =>
    expected.flatMap((row, r) => {
      const [want, got] = [row[i + 1], rows[r]![i + 1]];
      return want === got ? [] : [`${type} in row ${row[0]}: ${short(want)} became ${short(got)}`];
    }),
  );
}

export interface Road {
  readonly database: TestDatabase;
  readonly pipeline: TestPipeline;
}

/** What this server takes of the values, and what it refuses, as `type: value`: older versions know less. */
async function accepted(url: string, types: readonly TypeCase[]): Promise<{ types: TypeCase[]; refused: string[] }> {
  const client = new pg.Client(url);
  await client.connect();
  const refused: string[] = [];
  const takes = async (type: string, value: string): Promise<boolean> => {
    try {
      await client.query(`select ${literal(value)}::${type}`);
      return true;
    } catch {
      refused.push(`${type}: ${value.slice(0, 40)}`);
      return false;
    }
  };
  const taken: TypeCase[] = [];
  for (const { wide, ...type } of types) {
    const values: string[] = [];
    for (const value of type.values) if (await takes(type.type, value)) values.push(value);
    const wider: string[] = [];
    for (const value of wide ?? []) if (await takes(type.type, value)) wider.push(value);
    if (values.length > 0) taken.push({ ...type, values, ...(wider.length > 0 ? { wide: wider } : {}) });
  }
  await client.end();
  return { types: taken, refused };
}

/**
 * Every type × every edge value in one wide table: copied, inserted while streaming, brought by an update, and by a
 * snapshot beside the stream. Row 0 of each phase is NULL throughout. The oracle is what the server prints. `unknown` are
 * the values that a server of this version does not know.
 */
export function everyValue(
  name: string,
  open: () => Promise<Road>,
  setUp: string,
  all: readonly TypeCase[],
  unknown: readonly string[] = [],
): void {
  describe(name, () => {
    let road: Road;
    let types: readonly TypeCase[] = [];
    beforeAll(async () => {
      road = await open();
      await road.database.query(setUp);
      const taken = await accepted(road.database.url, all);
      expect(taken.refused).toEqual(unknown);
      types = taken.types;
      const columns = types.map(({ type }, i) => `${column(i)} ${type}`).join(', ');
      await road.database.query(`create table every (id int primary key, ${columns})`);
      await road.database.query(
        inserts(
          0,
          types.map(({ values }) => values),
        ),
      );
    });
    afterAll(() => road?.database.drop());

    it('is the same by copy, insert and update', async () => {
      const { database, pipeline } = road;
      await catchUp(pipeline.config);
      await database.query(
        inserts(
          INSERTED,
          types.map(({ values }) => values),
        ),
      );
      await database.query(
        `insert into every (id) select id - ${INSERTED} + ${UPDATED} from every where id >= ${INSERTED}`,
      );
      const set = types.map((_, i) => `${column(i)} = s.${column(i)}`).join(', ');
      await database.query(
        `update every set ${set} from every s where every.id >= ${UPDATED} and s.id = every.id - ${UPDATED} + ${INSERTED}`,
      );
      expect(await catchUp(pipeline.config)).toEqual([]);
      const { rows, types: found } = await held(pipeline.path, 'every');
      expect(differences(types, await printed(database.url, 'every'), rows)).toEqual([]);
      expect(found).toEqual(types.map(({ typed }) => typed ?? 'VARCHAR'));
    });

    it('turns a column to text where its type cannot hold a value, with what it held before', async () => {
      const { database, pipeline } = road;
      await database.query(
        inserts(
          WIDE,
          types.map(({ wide }) => wide ?? []),
        ),
      );
      expect(await catchUp(pipeline.config)).toEqual([]);
      const { rows, types: found } = await held(pipeline.path, 'every');
      expect(differences(types, await printed(database.url, 'every'), rows)).toEqual([]);
      expect(found).toEqual(types.map(({ typed, wide }) => (wide ? 'VARCHAR' : (typed ?? 'VARCHAR'))));
    });

    it('is the same by a snapshot beside the stream', async () => {
      const { database, pipeline } = road;
      await askForSnapshot(database, pipeline.config, 'every');
      await database.query(`delete from every where id = ${WIDE}`);
      expect(await catchUp(pipeline.config)).toEqual([]);
      const [snapshot] = await database.query('select state, rows_done::int as rows from waltide.snapshots');
      expect(snapshot).toMatchObject({ state: 'completed' });
      expect(snapshot!.rows).toBeGreaterThan(10);
      const { rows } = await held(pipeline.path, 'every');
      expect(differences(types, await printed(database.url, 'every'), rows)).toEqual([]);
    });
  });
}
