import pg from 'pg';
import { Random } from './random.ts';

/** Every shape of key and of change that the road must carry, in tables small enough to compare whole after each round. */
export const SCHEMA = `
CREATE SCHEMA IF NOT EXISTS sales;
CREATE TABLE account (
  id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(14,2) NOT NULL, note text, tags text[], doc jsonb,
  active boolean, opened timestamptz, token uuid, raw bytea
);
-- Values too long for a page are stored out of line (TOAST); EXTERNAL keeps them from being compressed back in.
ALTER TABLE account ALTER COLUMN note SET STORAGE EXTERNAL;
CREATE TABLE sales.order_line (
  "order" int, line int, "at" timestamp, amount numeric(10,3), "select" text, PRIMARY KEY ("order", line)
);
CREATE TABLE event_log (who text, what text, n int);
ALTER TABLE event_log REPLICA IDENTITY FULL;
CREATE TABLE renamed_key (code text PRIMARY KEY, body text, n int);
ALTER TABLE renamed_key ALTER COLUMN body SET STORAGE EXTERNAL;
`;

export const TABLES = ['public.account', 'sales.order_line', 'public.event_log', 'public.renamed_key'];

const BIG = 'x'.repeat(3000);

type Statement = readonly [sql: string, values: readonly unknown[]];

function change(random: Random): Statement {
  const id = random.int(300);
  const other = random.int(300);
  const text = random.pick(['plain', '', 'tab\tnew\nline "quotes" \\ back', 'ünïcode 😀', '\\N', BIG + id]);
  switch (random.int(14)) {
    case 0:
    case 1:
    case 2:
      return [
        `INSERT INTO account VALUES ($1, $2, $3, $4, $5, $6, $7, now(), gen_random_uuid(), $8)
         ON CONFLICT (id) DO UPDATE SET balance = account.balance + 1, owner = excluded.owner`,
        [
          id,
          text.slice(0, 50),
          (random.int(1e6) / 100).toFixed(2),
          text,
          [text.slice(0, 5), 'NULL', ''],
          JSON.stringify({ id, big: 12345678901234567890n.toString() }),
          random.next() < 0.5,
          Buffer.from([id & 255, 0, 255]),
        ],
      ];
    case 3:
    case 4:
      return ['UPDATE account SET balance = balance + $2, active = NOT active WHERE id = $1', [id, random.int(100)]];
    case 5:
      return ['DELETE FROM account WHERE id = $1', [id]];
    case 6:
      return [
        'UPDATE account SET id = $2 WHERE id = $1 AND NOT EXISTS (SELECT FROM account WHERE id = $2)',
        [id, other],
      ];
    case 7:
      return [
        `INSERT INTO sales.order_line VALUES ($1, $2, now()::timestamp, $3, $4) ON CONFLICT ("order", line) DO UPDATE SET amount = excluded.amount`,
        [id % 50, other % 20, random.int(1000) / 8, text.slice(0, 40)],
      ];
    case 8:
      return ['DELETE FROM sales.order_line WHERE "order" = $1', [id % 50]];
    case 9:
      return [
        'UPDATE sales.order_line SET line = line + 1 + (SELECT max(line) FROM sales.order_line WHERE "order" = $1) WHERE "order" = $1 AND line < 100',
        [id % 50],
      ];
    case 10:
      return ['INSERT INTO event_log SELECT $1, $2, g FROM generate_series(1, 3) g', [`u${id % 5}`, text.slice(0, 20)]];
    case 11:
      return ['DELETE FROM event_log WHERE ctid = (SELECT ctid FROM event_log WHERE who = $1 LIMIT 1)', [`u${id % 5}`]];
    case 12:
      return [
        'INSERT INTO renamed_key VALUES ($1, $2, 0) ON CONFLICT (code) DO UPDATE SET n = renamed_key.n + 1',
        [`k${id % 60}`, BIG + id],
      ];
    default:
      // A key change that leaves the TOASTed body alone: the WAL has neither the old nor the new value of it.
      return [
        'UPDATE renamed_key SET code = code || $2 WHERE code = $1 AND length(code) < 12',
        [`k${id % 60}`, `.${other}`],
      ];
  }
}

/**
 * Runs random transactions until `signal` aborts, one at least; some are rolled back, in whole or in part. Resolves with their
 * number.
 */
export function runWorkload(url: string, seed: number, signal: AbortSignal, pauseMs = 0): Promise<number> {
  return handled(work(url, seed, signal, pauseMs));
}

/** After a test's time is up, nobody waits for what it does beside any more, and its server goes away: no failure of another test. */
export function handled<T>(work: Promise<T>): Promise<T> {
  work.catch(() => {});
  return work;
}

async function work(url: string, seed: number, signal: AbortSignal, pauseMs: number): Promise<number> {
  const random = new Random(seed);
  const client = new pg.Client(url);
  client.on('error', () => {});
  await client.connect();
  let transactions = 0;
  try {
    do {
      try {
        await transaction(client, random);
      } catch (error) {
        // Two random keys may collide, two writers deadlock: one more shape to carry, or rather not to carry.
        if (!['23505', '40P01'].includes((error as { code?: string }).code ?? '')) throw error;
        await client.query('ROLLBACK');
      }
      transactions++;
      if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
    } while (!signal.aborted);
  } finally {
    await client.end().catch(() => {});
  }
  return transactions;
}

async function transaction(client: pg.Client, random: Random): Promise<void> {
  await client.query('BEGIN');
  const count = random.next() < 0.05 ? 200 : 1 + random.int(8);
  for (let i = 0; i < count; i++) {
    const [sql, values] = change(random);
    const savepoint = random.next() < 0.1;
    if (savepoint) await client.query('SAVEPOINT s');
    await client.query(sql, [...values]);
    if (savepoint) await client.query(random.next() < 0.5 ? 'ROLLBACK TO s' : 'RELEASE s');
  }
  if (random.next() < 0.01) await client.query('TRUNCATE event_log');
  await client.query(random.next() < 0.1 ? 'ROLLBACK' : 'COMMIT');
}
