import pg from 'pg';
import type { ConfigInput } from '../../src/config/schema.ts';
import { configSchema } from '../../src/config/schema.ts';
import type { ChangeEvent } from '../../src/event/change-event.ts';
import { parseLsn } from '../../src/event/lsn.ts';
import type { Row } from '../../src/event/row.ts';
import { migrate } from '../../src/postgres/control.ts';
import { identify } from '../../src/postgres/identity.ts';
import type { ProtocolStatus } from '../../src/source/source.ts';
import { WalSource } from '../../src/source/wal-source.ts';
import { log } from '../support/pipeline.ts';
import { query, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';

type Protocol = NonNullable<ConfigInput['source']['protocol']>;

export interface Read {
  /** Everything that is known of each event, in a form that can be compared. */
  readonly events: readonly string[];
  /** The most that was seen open and spilled. */
  readonly most: { readonly openTransactions: number; readonly spilledBytes: number };
  readonly protocol: ProtocolStatus | null;
}

/** Reads `slot` up to the present end of WAL. Acknowledges nothing, so that it may be read again. */
export async function readSlot(
  database: TestDatabase,
  slot: string,
  protocol: Protocol,
  stateDir: string,
  sessionOptions = '',
): Promise<Read> {
  const end = parseLsn((await database.query('select pg_current_wal_insert_lsn() lsn'))[0]!.lsn as string);
  await database.query(`select pg_logical_emit_message(true, 'waltide.end', '')`);
  const url = new URL(database.url);
  if (sessionOptions) url.searchParams.set('options', sessionOptions);
  const { source: config } = configSchema.parse({
    source: { url: url.href, slot, publication: 'everything', tables: ['*.*'], protocol },
  });
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await migrate(client);
  const identity = await identify(client, slot);
  await client.end();
  const source = new WalSource({
    ...{ config, identity, publications: ['everything'], captured: null, hides: () => false, from: 0n, stateDir, log },
  });
  const stop = AbortSignal.timeout(60_000);
  const events: string[] = [];
  const most = { openTransactions: 0, spilledBytes: 0 };
  let status: ProtocolStatus | null = null;
  try {
    for await (const batch of source.stream(stop)) {
      // The control schema is published too, and reading writes to it.
      const ours = ({ message, relation }: ChangeEvent): boolean =>
        message?.prefix === 'waltide.end' || relation?.schema === 'waltide';
      events.push(...batch.events.filter((event) => !ours(event)).map(describeEvent));
      status = source.status.protocol;
      most.openTransactions = Math.max(most.openTransactions, status?.openTransactions ?? 0);
      most.spilledBytes = Math.max(most.spilledBytes, status?.spilledBytes ?? 0);
      if (batch.commitEndLsn !== null && batch.commitEndLsn > end) break;
    }
    if (stop.aborted) throw new Error(`slot ${slot} did not come to its end`);
  } finally {
    await source.close();
  }
  return { events, most, protocol: status };
}

function describeEvent(event: ChangeEvent): string {
  const { op, transaction, seq, tableSeq, lsn, relation, message } = event;
  const { xid, commitLsn, commitTimeUs, origin } = transaction;
  const table = relation && [relation.schema, relation.table, relation.replicaIdentity, relation.key];
  const columns = relation?.columns.map(({ name, type }) => `${name} ${type.kind} ${type.name}`);
  const rows = [event.before, event.after].map((row) => row && texts(row));
  const said = message && [message.prefix, message.content.toString(), message.transactional];
  // A message outside transactions is dated by when it is read.
  const time = message?.transactional === false ? 0n : commitTimeUs;
  const parts = [op, xid, commitLsn, time, origin, seq, tableSeq, lsn, table, columns, rows, said];
  return JSON.stringify(parts, (_key, value: unknown) => (typeof value === 'bigint' ? value.toString() : value));
}

function texts(row: Row): (string | null | undefined)[] {
  return row.relation.columns.map((_column, i) => row.text(i));
}

const SESSIONS = 4;

/**
 * Random transactions of several sessions at once: savepoints, what is rolled back to them, whole rollbacks, changes of
 * tables and new types in the middle, truncates, messages of both kinds, and, where asked for, PREPARE TRANSACTION. Large enough for
 * many of them to be streamed. Nothing is left open or prepared. Without `awkward`, neither messages nor changes of
 * tables are rolled back, at which the server stumbles (see failedByStreaming in wal-source.ts).
 */
export async function randomTransactions(
  database: TestDatabase,
  options: { seed: number; steps: number; prepare: boolean; awkward: boolean },
): Promise<void> {
  const random = new Random(options.seed);
  const sessions = await Promise.all(
    Array.from({ length: SESSIONS }, (_, i) => Session.open(database.url, i, random, options.awkward)),
  );
  const prepared: string[] = [];
  try {
    await twoAtOnce(database);
    for (let step = 0; step < options.steps; step++) {
      const session = random.pick(sessions);
      if (prepared.length > 0 && random.int(8) === 0) await finish(database, prepared, random);
      const gid = await session.step(options.prepare && random.int(3) === 0 ? `g${options.seed}_${step}` : null);
      if (gid) prepared.push(gid);
    }
  } finally {
    for (const session of sessions) await session.end();
    while (prepared.length > 0) await finish(database, prepared, random);
  }
}

/** What chance need not bring: two large transactions that are both half sent when another one commits. */
async function twoAtOnce(database: TestDatabase): Promise<void> {
  const clients = [0, 1].map(() => new pg.Client({ connectionString: database.url }));
  try {
    for (const client of clients) {
      await client.connect();
      await client.query("begin; insert into shared (note) select repeat('large ', 100) from generate_series(1, 500)");
    }
    await database.query("insert into shared (note) values ('between')");
    for (const client of clients) await client.query('commit');
  } finally {
    for (const client of clients) await client.end();
  }
}

async function finish(database: TestDatabase, prepared: string[], random: Random): Promise<void> {
  const [gid] = prepared.splice(random.int(prepared.length), 1);
  await query(
    database.url,
    `${gid!.startsWith('any') && random.int(3) === 0 ? 'rollback' : 'commit'} prepared '${gid}'`,
  );
}

class Session {
  readonly #client: pg.Client;
  readonly #index: number;
  readonly #random: Random;
  readonly #awkward: boolean;
  #savepoints = 0;
  #inTransaction = false;
  #changedTables = false;
  /** A prepared transaction keeps its locks: the session goes on with another table. */
  #table = 0;
  #made = 0;

  private constructor(client: pg.Client, index: number, random: Random, awkward: boolean) {
    this.#awkward = awkward;
    this.#client = client;
    this.#index = index;
    this.#random = random;
  }

  static async open(url: string, index: number, random: Random, awkward: boolean): Promise<Session> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const session = new Session(client, index, random, awkward);
    await session.#makeTable();
    return session;
  }

  get #name(): string {
    return `own_${this.#index}_${this.#table}`;
  }

  async #makeTable(): Promise<void> {
    this.#table++;
    await this.#client.query(`create table if not exists ${this.#name} (id serial primary key, note text)`);
    if (this.#random.int(2)) await this.#client.query(`alter table ${this.#name} replica identity full`);
  }

  /** One statement, or the end of a transaction; `gid` asks for PREPARE there. Returns the gid where it was used. */
  async step(gid: string | null): Promise<string | null> {
    if (!this.#inTransaction) {
      await this.#client.query('begin');
      this.#inTransaction = true;
      this.#changedTables = false;
      this.#savepoints = 0;
    }
    const end = this.#random.int(12);
    if (end > 1) {
      await this.#client.query(this.#statement());
      return null;
    }
    this.#inTransaction = false;
    if (end === 0 && gid) {
      const name = `${this.#changedTables ? 'keep' : 'any'}_${gid}`;
      await this.#client.query(`prepare transaction '${name}'`);
      await this.#makeTable();
      return name;
    }
    const mayRollBack = this.#awkward || !this.#changedTables;
    await this.#client.query(mayRollBack && this.#random.int(4) === 0 ? 'rollback' : 'commit');
    return null;
  }

  #statement(): string {
    const random = this.#random;
    const name = this.#name;
    const rows = 1 + random.int(random.int(4) === 0 ? 800 : 20);
    const text = `repeat(md5(random()::text), ${1 + random.int(4)})`;
    const from = `from generate_series(1, ${rows}) i`;
    const insert = `insert into ${name} (note) select ${text} ${from}`;
    const kind =
      this.#awkward || this.#savepoints === 0 ? random.int(16) : random.pick([0, 1, 2, 3, 4, 10, 11, 12, 13]);
    if (kind >= 5 && kind <= 9) this.#changedTables = true;
    switch (kind) {
      case 0:
      case 1:
        return `savepoint s${++this.#savepoints}`;
      case 2:
      case 3:
        if (this.#savepoints === 0) return `savepoint s${++this.#savepoints}`;
        this.#savepoints = 1 + random.int(this.#savepoints);
        return `rollback to savepoint s${this.#savepoints}`;
      case 4:
        if (this.#savepoints === 0) return `insert into shared (note) select ${text} ${from}`;
        this.#savepoints = random.int(this.#savepoints);
        return `release savepoint s${this.#savepoints + 1}`;
      case 5:
        return `alter table ${name} add column c${++this.#made} int default ${random.int(9)}`;
      case 6:
        return `alter table ${name} drop column if exists c${random.int(this.#made + 1)}`;
      case 7:
        return `truncate ${name}`;
      case 8:
        return `select pg_logical_emit_message(${random.int(2) === 0}, 'audit', '${random.int(1000)}'); ${this.#awkward ? '' : insert}`;
      case 9: {
        const made = `made_${this.#index}_${++this.#made}`;
        return `create type ${made}_kind as enum ('a', 'b'); create table ${made} (id int primary key, kind ${made}_kind);
          insert into ${made} select i, 'b' ${from}`;
      }
      case 10:
        return `update ${name} set note = ${text} where id % 3 = 0`;
      case 11:
        return `delete from ${name} where id % 5 = 0`;
      case 12:
        return `insert into shared (note) select ${text} ${from}`;
      default:
        return insert;
    }
  }

  async end(): Promise<void> {
    if (this.#inTransaction) await this.#client.query('commit');
    await this.#client.end();
  }
}
