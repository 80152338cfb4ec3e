import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { createDatabase, query, startPostgres } from '../support/postgres.ts';

describe('embedded PostgreSQL', () => {
  let server: EmbeddedPostgres;
  beforeAll(async () => {
    server = await startPostgres({ wal_sender_timeout: '7s' });
  });
  afterAll(() => server.stop());

  it('is a PostgreSQL 18 ready for logical decoding, with the settings asked for', async () => {
    const rows = await query(
      server.url,
      `select current_setting('server_version_num')::int / 10000 as major, current_setting('wal_level') as wal_level,
        current_setting('wal_sender_timeout') as timeout, current_setting('server_encoding') as encoding`,
    );
    expect(rows).toEqual([{ major: 18, wal_level: 'logical', timeout: '7s', encoding: 'UTF8' }]);
  });

  it('refuses a wrong password', async () => {
    const url = new URL(server.url);
    url.password = 'wrong';
    await expect(query(url.href, 'select 1')).rejects.toThrow('password authentication failed');
  });

  it('keeps data, port and URL over a restart, a halt and a kill', async () => {
    const { url } = server;
    await query(url, 'create table kept(id int); insert into kept values (1)');
    await server.restart({ wal_sender_timeout: '9s' });
    await server.halt('immediate');
    expect(server.pid).toBeNull();
    await expect(query(url, 'select 1')).rejects.toThrow('ECONNREFUSED');
    await server.start();
    await server.kill();
    await server.start();
    expect(server.url).toBe(url);
    expect(await query(url, 'select id, current_setting($1) as timeout from kept', ['wal_sender_timeout'])).toEqual([
      { id: 1, timeout: '9s' },
    ]);
  });

  it('says what is wrong when the server does not start', async () => {
    await expect(startPostgres({ max_wal_senders: 'many' })).rejects.toThrow(/max_wal_senders/);
  });
});

describe('the shared server', () => {
  it('gives databases of their own, and drops them with their slots', async () => {
    const database = await createDatabase();
    await database.query(`select pg_create_logical_replication_slot('${database.name}', 'pgoutput')`);
    expect(await database.query('select current_database() as name')).toEqual([{ name: database.name }]);
    await database.drop();
    await expect(database.query('select 1')).rejects.toThrow('does not exist');
  });
});

describe('when the process that started it ends', () => {
  const program = fileURLToPath(new URL('./start-and-wait.ts', import.meta.url));

  async function run(mode: string): Promise<{ pid: number; home: string; child: ReturnType<typeof spawn> }> {
    const child = spawn(process.execPath, ['--import', 'tsx', program, mode], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(child.stdout!, 'data')) as [Buffer];
    const { pid, dataDir } = JSON.parse(String(line)) as { pid: number; dataDir: string };
    return { pid, home: dirname(dataDir), child };
  }

  async function expectGone(pid: number, home: string): Promise<void> {
    const deadline = Date.now() + 60_000;
    while (Date.now() < deadline && (existsSync(`/proc/${pid}`) || existsSync(home))) await sleep(50);
    expect({ server: existsSync(`/proc/${pid}`), home: existsSync(home) }).toEqual({ server: false, home: false });
  }

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGKILL'] as const) {
    it(`by ${signal}, neither server nor data stays behind`, async () => {
      const { pid, home, child } = await run('wait');
      child.kill(signal);
      await expectGone(pid, home);
    });
  }

  it('by process.exit, neither server nor data stays behind', async () => {
    const { pid, home } = await run('exit');
    await expectGone(pid, home);
  });
});
