/*
 * A process that does tracked work until it is killed. Arguments: configuration as JSON, a comma-separated list of sync types.
 * While it works it holds the advisory lock (42, number of the type) in a session of its own: where that cannot be had,
 * two work at once, which it writes to table `violations`. Each finished piece is a row of `pieces`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Config } from '../../src/config/schema.ts';
import { createLog } from '../../src/log.ts';
import { Tracker } from '../../src/postgres/tracked.ts';

const [json, types] = process.argv.slice(2) as [string, string];
const config = JSON.parse(json) as Config;
const tracker = new Tracker({
  source: config.source,
  tracking: config.tracking,
  log: createLog({ level: 'fatal', format: 'json' }),
  version: '0',
  role: 'test',
});
await tracker.open();
process.stdout.write(`${tracker.instance}\n`);
const client = new pg.Client({ connectionString: config.source.url, application_name: tracker.instance });
await client.connect();

async function work(syncType: string, number: number): Promise<void> {
  for (;;) {
    await tracker
      .tracked(
        syncType,
        async (run) => {
          const { rows } = await client.query<{ locked: boolean }>('select pg_try_advisory_lock(42, $1) as locked', [
            number,
          ]);
          if (!rows[0]!.locked) await client.query('insert into violations values ($1)', [syncType]);
          for (let records = 1; records <= 5; records++) {
            await sleep(Math.random() * 20);
            run.progress({ records });
          }
          await client.query('insert into pieces values ($1, $2)', [syncType, tracker.instance]);
          await client.query('select pg_advisory_unlock(42, $1)', [number]);
        },
        { wait: true },
      )
      .catch((error: { code?: string }) => {
        if (error.code !== 'RUN_LOST') throw error;
      });
  }
}

await Promise.all(types.split(',').map(work));
