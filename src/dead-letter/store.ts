import { createHash } from 'node:crypto';
import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { formatLsn } from '../event/lsn.ts';
import type { Offset } from '../event/offset.ts';
import { comparePosition, START } from '../event/position.ts';
import type { Relation } from '../event/relation.ts';
import { failpoint } from '../failpoint.ts';
import type { Log } from '../log.ts';
import { isMissing, queryError } from '../postgres/connection.ts';
import { migrate } from '../postgres/control.ts';
import { connectSource } from '../postgres/session.ts';
import type { Letters, NewLetter, OpenLetter, Settled } from './dead-letter.ts';
import { COMES_AGAIN, LETTER_CHANNEL } from './table.ts';

/** In one statement. */
const LETTERS_MAX = 500;
const BYTES_MAX = 8 << 20;
/** What other processes do to letters is seen this late at most. */
const LOOK_INTERVAL_MS = 5_000;

/** Letters of one sink that are open or being retried. */
export interface OpenLetters {
  readonly count: number;
  /** Of these, being retried. */
  readonly retrying: number;
  readonly oldestAt: Date | null;
  readonly tables: readonly { readonly name: string; readonly count: number }[];
}

const NONE: OpenLetters = { count: 0, retrying: 0, oldestAt: null, tables: [] };

/** Told of every letter that is durable here: the topic of dead letters on Kafka. Resolves = durable there, too. */
export type OnSaved = (sink: string, letters: readonly NewLetter[]) => Promise<void>;

/** The dead letters of one slot in the control schema, over one connection that is made when it is needed. */
export class DeadLetterStore {
  readonly #config: Config;
  readonly #log: Log;
  readonly #ids = new WeakMap<Relation, string>();
  /** Ids of descriptions that are in the table. */
  readonly #described = new Set<string>();
  #client: pg.Client | null = null;
  #last: Promise<unknown> = Promise.resolve();
  #open = new Map<string, OpenLetters>();
  #timer: NodeJS.Timeout | null = null;
  #looking = false;
  #closed = false;
  /** Called when letters may be waiting to be retried. */
  onLook: () => void = () => {};
  onSaved: OnSaved = async () => {};

  constructor(config: Config, log: Log) {
    this.#config = config;
    this.#log = log;
  }

  /** What is open, as of the last look. */
  summary(sink: string): OpenLetters {
    return this.#open.get(sink) ?? NONE;
  }

  /** Looks from now on, at once and then every few seconds. */
  async start(): Promise<void> {
    await this.#look();
    if (this.#closed) return;
    this.#timer = setInterval(() => void this.#look(), LOOK_INTERVAL_MS);
    this.#timer.unref();
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer) clearInterval(this.#timer);
    await this.#last;
    await this.#disconnect();
  }

  /** What one sink is given. */
  of(sink: string): Letters {
    return {
      perTableMax: this.#config.deadLetters.perTableMax,
      save: async (aside, settled) => {
        await this.#save(sink, aside, settled);
        if (aside.length > 0) await this.onSaved(sink, aside);
      },
      open: () => this.#openOf(sink),
      takeBack: (offsets) => this.#takeBack(sink, offsets),
    };
  }

  /** Never rejects for a lost connection: what stays is a letter that is shown too long, or is shown again. */
  async #takeBack(sink: string, offsets: readonly Offset[]): Promise<void> {
    let reached = START;
    for (const { position } of offsets) if (comparePosition(position, reached) > 0) reached = position;
    const values = [this.#slot, sink, formatLsn(reached.commitLsn), reached.seq];
    try {
      await this.run(async (client) => {
        await client.query(
          `UPDATE waltide.dead_letters SET state = 'resolved', closed_reason = '${COMES_AGAIN}', closed_at = now(), updated_at = now()
           WHERE slot_name = $1 AND sink = $2 AND state IN ('open', 'retrying') AND (commit_lsn, seq) > ($3::pg_lsn, $4::bigint)`,
          values,
        );
        await client.query(
          `UPDATE waltide.dead_letters SET state = 'open', closed_at = NULL, closed_lsn = NULL, closed_seq = NULL, superseded_by = NULL, updated_at = now()
           WHERE slot_name = $1 AND sink = $2 AND state IN ('resolved', 'superseded') AND (commit_lsn, seq) <= ($3::pg_lsn, $4::bigint)
             AND (closed_lsn, closed_seq) > ($3::pg_lsn, $4::bigint)`,
          values,
        );
      });
    } catch (error) {
      if (!(error instanceof WaltideError) || !error.retry) throw error;
      this.#log.warn({ sink }, `dead letters could not be looked through: ${error.message}`);
    }
  }

  /** One piece of work after another; once more where the connection had been lost meanwhile. */
  run<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const once = async (): Promise<T> => {
      try {
        return await work(await this.#connected());
      } catch (error) {
        await this.#disconnect();
        throw queryError(error, 'waltide.dead_letters');
      }
    };
    const mine = this.#last.then(async () => {
      const fresh = this.#client === null;
      try {
        return await once();
      } catch (error) {
        if (fresh || !(error instanceof WaltideError) || !error.retry) throw error;
        return await once();
      }
    });
    this.#last = mine.catch(() => {});
    return mine;
  }

  get source(): Config['source'] {
    return this.#config.source;
  }

  get #slot(): string {
    return this.#config.source.slot;
  }

  async #connected(): Promise<pg.Client> {
    if (this.#client) return this.#client;
    const client = await connectSource(this.#config.source, 'dead letters');
    try {
      await migrate(client);
      client.on('notification', ({ payload }) => payload === this.#slot && this.onLook());
      await client.query(`LISTEN ${LETTER_CHANNEL}`);
    } catch (error) {
      await client.end().catch(() => {});
      throw error;
    }
    this.#client = client;
    return client;
  }

  async #disconnect(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
  }

  /** The letters and what they settle, all or nothing. */
  async #save(sink: string, aside: readonly NewLetter[], settled: readonly Settled[]): Promise<void> {
    if (aside.length + settled.length === 0) return;
    const work = [...chunks(aside)].map((some) => (client: pg.Client) => this.#insert(client, sink, some));
    if (settled.length > 0) work.push((client) => this.#settle(client, sink, settled));
    const described = new Map(aside.map(({ relation }) => [this.#idOf(relation), relation]));
    await this.run(async (client) => {
      await this.#describe(client, described);
      // A single statement is a transaction by itself.
      if (work.length > 1) await client.query('BEGIN');
      for (const one of work) await one(client);
      if (work.length > 1) await client.query('COMMIT');
    });
    failpoint('after-letter');
    // One look serves all that is saved until its turn.
    if (!this.#looking) void this.#look();
  }

  async #describe(client: pg.Client, relations: ReadonlyMap<string, Relation>): Promise<void> {
    const fresh = [...relations].filter(([id]) => !this.#described.has(id));
    if (fresh.length === 0) return;
    await client.query(
      `INSERT INTO waltide.dead_letter_relations SELECT * FROM unnest($1::text[], $2::json[]) r ON CONFLICT DO NOTHING`,
      [fresh.map(([id]) => id), fresh.map(([, relation]) => JSON.stringify(relation))],
    );
    for (const [id] of fresh) this.#described.add(id);
  }

  async #insert(client: pg.Client, sink: string, letters: readonly NewLetter[]): Promise<void> {
    const of = <T>(value: (letter: NewLetter) => T): T[] => letters.map(value);
    // What a person has decided about this very change stays so.
    await client.query(
      `INSERT INTO waltide.dead_letters AS d (slot_name, sink, commit_lsn, seq, xid, committed_at, table_oid, schema_name, table_name,
         row_name, op, before, after, relation_id, error_code, error_message)
       SELECT $1, $2, n.lsn, n.seq, n.xid, timestamptz 'epoch' + n.us * interval '1 microsecond', n.oid, n.schema, n.name, n.row, n.op,
         n.before, n.after, n.relation, n.code, n.message
       FROM unnest($3::pg_lsn[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[],
         $11::text[], $12::json[], $13::json[], $14::text[], $15::text[], $16::text[])
         AS n(lsn, seq, xid, us, oid, schema, name, row, op, before, after, relation, code, message)
       ON CONFLICT (slot_name, sink, commit_lsn, seq) DO UPDATE SET attempts = d.attempts + 1, error_code = excluded.error_code,
         error_message = excluded.error_message, updated_at = now(),
         state = CASE WHEN d.state = 'discarded' THEN d.state ELSE 'open' END,
         closed_at = CASE WHEN d.state = 'discarded' THEN d.closed_at END, closed_lsn = NULL, closed_seq = NULL, superseded_by = NULL`,
      [
        this.#slot,
        sink,
        of(({ position }) => formatLsn(position.commitLsn)),
        of(({ position }) => position.seq),
        of(({ transaction }) => transaction.xid),
        of(({ transaction }) => String(transaction.commitTimeUs)),
        of(({ relation }) => relation.oid),
        of(({ relation }) => relation.schema),
        of(({ relation }) => relation.table),
        of(({ row }) => row),
        of(({ op }) => op),
        of(({ before }) => before),
        of(({ after }) => after),
        of(({ relation }) => this.#idOf(relation)),
        of(({ code }) => code),
        of(({ reason }) => reason),
      ],
    );
  }

  async #settle(client: pg.Client, sink: string, settled: readonly Settled[]): Promise<void> {
    await client.query(
      `UPDATE waltide.dead_letters d SET closed_lsn = s.lsn, closed_seq = s.seq, closed_at = now(), updated_at = now(), superseded_by = n.id,
         state = CASE WHEN n.id IS NULL THEN 'resolved' ELSE 'superseded' END
       FROM unnest($3::bigint[], $4::text[], $5::pg_lsn[], $6::bigint[], $7::boolean[]) AS s(oid, row, lsn, seq, refused)
       LEFT JOIN waltide.dead_letters n ON s.refused AND n.slot_name = $1 AND n.sink = $2 AND n.commit_lsn = s.lsn AND n.seq = s.seq
       WHERE d.slot_name = $1 AND d.sink = $2 AND d.table_oid = s.oid AND (s.row IS NULL OR d.row_name = s.row)
         AND (d.commit_lsn, d.seq) <= (s.lsn, s.seq) AND NOT (s.refused AND d.commit_lsn = s.lsn AND d.seq = s.seq) AND d.state IN ('open', 'retrying')`,
      [
        this.#slot,
        sink,
        settled.map(({ table }) => table),
        settled.map(({ row }) => row),
        settled.map(({ position }) => formatLsn(position.commitLsn)),
        settled.map(({ position }) => position.seq),
        settled.map(({ refused }) => refused),
      ],
    );
  }

  #idOf(relation: Relation): string {
    let id = this.#ids.get(relation);
    if (id === undefined) {
      id = createHash('sha256').update(JSON.stringify(relation)).digest('hex').slice(0, 16);
      this.#ids.set(relation, id);
    }
    return id;
  }

  #openOf(sink: string): Promise<OpenLetter[]> {
    return this.run(async (client) => {
      const { rows } = await client.query<OpenLetter>(
        `SELECT table_oid::float8 AS "table", row_name AS row FROM waltide.dead_letters
         WHERE slot_name = $1 AND sink = $2 AND state IN ('open', 'retrying')`,
        [this.#slot, sink],
      );
      return rows;
    });
  }

  /** Never rejects: a picture that is a little old does no harm. */
  async #look(): Promise<void> {
    if (this.#closed) return;
    this.#looking = true;
    try {
      this.#open = await this.run((client) => {
        this.#looking = false;
        return readOpen(client, this.#slot);
      });
      this.onLook();
    } catch (error) {
      if (!this.#closed && !isMissing((error as Error).cause)) this.#log.debug(`dead letters: ${messageOf(error)}`);
    }
  }
}

async function readOpen(client: pg.Client, slot: string): Promise<Map<string, OpenLetters>> {
  const { rows } = await client.query<{ sink: string; name: string; count: number; retrying: number; oldest: Date }>(
    `SELECT sink, schema_name || '.' || table_name AS name, count(*)::float8 AS count, count(*) FILTER (WHERE state = 'retrying')::float8 AS retrying, min(created_at) AS oldest
     FROM waltide.dead_letters WHERE slot_name = $1 AND state IN ('open', 'retrying') GROUP BY 1, 2 ORDER BY 1, 2`,
    [slot],
  );
  const open = new Map<string, OpenLetters>();
  for (const { sink, name, count, retrying, oldest } of rows) {
    const before = open.get(sink) ?? NONE;
    open.set(sink, {
      count: before.count + count,
      retrying: before.retrying + retrying,
      oldestAt: before.oldestAt && before.oldestAt < oldest ? before.oldestAt : oldest,
      tables: [...before.tables, { name, count }],
    });
  }
  return open;
}

/** The letters in statements of bounded size. */
function* chunks(letters: readonly NewLetter[]): Iterable<readonly NewLetter[]> {
  let from = 0;
  let bytes = 0;
  for (let i = 0; i < letters.length; i++) {
    bytes += (letters[i]!.before?.length ?? 0) + (letters[i]!.after?.length ?? 0);
    if (i + 1 - from < LETTERS_MAX && bytes < BYTES_MAX) continue;
    yield letters.slice(from, i + 1);
    from = i + 1;
    bytes = 0;
  }
  if (from < letters.length) yield letters.slice(from);
}
