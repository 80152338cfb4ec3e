import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../src/config/schema.ts';
import { differences, type Masked, withDuckdb } from '../support/compare.ts';
import { ENCRYPTED, HASHED, LAST_FOUR, MASK_KEY, REDACTED } from '../support/masks.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { askForSnapshot } from '../support/snapshots.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

type Protect = NonNullable<ConfigInput['source']['protect']>;

const protect = (...rules: NonNullable<Protect['rules']>): { protect: Protect } => ({
  protect: { key: MASK_KEY, rules },
});

/** Keys of one and of two columns, whole rows as key, values out of line. */
const WORKLOAD_RULES = protect(
  { columns: ['public.account.id', 'public.account.owner', 'public.renamed_key.code'], mask: 'hash' },
  { columns: ['sales.order_line.order', 'public.renamed_key.body'], mask: 'encrypt' },
  { columns: ['public.account.note', 'public.event_log.what'], mask: 'partial' },
  { columns: ['*.account.balance', 'public.event_log.who'], mask: 'redact' },
);
const WORKLOAD_MASKED: Record<string, Masked> = {
  'public.account.id': HASHED,
  'public.account.owner': HASHED,
  'public.renamed_key.code': HASHED,
  'sales.order_line.order': ENCRYPTED,
  'public.renamed_key.body': ENCRYPTED,
  'public.account.note': LAST_FOUR,
  'public.event_log.what': LAST_FOUR,
  'public.account.balance': REDACTED,
  'public.event_log.who': REDACTED,
};

describe('masked columns, PostgreSQL → DuckDB', () => {
  it('are the mask of the source after the first copy, after every kind of change and after a copy beside changes', async () => {
    const { config, path } = testPipeline(database, { snapshot: { chunkRows: 40 } }, WORKLOAD_RULES);
    const compare = (): Promise<string[]> =>
      withDuckdb(path, (query) => differences(database.url, query, TABLES, WORKLOAD_MASKED));
    await database.query(SCHEMA);
    await runWorkload(database.url, 1, AbortSignal.timeout(500));
    expect(await catchUp(config)).toEqual([]);
    expect(await compare()).toEqual([]);
    for (let seed = 2; seed < 4; seed++) {
      await runWorkload(database.url, seed, AbortSignal.timeout(800));
      expect(await catchUp(config)).toEqual([]);
      expect(await compare(), `seed ${seed}`).toEqual([]);
    }
    const { stop } = start(config);
    const changes = runWorkload(database.url, 9, AbortSignal.timeout(2500));
    for (const table of ['account', 'event_log', 'renamed_key']) await askForSnapshot(database, config, table);
    await changes;
    await eventually('the snapshots are over', async () => {
      const left = await database.query("select from waltide.snapshots where state in ('pending', 'running')");
      return left.length === 0;
    });
    await stop();
    expect(await catchUp(config)).toEqual([]);
    expect(await compare()).toEqual([]);
  });

  it('refuses what would not be safe, before anything is read', async () => {
    await database.query('create table t (id int primary key, mail text)');
    const refused = (rules: Protect, message: RegExp): Promise<void> =>
      expect(catchUp(testPipeline(database, {}, { protect: rules }).config)).rejects.toThrow(message);
    await refused(protect({ columns: ['*.t.id'], mask: 'redact' }).protect, /public\.t\.id belongs to the key/);
    await refused(protect({ columns: ['public.t.email'], mask: 'hash' }).protect, /public\.t\.email is no column of/);
    await refused({ rules: [{ columns: ['public.t.mail'], mask: 'hash' }] }, /need a key/);
    await refused({ keyFile: '/nowhere', rules: [{ columns: ['public.t.mail'], mask: 'hash' }] }, /cannot be read/);
    expect(await database.query('select from pg_replication_slots where slot_name = $1', [database.name])).toEqual([]);
  });
});
