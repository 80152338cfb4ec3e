import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { API_BASE } from '../../src/api/route.ts';
import { ask } from '../api/support.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { startWaltide, writeConfig } from '../support/waltide-process.ts';

/* As many threads as Node has by default are held by queries: the stream goes on, and each query ends in its time. */

test('long queries hold nothing up, and end', { timeout: 240_000 }, async () => {
  const database = await createDatabase();
  await database.query('create table items (id int primary key); insert into items values (1)');
  const { folder, file } = writeConfig({
    source: { url: database.url, slot: database.name, publication: database.name, tables: ['public.*'] },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    stateDir: 'state',
    api: { enabled: true, port: 0, auth: 'none' },
    log: { format: 'json' },
  });
  const running = startWaltide(['run', '--config', file]);
  try {
    await running.saw(/"streaming"/);
    const [, address] = await running.saw(/"apiAddress":"([^"]+)"/);
    const url = address + API_BASE;
    let ended = 0;
    const queries = Array.from({ length: 4 }, async () => {
      const sql = 'select count(*) from range(1000000000000)';
      const answer = await ask(`${url}/sinks/analytics/query`, { method: 'POST', body: { sql, timeout_ms: 20_000 } });
      ended++;
      return answer;
    });
    await eventually('the four run', async () => {
      const more = await ask(`${url}/sinks/analytics/query`, { method: 'POST', body: { sql: 'select 1' } });
      return more.status === 422 && more.json.detail.includes('4 queries are running');
    });
    await database.query('insert into items select generate_series(2, 1000)');
    const [{ lsn } = {}] = await database.query('select pg_current_wal_flush_lsn()::text as lsn');
    const waited = await ask(`${url}/sync/wait?lsn=${encodeURIComponent(String(lsn))}&timeout=60s`, {});
    expect(waited.status).toBe(200);
    expect(ended, 'queries that have ended before the rows were applied').toBe(0);
    for (const { status, json } of await Promise.all(queries))
      expect([status, json.detail]).toEqual([422, 'the query took longer than 20000 ms']);
  } finally {
    running.child.kill('SIGTERM');
    await running.finished;
    await database.drop();
    rmSync(join(folder), { recursive: true, force: true });
  }
});
