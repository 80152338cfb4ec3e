import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.ts';
import { startMetricsServer } from '../../src/metrics/server.ts';
import { catchUp, eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';

let database: TestDatabase;
let proxy: TcpProxy;
let config: Config;
let through: Config;

beforeEach(async () => {
  database = await createDatabase();
  await database.query('create table t (id int primary key)');
  proxy = await TcpProxy.before(database.url);
  ({ config } = testPipeline(database));
  through = { ...config, source: { ...config.source, url: proxy.through(database.url) } };
});
afterEach(async () => {
  await proxy.close();
  await database.drop();
});

/** As a walsender ends that came upon such a row, in place of what it would send next. The real thing takes gigabytes. */
function refuseRows(): void {
  const fields = 'SERROR\0VERROR\0CXX000\0Minvalid memory alloc request size 1200000081\0\0';
  const error = Buffer.concat([Buffer.from('E....'), Buffer.from(fields)]);
  error.writeUInt32BE(error.length - 1, 1);
  proxy.wire = async (piece) => {
    // CopyData ('d') with XLogData ('w') comes from a walsender alone, perhaps behind CopyBothResponse ('W') and keepalives.
    for (
      let at = 0;
      at + 5 < piece.length && (piece[at] === 0x57 || piece[at] === 0x64);
      at += 1 + piece.readUInt32BE(at + 1)
    )
      if (piece[at] === 0x64 && piece[at + 5] === 0x77) return [piece.subarray(0, at), error];
    return [piece];
  };
}

it('a row that PostgreSQL cannot send: a run without an end stays, unready, and says what to do', async () => {
  await catchUp(config);
  refuseRows();
  const running = start(through);
  const metrics = await startMetricsServer(
    { ...config.metrics, enabled: true, port: 0 },
    () => running.pipeline.status(),
    log,
  );
  try {
    await eventually('it streams', () => running.pipeline.status().source?.connected === true);
    await database.query('insert into t values (1)');
    await eventually('it stands still', () => running.pipeline.status().state === 'failed');
    const ready = await fetch(`${metrics!.url}/readyz`);
    expect(ready.status).toBe(503);
    expect(await ready.json()).toMatchObject({ reasons: [expect.stringMatching(/SOURCE_ROW_TOO_LONG.*--recopy/)] });
    // Alive: a new process would come to the same end.
    expect((await fetch(`${metrics!.url}/healthz`)).status).toBe(200);
    expect(await (await fetch(`${metrics!.url}/metrics`)).text()).toMatch(/waltide_state\{state="failed"\} 1/);
    // Once the server has noticed that nobody is there any more.
    await eventually('the slot is free', async () => {
      const [slot] = await database.query('select active from pg_replication_slots where slot_name = $1', [
        database.name,
      ]);
      return slot?.active === false;
    });
    await expect(running.stop()).rejects.toMatchObject({ code: 'SOURCE_ROW_TOO_LONG' });
  } finally {
    await metrics?.close();
  }
});

it('a run with a goal ends with it', async () => {
  await catchUp(config);
  await database.query('insert into t values (1)');
  refuseRows();
  await expect(catchUp(through)).rejects.toMatchObject({ code: 'SOURCE_ROW_TOO_LONG' });
});
