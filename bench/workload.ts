import type pg from 'pg';

const ROWS_PER_TRANSACTION = 1_000;
/** 500,000 inserts to 100,000 updates. */
const INSERTS_PER_UPDATE = 5;

export interface Workload {
  readonly inserts: number;
  readonly updates: number;
  /** End of the WAL once all is written: where every contender stops. */
  readonly endLsn: string;
  readonly walBytes: number;
}

/** What the final table holds; a contender that ends up with anything else was fast for nothing. */
export interface Digest {
  readonly rows: number;
  /** Of every value of every column. */
  readonly checksum: string;
}

export async function createTable(client: pg.Client): Promise<void> {
  await client.query(`create table bench(
    id bigint primary key, name text, amount numeric(12,2), payload jsonb, created_at timestamptz)`);
}

/** Writes `events` changes, five inserts to one update, in transactions of 1,000; the same rows every time. */
export async function writeWorkload(client: pg.Client, events: number): Promise<Workload> {
  const transactions = Math.max(1, Math.round(events / ROWS_PER_TRANSACTION / (INSERTS_PER_UPDATE + 1)));
  const start = await walEnd(client);
  let inserted = 0;
  for (let i = 0; i < transactions; i++) {
    for (let j = 0; j < INSERTS_PER_UPDATE; j++) {
      await client.query(INSERT, [inserted + 1, inserted + ROWS_PER_TRANSACTION]);
      inserted += ROWS_PER_TRANSACTION;
    }
    // Rows spread over all that is there, so that an update rarely meets its own insert's batch.
    await client.query(UPDATE, [inserted, inserted / ROWS_PER_TRANSACTION]);
  }
  // The last transaction was committed without waiting for the disk, and a walsender sends flushed WAL only.
  await client.query('checkpoint');
  const endLsn = await walEnd(client);
  const { rows } = await client.query<{ bytes: string }>('select pg_wal_lsn_diff($1, $2)::text as bytes', [
    endLsn,
    start,
  ]);
  return { inserts: inserted, updates: transactions * ROWS_PER_TRANSACTION, endLsn, walBytes: Number(rows[0]!.bytes) };
}

export const INSERT = `insert into bench
  select id, 'customer ' || id, (id % 1000000) / 100.0,
         jsonb_build_object('sku', 'A-' || id % 977, 'qty', id % 13, 'note', md5(id::text)),
         timestamptz '2026-01-01 00:00:00+00' + id * interval '1.000001 s'
    from generate_series($1::bigint, $2::bigint) as id`;

const UPDATE = `update bench set amount = amount + 0.01, name = name || '*'
  where id in (select n * $2::int from generate_series(1, $1::int / $2::int) as n)`;

async function walEnd(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn');
  return rows[0]!.lsn;
}

/** The same text from both: PostgreSQL here, DuckDB in `DUCKDB_DIGEST`. */
export async function digest(client: pg.Client): Promise<Digest> {
  const row = `concat_ws('|', id, name, amount, payload::text, (extract(epoch from created_at) * 1000000)::bigint)`;
  const hash = `('x' || substr(md5(${row}), 1, 8))::bit(32)::bigint`;
  const { rows } = await client.query<{ rows: string; checksum: string }>(
    `select count(*)::text as rows, sum(${hash})::text as checksum from bench`,
  );
  return { rows: Number(rows[0]!.rows), checksum: rows[0]!.checksum };
}

export const DUCKDB_DIGEST = `select count(*)::varchar, sum(('0x' || substr(md5(
    concat_ws('|', id, name, amount, payload::varchar, epoch_us(created_at))), 1, 8))::bigint)::varchar from main.bench`;
