import { createHash } from 'node:crypto';
import { DuckDBInstance } from '@duckdb/node-api';
import type { Goal } from './contender.ts';
import type { TopicWatch } from './kafka-topic.ts';
import { DUCKDB_DIGEST } from './workload.ts';

/** Rejects unless the DuckDB file holds every row with every value as in the source. */
export async function verifyDuckdb(path: string, goal: Pick<Goal, 'digest'>): Promise<void> {
  const instance = await DuckDBInstance.create(path, { access_mode: 'READ_ONLY' });
  try {
    const connection = await instance.connect();
    const reader = await connection.runAndReadAll(DUCKDB_DIGEST);
    const [rows, checksum] = reader.getRows()[0] as [string, string];
    connection.closeSync();
    expectDigest(Number(rows), checksum, goal);
  } finally {
    instance.closeSync();
  }
}

interface Envelope {
  readonly op: string;
  readonly after: { id: number | string; name: string; amount: string; payload: string; created_at: string };
}

/** Rejects unless the topic holds each change once, and its last state per key equals the source in every value. */
export async function verifyTopic(topic: TopicWatch, goal: Goal): Promise<void> {
  const ops = new Map<string, number>();
  // 32 bits per key: half a million whole rows would not be worth their memory.
  const hashes = new Map<string, number>();
  await topic.read(await topic.records(), (value) => {
    if (value === null) throw new Error('The topic holds a tombstone, but nothing was deleted.');
    const { op, after } = JSON.parse(value.toString()) as Envelope;
    // The copy of the empty table, which came before the workload, says "begin with nothing" and "that was all".
    if ((op === 't' || op === 'm') && hashes.size === 0) return;
    ops.set(op, (ops.get(op) ?? 0) + 1);
    const text = [after.id, after.name, after.amount, after.payload, microseconds(after.created_at)].join('|');
    hashes.set(String(after.id), createHash('md5').update(text).digest().readUInt32BE(0));
  });
  const counted = [...ops].map(([op, count]) => `${op}=${count}`).join(' ');
  if (ops.get('c') !== goal.inserts || ops.get('u') !== goal.updates || ops.size !== 2) {
    throw new Error(`The topic holds ${counted}, not c=${goal.inserts} u=${goal.updates}.`);
  }
  let checksum = 0;
  for (const hash of hashes.values()) checksum += hash;
  expectDigest(hashes.size, String(checksum), goal);
}

/** ISO 8601 with up to six digits of fraction, as Debezium's ZonedTimestamp. Date would cut them to three. */
function microseconds(text: string): number {
  const [, seconds, fraction] = /^([^.]*?\d\d:\d\d:\d\d)(?:\.(\d+))?Z?/.exec(text) ?? [];
  return Date.parse(`${seconds}Z`) * 1000 + Number((fraction ?? '').padEnd(6, '0'));
}

function expectDigest(rows: number, checksum: string, { digest }: Pick<Goal, 'digest'>): void {
  if (rows === digest.rows && checksum === digest.checksum) return;
  throw new Error(
    `It ended up with ${rows} rows, checksum ${checksum}; the source has ${digest.rows}, ${digest.checksum}.`,
  );
}
