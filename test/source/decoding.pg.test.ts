import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { configSchema } from '../../src/config/schema.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import { migrate } from '../../src/postgres/control.ts';
import { identify } from '../../src/postgres/identity.ts';
import { readSlot } from '../../src/postgres/slot.ts';
import { WalSource } from '../../src/source/wal-source.ts';
import { eventually, log } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let client: pg.Client;
const stateDir = mkdtempSync(join(tmpdir(), 'waltide-test-'));
beforeEach(async () => {
  database = await createDatabase();
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
afterEach(async () => {
  await client.end();
  await database.drop();
  rmSync(stateDir, { recursive: true, force: true });
});

it('tells how far the server is with retained WAL that it decodes before it sends anything', async () => {
  const slot = database.name;
  await migrate(client);
  await client.query('create table t (id int, pad text); create publication everything for table t');
  await client.query(`select pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
  for (let i = 0; i < 10; i++)
    await client.query("insert into t select i, repeat('x', 500) from generate_series(1, 10000) i");
  const from = parseLsn((await client.query('select pg_current_wal_flush_lsn() lsn')).rows[0].lsn as string);
  const { restartLsn } = (await readSlot(client, slot))!;
  const { source: config } = configSchema.parse({
    source: { url: database.url, slot, publication: 'everything', tables: ['*.*'] },
  });
  const identity = await identify(client, slot);
  const source = new WalSource({
    ...{ config, identity, publications: ['everything'], captured: null, hides: () => false, from, stateDir, log },
  });
  const stop = new AbortController();
  const told: { lsn: bigint; until: bigint }[] = [];
  let through = false;
  const looking = (async () => {
    while (!stop.signal.aborted) {
      const { connected, decoding } = source.status;
      if (decoding) told.push(decoding);
      else through ||= connected;
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const streaming = (async () => {
    for await (const _ of source.stream(stop.signal));
  })();
  await eventually('the server is through', async () => through);
  stop.abort();
  await Promise.all([looking, streaming]);
  await source.close();
  const [first] = told;
  expect(first!.until).toBe(from);
  // The server may have noted where it can begin again since, which is not far from where that was.
  expect(first!.lsn).toBeGreaterThanOrEqual(restartLsn!);
  expect(first!.lsn).toBeLessThan(from);
});
