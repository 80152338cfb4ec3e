import pg from 'pg';
import { damage } from './compare.ts';
import { catchUp, type TestPipeline } from './pipeline.ts';
import type { TestDatabase } from './postgres.ts';

/*
 * A table whose copy is damaged by hand in every way that rows can differ, and writes that go on beside. Ids in the source
 * are even, so that an odd one is extra; writers keep away from what was planted, which they would mend.
 */

export const PLANTED_TABLE = `
create table planted (id bigint primary key, n bigint not null, f float8 not null, b bytea, s text, a int[], j jsonb,
  d numeric(12,2) not null, at timestamptz, day date)`;

const FILL = `
insert into planted select i * 2, i::bigint * 7919, sqrt(i), decode(md5(i::text), 'hex'), case when i % 3 > 0 then 'line ' || i end,
  array[i, i + 1, i % 5]::int[], jsonb_build_object('x', (i % 100) / 8.0, 'y', i), (i % 100000) / 100.0,
  timestamptz '2026-01-01' + i * interval '1.000001 s', date '0044-03-15' + (i % 1000)::int
from generate_series(1, $1::int) i`;

/** What each kind of damage does to the row with that id in DuckDB. */
const DAMAGES: readonly { readonly kind: 'missing' | 'extra' | 'different'; readonly sql: (id: number) => string }[] = [
  { kind: 'missing', sql: (id) => `delete from planted where id = ${id}` },
  { kind: 'extra', sql: (id) => `insert into planted select ${id + 1}, * exclude id from planted where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set n = xor(n, 1) where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set f = nextafter(f, 'infinity'::double) where id = ${id}` },
  {
    kind: 'different',
    sql: (id) =>
      `update planted set b = unhex(left(hex(b), 31) || translate(right(hex(b), 1), '0123456789ABCDEF', '1032547698BADCFE')) where id = ${id}`,
  },
  { kind: 'different', sql: (id) => `update planted set s = coalesce(s || ' ', '') where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set "at" = 'infinity' where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set day = '0044-03-15 (BC)' where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set a = list_reverse(a) where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set j = replace(j, '}', ' }') where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set d = d + 0.01 where id = ${id}` },
  { kind: 'different', sql: (id) => `update planted set "at" = "at" + interval 1 microsecond where id = ${id}` },
];

export interface Planted {
  /** By key, as text. */
  readonly expected: ReadonlyMap<string, 'missing' | 'extra' | 'different'>;
  readonly isPlanted: (id: number) => boolean;
}

/** Fills the table, copies it, and plants so many differences, evenly over it. */
export async function plant(database: TestDatabase, test: TestPipeline, rows: number, count: number): Promise<Planted> {
  await database.query(PLANTED_TABLE);
  await database.query(FILL, [rows]);
  await database.query('analyze planted');
  await catchUp(test.config);
  const expected = new Map<string, 'missing' | 'extra' | 'different'>();
  const statements: string[] = [];
  const ids = new Set<number>();
  for (let i = 0; i < count; i++) {
    const id = 2 * (1 + Math.floor((i * rows) / count));
    const { kind, sql } = DAMAGES[i % DAMAGES.length]!;
    ids.add(id);
    statements.push(sql(id));
    expected.set(String(kind === 'extra' ? id + 1 : id), kind);
  }
  await damage(test.path, 'begin', ...statements, 'commit');
  return { expected, isPlanted: (id) => ids.has(id) };
}

export interface Writer {
  /** Rows written by now. */
  readonly written: () => number;
  stop(): Promise<void>;
}

/** Inserts, updates and deletes without a pause, one transaction after another, and some rows in each of them. */
export function write(url: string, rows: number, isPlanted: (id: number) => boolean): Writer {
  let stopped = false;
  let written = 0;
  let next = rows + 1;
  const pick = (): number => {
    for (;;) {
      const id = 2 * (1 + Math.floor(Math.random() * rows));
      if (!isPlanted(id)) return id;
    }
  };
  const hot = [pick(), pick()];
  const run = async (): Promise<void> => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      while (!stopped) {
        const updated = [...hot, ...Array.from({ length: 6 }, pick)];
        await client.query('begin');
        await client.query(`update planted set n = n + 1, s = 'now ' || clock_timestamp() where id = any ($1)`, [
          updated,
        ]);
        await client.query('delete from planted where id = $1', [pick()]);
        await client.query(
          `insert into planted select 2 * $1::bigint, $1, 0, '\\x', '', '{}', '{}', 0, now(), 'today' on conflict do nothing`,
          [next++],
        );
        await client.query('commit');
        written += updated.length + 2;
        // Leaves the pipeline some of the two cores.
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    } finally {
      await client.end();
    }
  };
  const done = run();
  done.catch(() => {});
  return {
    written: () => written,
    stop: async () => {
      stopped = true;
      await done;
    },
  };
}
