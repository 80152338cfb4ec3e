import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { createDatabase, startPostgres } from '../support/postgres.ts';
import type { PostgresVersion } from '../support/postgres-package.ts';
import { randomTransactions, readSlot } from './transactions.ts';

const seed = Number(process.env.WALTIDE_TEST_SEED ?? Date.now() % 1_000_000);
const versions: readonly PostgresVersion[] = [14, 15, 16, 17, 18];

/** Streams every change at once (16+): the server's own switch for tests of receivers like this one. */
const IMMEDIATE = '-c debug_logical_replication_streaming=immediate';

describe.each(versions)('the same events by every protocol, PostgreSQL %s', (version) => {
  let server: EmbeddedPostgres;
  const stateDir = mkdtempSync(join(tmpdir(), 'waltide-test-'));
  beforeAll(async () => {
    server = await startPostgres({ logical_decoding_work_mem: '64kB', max_prepared_transactions: '50' }, { version });
  });
  afterAll(async () => {
    await server?.stop();
  });

  it.each([false, true])(
    'of random transactions, interleaved and rolled back to savepoints; awkward: %s',
    async (awkward) => {
      console.info(`seed ${seed}`);
      const database = await createDatabase(server.url);
      await database.query(
        'create table shared (id serial primary key, note text); create publication everything for all tables',
      );
      const prepare = version >= 15 && !awkward;
      const slots = { plain: `plain_${awkward}`, prepared: `prepared_${awkward}` };
      for (const slot of Object.values(slots))
        await database.query(`select pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
      await randomTransactions(database, { seed: seed + version, steps: 300, prepare, awkward });
      const read = (protocol: Parameters<typeof readSlot>[2], options = '', slot = slots.plain) =>
        readSlot(database, slot, protocol, stateDir, options);

      const oracle = await read({ version: 1, streaming: 'off' });
      expect(oracle.events.length).toBeGreaterThan(1000);
      expect(oracle.protocol).toMatchObject({ version: 1, streaming: 'off' });
      const streamed = await read({ version: 2, streaming: 'on' });
      expect(streamed.events).toEqual(oracle.events);
      expect(streamed.most.openTransactions).toBeGreaterThan(1);
      const spilled = await read({ streaming: 'on', memoryBytesMax: 1000 });
      expect(spilled.events).toEqual(oracle.events);
      // What only the end of a transaction makes clear, and where the server fails, is read again without streaming.
      if (!awkward) expect([streamed.protocol?.degraded, spilled.protocol?.degraded]).toEqual([null, null]);
      expect(spilled.most.spilledBytes).toBeGreaterThan(10_000);
      expect(readdirSync(stateDir)).toEqual([]);
      if (version >= 16) {
        const parallel = await read({ streaming: 'parallel', memoryBytesMax: 1000 }, IMMEDIATE);
        expect(parallel.events).toEqual(oracle.events);
        expect(parallel.protocol).toMatchObject(awkward ? { version: 4 } : { version: 4, streaming: 'parallel' });
      }
      if (!prepare) return;
      for (const streaming of ['off', 'on'] as const) {
        const prepared = await read({ twoPhase: true, streaming }, '', slots.prepared);
        expect(prepared.events).toEqual(oracle.events);
        expect(prepared.protocol).toMatchObject({ version: version >= 16 ? 4 : 3, twoPhase: true });
      }
    },
  );
});
