import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';

/*
 * Goal: a slot that someone else advanced, rewound or made anew loses and repeats nothing silently. Method: an
 * append-only sink, which shows every event that comes, and a proxy to meddle while the connection is gone.
 */
let database: TestDatabase;
let config: Config;
let sink: MemorySink;

beforeEach(async () => {
  database = await createDatabase();
  await database.query('create table t (id int primary key)');
  sink = new MemorySink('memory');
  ({ config } = testPipeline(database, { sinks: [] }));
  await catchUp(config, { sinks: [sink] });
});
afterEach(() => database.drop());

const keys = (): number[] => sink.events.flatMap(({ op, key }) => (op === 'c' ? [Number(key)] : []));

describe('a slot in other hands', () => {
  it('that was rewound gives nothing twice', async () => {
    const early = `${database.name}_early`;
    await database.query('select pg_copy_logical_replication_slot($1, $2)', [database.name, early]);
    await database.query('insert into t values (1), (2)');
    await catchUp(config, { sinks: [sink] });
    await database.query('select pg_drop_replication_slot($1)', [database.name]);
    await database.query('select pg_copy_logical_replication_slot($1, $2)', [early, database.name]);
    await database.query('select pg_drop_replication_slot($1)', [early]);
    await database.query('insert into t values (3)');
    await catchUp(config, { sinks: [sink] });
    expect(keys()).toEqual([1, 2, 3]);
  });

  it('that was made anew, or advanced, is refused at the start', async () => {
    await database.query('insert into t values (1)');
    await database.query('select pg_drop_replication_slot($1)', [database.name]);
    await database.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [database.name]);
    await expect(catchUp(config, { sinks: [sink] })).rejects.toMatchObject({
      code: 'SLOT_AHEAD',
      message: expect.stringContaining('what lies between is gone'),
      help: expect.stringContaining('--recopy'),
    });
    expect(keys()).toEqual([]);
  });

  it('that was advanced, or made anew, while the connection was gone is noticed', async () => {
    for (const meddle of [
      'select pg_replication_slot_advance($1, pg_current_wal_lsn())',
      "select pg_drop_replication_slot($1), pg_create_logical_replication_slot($1, 'pgoutput')",
    ]) {
      const proxy = await TcpProxy.before(database.url);
      const cut = { ...config, source: { ...config.source, url: proxy.through(database.url) } };
      const own = new MemorySink('memory');
      await catchUp(config, { recopy: true, sinks: [own] });
      const running = start(cut, { sinks: [own] });
      await eventually('it streams', () => running.pipeline.status().source?.connected === true);
      // Nobody listens there.
      proxy.aim(1);
      proxy.cut();
      await eventually('the slot is free', async () => {
        const [slot] = await database.query('select active from pg_replication_slots where slot_name = $1', [
          database.name,
        ]);
        return slot?.active === false;
      });
      await database.query('insert into t select coalesce(max(id), 0) + 1 from t');
      await database.query(meddle, [database.name]);
      proxy.aim(Number(new URL(database.url).port));
      await expect(running.finished).rejects.toMatchObject({ code: 'SLOT_AHEAD' });
      await proxy.close();
    }
  });
});
