import { afterEach, beforeEach, expect, it } from 'vitest';
import { withDuckdb } from '../support/compare.ts';
import { TYPES, TYPES_SQL } from '../support/every-type.ts';
import { held, printed, type Texts } from '../support/every-value.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { KEYED, RandomTable } from '../support/random-table.ts';

/** WALTIDE_VALUE_ROUNDS=50 for a long run; WALTIDE_VALUE_SEED=… to have one again. */
const ROUNDS = Number(process.env.WALTIDE_VALUE_ROUNDS ?? 3);
const SEED = Number(process.env.WALTIDE_VALUE_SEED ?? Date.now() % 1_000_000);
const TABLES = 4;
const PHASES = 3;
const STATEMENTS = 60;
/** Without values of more than a page, so that a round takes a second. */
const SHORT = TYPES.map((type) => ({ ...type, values: type.values.filter((value) => value.length < 3000) }));

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

/** Statements in transactions of random length, some of them rolled back, some to a savepoint. */
function script(random: Random, tables: readonly RandomTable[]): string[] {
  const transactions: string[] = [];
  for (let left = STATEMENTS; left > 0; ) {
    const count = 1 + random.int(12);
    left -= count;
    const list = Array.from({ length: count }, () => random.pick(tables).statement());
    if (random.int(4) === 0) list.push('savepoint s', random.pick(tables).statement(), 'rollback to savepoint s');
    transactions.push(`begin; ${list.join('; ')}; ${random.int(8) === 0 ? 'rollback' : 'commit'}`);
  }
  return transactions;
}

const sorted = (rows: Texts): string[] => rows.map((row) => JSON.stringify(row)).sort();

/** Ids of rows that are set aside. */
function setAside(path: string, table: string): Promise<string[]> {
  return withDuckdb(path, async (query) => {
    const rows = await query(
      `select distinct "key" from _waltide.dead_letters where resolved_at is null and table_name = '${table}'`,
    );
    return rows.map(([key]) => (JSON.parse(String(key)) as [string])[0]).sort();
  });
}

it.each(Array.from({ length: ROUNDS }, (_, round) => SEED + round))(
  'random changes of tables of random types, keys and identities, with columns that become text: seed %i',
  { timeout: 300_000 },
  async (seed) => {
    const random = new Random(seed);
    const tables = Array.from({ length: TABLES }, (_, i) => new RandomTable(random, `t${i}`, SHORT));
    await database.query(`${TYPES_SQL}; ${tables.map((table) => table.create()).join('; ')}`);
    const { config, path } = testPipeline(database, {}, {});
    for (let phase = 0; phase < PHASES; phase++) {
      for (const transaction of script(random, tables)) await database.query(transaction);
      expect(await catchUp(config), `seed ${seed}`).toEqual([]);
      for (const { name, identity } of tables) {
        const { rows } = await held(path, name);
        expect(sorted(rows), `seed ${seed}, ${name} with ${identity}, phase ${phase}`).toEqual(
          sorted(await printed(database.url, name)),
        );
      }
    }
  },
);

it.each(Array.from({ length: ROUNDS }, (_, round) => SEED + round))(
  'random changes, with rows that are set aside: what the sink lacks is what its dead letters name: seed %i',
  { timeout: 300_000 },
  async (seed) => {
    const random = new Random(seed);
    const tables = Array.from({ length: TABLES }, (_, i) => new RandomTable(random, `t${i}`, SHORT, KEYED));
    await database.query(`${TYPES_SQL}; ${tables.map((table) => table.create()).join('; ')}`);
    const { config, path } = testPipeline(database);
    for (const sink of config.sinks) sink.onUnrepresentable = 'dead-letter';
    for (let phase = 0; phase < PHASES; phase++) {
      for (const transaction of script(random, tables)) await database.query(transaction);
      expect(await catchUp(config), `seed ${seed}`).toEqual([]);
      for (const { name } of tables) {
        const { rows } = await held(path, name);
        const aside = await setAside(path, name);
        const source = await printed(database.url, name);
        const where = `seed ${seed}, ${name}, phase ${phase}`;
        expect(sorted(rows), where).toEqual(sorted(source.filter(([id]) => !aside.includes(String(id)))));
        expect(
          aside.filter((id) => !source.some(([known]) => known === id)),
          `${where}: set aside, but not in the source`,
        ).toEqual([]);
      }
    }
  },
);
