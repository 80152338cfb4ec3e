import duckdb, { type Connection } from '@duckdb/node-bindings';
import { retryOf } from '../../dead-letter/dead-letter.ts';
import { RejectedError, WaltideError } from '../../errors.ts';
import type { Delivery } from '../../event/batch.ts';
import { type ChangeEvent, SCHEMA_MESSAGE } from '../../event/change-event.ts';
import type { Lsn } from '../../event/lsn.ts';
import type { Offset } from '../../event/offset.ts';
import { relationName } from '../../event/relation.ts';
import { BOOKKEEPING, quoteText } from './names.ts';
import { sameShape } from './schema.ts';
import { readRows, type SinkTable, type State } from './state.ts';

type TableName = { readonly schema: string; readonly table: string };

const CREATE = `CREATE TABLE IF NOT EXISTS ${BOOKKEEPING}.rewinds (until_lsn UBIGINT NOT NULL, tables JSON)`;

export interface Sifted {
  readonly delivery: Delivery;
  /** True where the rows may have seen all of it, and what came after it. */
  readonly seen: boolean;
}

/**
 * A replay under way, durable in the file: up to where the sink stood before, tables that were named see changes once
 * more, which they have seen already, and the others leave out what they have.
 */
export class Rewinding {
  readonly #connection: Connection;
  readonly #state: State;
  /** Null where no replay is under way. */
  #until: Lsn | null = null;
  /** Null for all. */
  #tables: ReadonlySet<string> | null = null;

  private constructor(connection: Connection, state: State) {
    this.#connection = connection;
    this.#state = state;
  }

  static async load(connection: Connection, state: State): Promise<Rewinding> {
    const rewinding = new Rewinding(connection, state);
    await duckdb.query(connection, CREATE);
    const [row] = await readRows(connection, `SELECT until_lsn, tables FROM ${BOOKKEEPING}.rewinds`);
    if (row) rewinding.#set(row[0] as bigint, row[1] as string | null);
    return rewinding;
  }

  get active(): boolean {
    return this.#until !== null;
  }

  #set(until: Lsn, tables: string | null): void {
    this.#until = until;
    this.#tables = tables === null ? null : new Set(JSON.parse(tables) as string[]);
  }

  /** Inside the caller's transaction. Throws REPLAY for a table that cannot be replayed idempotently. */
  async begin(to: readonly Offset[], tables: readonly TableName[] | null): Promise<void> {
    this.#check(tables);
    let until = this.#until ?? 0n;
    for (const { position } of this.#state.offsets()) if (position.commitLsn > until) until = position.commitLsn;
    // On Kafka only the topics of those tables go back: nothing else comes again, and nothing may be left out.
    const all =
      tables === null ||
      to.some(({ partition }) => partition !== '') ||
      (this.#until !== null && this.#tables === null);
    const names = all ? null : JSON.stringify([...(this.#tables ?? []), ...(tables ?? []).map(relationName)]);
    await duckdb.query(
      this.#connection,
      `DELETE FROM ${BOOKKEEPING}.rewinds; INSERT INTO ${BOOKKEEPING}.rewinds VALUES (${until}, ${names === null ? 'NULL' : quoteText(names)})`,
    );
    for (const { partition, position, next } of to)
      await duckdb.query(
        this.#connection,
        `UPDATE ${BOOKKEEPING}.offsets SET commit_lsn = ${position.commitLsn}, seq = ${position.seq}, "next" = ${next ?? 'NULL'} WHERE "partition" = ${quoteText(partition)}`,
      );
  }

  #check(tables: readonly TableName[] | null): void {
    const followed = this.#state.tables().filter(({ live, stopped }) => live !== null && stopped === null);
    const wanted = tables === null ? followed : tables.map((name) => this.#named(name, followed));
    const keyless = wanted.filter(({ live }) => live!.relation.key.length === 0).map(relationName);
    if (keyless.length === 0) return;
    throw new WaltideError(
      'REPLAY',
      `${keyless.join(', ')}: without a key, changes that are applied twice would double rows`,
      'Name the tables to replay with --table, and fill those without a key anew by `waltide snapshot start`.',
    );
  }

  #named(name: TableName, followed: readonly SinkTable[]): SinkTable {
    const found = followed.find(({ schema, table }) => schema === name.schema && table === name.table);
    if (found) return found;
    const message = `the sink does not follow ${relationName(name)}, or has set it aside`;
    throw new WaltideError('REPLAY', message, 'Bring it back with `waltide snapshot start`.');
  }

  /** What of a delivery is to be applied, in order: first what rows may have seen already, then what none has. */
  sift(delivery: Delivery): readonly Sifted[] {
    const until = this.#until;
    if (until === null) return [{ delivery, seen: false }];
    const again: ChangeEvent[] = [];
    const rest: ChangeEvent[] = [];
    for (const event of delivery.events) {
      if (event.transaction.commitLsn > until) rest.push(event);
      else if (this.#takes(event)) again.push(event);
    }
    return [
      { delivery: { ...delivery, events: again }, seen: true },
      { delivery: { ...delivery, events: rest }, seen: false },
    ];
  }

  /** Of a change that comes again. */
  #takes(event: ChangeEvent): boolean {
    const { transaction, op, message, relation } = event;
    if (relation === null || retryOf(event)) return true;
    if (this.#tables !== null && !this.#tables.has(relationName(relation))) return false;
    if (op === 'm' && message!.prefix === SCHEMA_MESSAGE) return false;
    const live = this.#state.table(relation)?.live;
    if (transaction.snapshot !== null || !live || sameShape(live.relation, relation)) return true;
    const why = `${relationName(relation)} has changed its columns since, so that changes of before cannot be applied once more`;
    throw new RejectedError(relation.schema, relation.table, why, { refill: true });
  }

  /** Inside the caller's transaction: ends the replay once every offset is where the sink stood. */
  async passed(offsets: readonly Offset[]): Promise<boolean> {
    if (this.#until === null || !offsets.some(({ position }) => position.commitLsn > this.#until!)) return false;
    const moved = new Map(offsets.map((offset) => [offset.partition, offset]));
    const behind = this.#state
      .offsets()
      .some((offset) => (moved.get(offset.partition) ?? offset).position.commitLsn < this.#until!);
    if (behind) return false;
    await duckdb.query(this.#connection, `DELETE FROM ${BOOKKEEPING}.rewinds`);
    return true;
  }

  ended(): void {
    this.#until = null;
    this.#tables = null;
  }
}
