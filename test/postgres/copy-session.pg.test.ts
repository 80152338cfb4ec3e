import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { COPY_DATA, CopySession, ServerError } from '../../src/postgres/copy-session.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

const options = { applicationName: 'test', timeoutMs: 5000 };

describe('CopySession', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  it('rejects with the refusal of the server, and leaves nothing that would hang', { timeout: 60_000 }, async () => {
    const client = await connect(database.url, { ...options, replication: true });
    const refused = CopySession.start(client, 'START_REPLICATION SLOT "nowhere" LOGICAL 0/0 (proto_version \'1\')');
    await expect(refused).rejects.toThrow(ServerError);
    await client.end();
  });

  it('reads every row of a COPY, and then null', async () => {
    const client = await connect(database.url, options);
    const session = await CopySession.start(client, 'COPY (SELECT g FROM generate_series(1, 100000) g) TO STDOUT');
    let rows = 0;
    for (let frames = await session.read(); frames; frames = await session.read()) {
      for (let at = 0; at < frames.length; at += 1 + frames.readUInt32BE(at + 1)) {
        if (frames[at] === COPY_DATA) rows++;
        else session.control(frames, at);
      }
    }
    expect(rows).toBe(100_000);
    session.destroy();
    await client.end();
  });

  it('rejects a read when the server ends the connection', async () => {
    const client = await connect(database.url, options);
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
    const session = await CopySession.start(
      client,
      'COPY (SELECT g, pg_sleep(0.01) FROM generate_series(1, 100000) g) TO STDOUT',
    );
    await database.query('select pg_terminate_backend($1)', [rows[0]!.pid]);
    const readAll = async (): Promise<void> => {
      for (let frames = await session.read(); frames; frames = await session.read()) {
        for (let at = 0; at < frames.length; at += 1 + frames.readUInt32BE(at + 1))
          if (frames[at] !== COPY_DATA) session.control(frames, at);
      }
    };
    await expect(readAll()).rejects.toThrow();
    await client.end();
  });
});
