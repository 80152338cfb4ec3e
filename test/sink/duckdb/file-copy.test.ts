import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import duckdb from '@duckdb/node-bindings';
import { expect, test } from 'vitest';
import { DuckdbFile } from '../../../src/sink/duckdb/database.ts';
import { bytesOf, copyStore, logPath } from '../../../src/sink/duckdb/file-copy.ts';
import { readRows } from '../../../src/sink/duckdb/state.ts';
import { directory } from './support.ts';

const SETTINGS = { memoryLimit: '400MB', threads: 2, s3: false };
const SUM = 'select count(*), bit_xor(hash(t)), sum(n) from a t';
const { signal } = new AbortController();

/** Rows that do not compress, in place of some that are there: more than DuckDB's log holds before it is checkpointed. */
async function churn(file: DuckdbFile, rounds: number): Promise<void> {
  for (let i = 0; i < rounds; i++)
    await duckdb.query(
      file.connection,
      `BEGIN; DELETE FROM a WHERE id % 7 = ${i % 7}; UPDATE a SET n = n + 1 WHERE id % 11 = ${i % 11};
       INSERT INTO a SELECT ${(i + 1) * 100_000} + i, 0, uuid()::varchar || uuid()::varchar FROM range(6000) r(i); COMMIT`,
    );
}

test('a file that is copied while it is written to is as it was when its checkpoints were held', {
  timeout: 120_000,
}, async () => {
  const folder = await directory();
  const file = await DuckdbFile.open({ ...SETTINGS, path: join(folder, 'a.duckdb') });
  const copies: { path: string; held: unknown }[] = [];
  try {
    await duckdb.query(file.connection, 'CREATE TABLE a (id BIGINT, n INTEGER, v VARCHAR)');
    await churn(file, 20);
    for (let i = 0; i < 3; i++) {
      const held = await readRows(file.connection, SUM);
      const logBytes = await bytesOf(logPath(file.path));
      await file.holdCheckpoints(true);
      const path = join(folder, `copy-${i}.duckdb`);
      // All that a slow disk could give time for: also rows so many that DuckDB writes them into the file before their commit.
      await churn(file, 30);
      await duckdb.query(file.connection, `INSERT INTO a SELECT -i, 0, uuid()::varchar FROM range(300000) r(i)`);
      await copyStore({ fd: file.readFd, path: file.path }, logBytes, path, signal);
      await file.holdCheckpoints(false);
      await duckdb.query(file.connection, 'DELETE FROM a WHERE id < 0');
      await duckdb.query(file.connection, 'CHECKPOINT');
      copies.push({ path, held });
    }
  } finally {
    file.close();
  }
  for (const { path, held } of copies) {
    const copy = await DuckdbFile.open({ ...SETTINGS, path });
    try {
      expect(await readRows(copy.connection, SUM)).toEqual(held);
    } finally {
      copy.close();
    }
  }
});

test('a log that is not there has no bytes, and one that cannot be looked at is no empty one', async () => {
  const folder = await directory();
  const file = join(folder, 'a.duckdb');
  await writeFile(file, 'four');
  expect(await bytesOf(file)).toBe(4);
  expect(await bytesOf(join(folder, 'b.duckdb'))).toBe(0);
  await expect(bytesOf(join(file, 'c'))).rejects.toThrow('ENOTDIR');
});
