import { randomUUID } from 'node:crypto';
import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { make, writeError } from './make.ts';
import type { Operation, SinkReached, SinkSide, WriteRequest } from './operation.ts';
import { type LentSession, type WriteSession, WriteSessions } from './sessions.ts';
import { type Statements, statementsOf } from './statement.ts';
import {
  insertCommitted,
  insertQueued,
  type NewOperation,
  noteCommitted,
  OPERATIONS_CHANNEL,
  type OperationRecord,
  readOperation,
  saveKey,
} from './store.ts';
import { findTarget, type Target } from './target.ts';

export interface WriterOptions {
  readonly config: Config;
  readonly log: Log;
  /** The pipeline of this process; without one there are no strong writes, and no sink is known to have anything. */
  readonly sinks?: SinkSide;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/**
 * Writes to the source, and to nothing else: every sink gets the write by the stream, like any other. Nothing needs to be
 * undone in one place because another failed.
 */
export class Writer {
  readonly #config: Config;
  readonly #log: Log;
  readonly #sinks: SinkSide | null;
  readonly #sessions: WriteSessions;

  constructor({ config, log, sinks }: WriterOptions) {
    this.#config = config;
    this.#log = log;
    this.#sinks = sinks ?? null;
    this.#sessions = new WriteSessions(config);
  }

  /**
   * strong: resolves once the sinks have it, with state `applied`; with `committed` where they do not within the time.
   * eventual: resolves with `committed` (durable). weak: with `queued`; a WriteWorker makes it, once.
   * Rejects with nothing written, with WRITE_INVALID, WRITE_REJECTED, TABLES, NOT_FOUND (no such row), SOURCE_BUSY. Where the
   * connection was lost (SOURCE_CONNECTION_LOST) it may have been written: ask again with the same `id`.
   */
  async write(request: WriteRequest): Promise<Operation> {
    const { writes, source } = this.#config;
    const { consistency = writes.consistency, strategy = null, sinks = null, id = randomUUID() } = request;
    if (!UUID.test(id)) throw new WaltideError('WRITE_INVALID', '`id` is no UUID', 'Leave it out, or make a new one.');
    const names = consistency === 'strong' ? this.#sinkNames(sinks) : [];
    const record = await this.#sessions.run(async (session) => {
      const { client } = session;
      await client.query('BEGIN');
      const target = await findTarget(client, source, request.table);
      for (const name of names) this.#checkFollowed(name, target);
      const statements = statementsOf(request, target);
      const { type } = request;
      const { primaryKey } = statements;
      const operation = { id, slot: source.slot, target, type, consistency, strategy, sinks, primaryKey };
      const done =
        consistency === 'weak'
          ? await this.#queue(session, operation, statements)
          : await this.#make(session, operation, statements);
      if (!done) await client.query('ROLLBACK');
      return this.#find(session, id, done ? null : operation);
    });
    if (consistency !== 'strong' || record.lsn === null) return this.#operation(record);
    const arrival = await this.#sinks!.waitFor(record.lsn, {
      sinks: names,
      timeoutMs: request.timeoutMs ?? writes.timeoutMs,
      table: record,
      atOnce: strategy === 'real_time',
    });
    return this.#operation(record, arrival.sinks);
  }

  /** What became of a write. Rejects with NOT_FOUND where none of this id is known (any more). */
  async get(id: string): Promise<Operation> {
    const record = UUID.test(id) ? await this.#sessions.run((session) => this.#find(session, id, null)) : null;
    if (!record) throw unknown(id);
    return this.#operation(record);
  }

  /** Waits for nothing: what is under way is committed or not. */
  close(): Promise<void> {
    return this.#sessions.close();
  }

  /** False where there is one of this id. */
  async #make(session: WriteSession, operation: NewOperation, { write }: Statements): Promise<boolean> {
    const { client } = session;
    const { id, type, target } = operation;
    try {
      // First: asked for twice, it must not meet its own row.
      if (!(await insertCommitted(client, operation))) return false;
      const key = await make(session, type, target, write);
      if (type === 'create' && key) await saveKey(client, id, key);
      await client.query('COMMIT');
      return true;
    } catch (error) {
      throw writeError(error, type, target);
    }
  }

  /** False where there is one of this id. */
  async #queue({ client }: WriteSession, operation: NewOperation, { check, data }: Statements): Promise<boolean> {
    const { queueMax } = this.#config.writes;
    const { strategy, type, target } = operation;
    try {
      await client.query(check.text, [...check.values]);
      const queued = await insertQueued(client, operation, data, queueMax);
      if (queued === null)
        throw new WaltideError(
          'SOURCE_BUSY',
          `${queueMax} writes wait in the queue already`,
          'Try again later; see that a process with writes.enabled runs, or raise writes.queueMax.',
        );
      // Others may wait for the worker's next look.
      if (queued && strategy !== 'batch' && strategy !== 'recovery') await client.query(`NOTIFY ${OPERATIONS_CHANNEL}`);
      if (queued) await client.query('COMMIT');
      return queued;
    } catch (error) {
      throw writeError(error, type, target);
    }
  }

  /** `asked`: what it should be, where another may have taken the id before. */
  async #find({ client, after }: LentSession, id: string, asked: NewOperation | null): Promise<OperationRecord> {
    const found = await readOperation(client, this.#config.source.slot, id);
    if (!found) throw unknown(id);
    const { record, flushedLsn: lsn } = found;
    const { schema, table, type } = record;
    if (asked && (asked.target.schema !== schema || asked.target.table !== table || asked.type !== type))
      throw new WaltideError('WRITE_INVALID', `\`id\` is that of a ${type} in ${schema}.${table}`, 'Make a new one.');
    if (record.state !== 'committed' || record.lsn !== null) return record;
    after(() =>
      noteCommitted(client, [id], lsn).catch((error: unknown) =>
        this.#log.warn({ operation: id }, `its LSN could not be noted: ${messageOf(error)}`),
      ),
    );
    return { ...record, lsn };
  }

  #sinkNames(asked: readonly string[] | null): readonly string[] {
    const open = this.#sinks?.status().sinks.map(({ name }) => name) ?? [];
    if (open.length === 0)
      throw new WaltideError(
        'NOT_RUNNING',
        'no sink is open in this process, so nobody can tell when one has a write',
        'Write as `eventual`, and wait in the process that applies; or try again once it has started.',
      );
    const missing = asked?.find((name) => !open.includes(name));
    if (missing !== undefined)
      throw new WaltideError(
        'USAGE',
        `there is no sink "${missing}" in this process`,
        `There are: ${open.join(', ')}.`,
      );
    return asked ?? open;
  }

  #checkFollowed(sink: string, { schema, table }: Target): void {
    const stopped = this.#sinks?.status().sinks.find(({ name }) => name === sink)?.stopped ?? [];
    if (stopped.some(({ name }) => name === `${schema}.${table}`))
      throw new WaltideError(
        'SINK_REJECTED',
        `sink "${sink}" has set ${schema}.${table} aside, so a write would never be in it; nothing was written`,
        'Write as `eventual`, name other sinks, or take the table up again with `waltide snapshot start`.',
      );
  }

  #operation(
    record: OperationRecord,
    sinks: readonly SinkReached[] = this.#reached(record.sinks, record.lsn),
  ): Operation {
    const { id, schema, table, type, consistency, strategy, primaryKey, lsn, attempts, createdAt, finishedAt } = record;
    const applied = record.state === 'committed' && sinks.length > 0 && sinks.every(({ reached }) => reached);
    const error = record.error === null ? null : { code: record.errorCode ?? 'INTERNAL', message: record.error };
    return {
      ...{ id, table: `${schema}.${table}`, type, consistency, strategy, primaryKey, lsn, sinks, attempts, error },
      ...{ state: applied ? 'applied' : record.state, createdAt, finishedAt },
    };
  }

  #reached(names: readonly string[] | null, lsn: Lsn | null): SinkReached[] {
    return (this.#sinks?.status().sinks ?? [])
      .filter(({ name }) => names?.includes(name) ?? true)
      .map(({ name, appliedLsn }) => {
        const applied = parseLsn(appliedLsn);
        return { name, appliedLsn: applied, reached: lsn !== null && applied >= lsn };
      });
  }
}

function unknown(id: string): WaltideError {
  return new WaltideError(
    'NOT_FOUND',
    `there is no operation "${id.slice(0, 64)}"`,
    'It may be older than writes.keepHours.',
  );
}
