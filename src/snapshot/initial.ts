import { randomBytes } from 'node:crypto';
import { messageOf, WaltideError } from '../errors.ts';
import type { Batch } from '../event/batch.ts';
import { ByteWriter } from '../event/byte-writer.ts';
import { ChangeEvent, snapshotEndMessage, type Transaction } from '../event/change-event.ts';
import type { Lsn } from '../event/lsn.ts';
import type { Relation } from '../event/relation.ts';
import { Row } from '../event/row.ts';
import { describeRelation, TypeCatalog } from '../postgres/catalog.ts';
import { connect, queryError } from '../postgres/connection.ts';
import { COPY_DATA, CopySession, ServerError } from '../postgres/copy-session.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { copyRowToTuple } from './copy-text.ts';

export interface InitialSnapshotOptions {
  readonly url: string;
  readonly slot: string;
  readonly connectTimeoutMs: number;
  readonly tables: readonly PublishedTable[];
  readonly consistentPoint: Lsn;
  readonly snapshotName: string;
  readonly onProgress: (progress: CopyProgress) => void;
}

export interface CopyProgress {
  readonly table: string;
  readonly rows: number;
  readonly bytes: number;
  /** The planner's guess; 0 when it has none. */
  readonly estimatedRows: number;
  readonly done: boolean;
}

/**
 * The rows as they were at the slot's consistent point, table by table, as op r. Each table begins with a truncate, so
 * that a copy that starts again replaces what an earlier one left behind.
 */
export async function* initialSnapshot(options: InitialSnapshotOptions, signal: AbortSignal): AsyncGenerator<Batch> {
  const transaction: Transaction = {
    xid: 0,
    // WAL records begin at multiples of 8, so no commit can have this LSN: the copy comes before all that is streamed.
    commitLsn: options.consistentPoint - 1n,
    commitTimeUs: BigInt(Date.now()) * 1000n,
    snapshot: { id: randomBytes(6).toString('hex'), kind: 'initial', sinks: null },
    origin: null,
  };
  let seq = 0;
  for (const table of options.tables) {
    checkReadable(table);
    for await (const batch of copyTable(options, table, transaction, seq, signal)) {
      seq = batch.events.at(-1)!.seq;
      yield batch;
    }
  }
}

function checkReadable(table: PublishedTable): void {
  const name = `${table.schema}.${table.table}`;
  if (!table.canSelect)
    throw new WaltideError(
      'SOURCE_RIGHTS',
      `table ${name} cannot be read by this role`,
      `Run GRANT SELECT ON ${name} TO this role, or leave the table out by source.exclude.`,
    );
  if (table.rowSecurity)
    throw new WaltideError(
      'SOURCE_RIGHTS',
      `row-level security would hide rows of ${name} from this role`,
      'Run ALTER ROLE … BYPASSRLS, or leave the table out by source.exclude.',
    );
}

async function* copyTable(
  options: InitialSnapshotOptions,
  table: PublishedTable,
  transaction: Transaction,
  firstSeq: number,
  signal: AbortSignal,
): AsyncGenerator<Batch> {
  const client = await connect(options.url, {
    applicationName: `waltide ${options.slot} copy`,
    timeoutMs: options.connectTimeoutMs,
  });
  const name = `${table.schema}.${table.table}`;
  let rows = 0;
  let bytes = 0;
  const progress = (done: boolean): void =>
    options.onProgress({ table: name, rows, bytes, estimatedRows: table.estimatedRows, done });
  try {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    await client.query(`SET TRANSACTION SNAPSHOT ${client.escapeLiteral(options.snapshotName)}`);
    // An error rather than fewer rows, should a policy apply after all.
    await client.query('SET LOCAL row_security = off');
    const relation = await describeRelation(client, new TypeCatalog(client), table, table.columns);
    let seq = firstSeq;
    yield {
      events: [new ChangeEvent('t', transaction, ++seq, 1, transaction.commitLsn, relation, null, null)],
      bytes: 0,
      commitEndLsn: null,
    };
    const session = await CopySession.start(client, copyCommand(client.escapeIdentifier.bind(client), table, relation));
    const onAbort = (): void => session.destroy();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      for (let frames = await session.read(); frames; frames = await session.read()) {
        const events = rowsOf(session, frames, relation, transaction, seq, rows);
        if (events.length === 0) continue;
        seq += events.length;
        rows += events.length;
        bytes += frames.length;
        progress(false);
        yield { events, bytes: events[0]!.after!.bytes.length, commitEndLsn: null };
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
      session.destroy();
    }
    progress(true);
    yield { events: [completed(transaction, ++seq, rows + 2, relation)], bytes: 0, commitEndLsn: null };
  } catch (error) {
    if (error instanceof ServerError)
      throw new WaltideError(
        'SOURCE_QUERY',
        `copying ${name}: ${error.message}`,
        'Correct the table or leave it out by source.exclude.',
        { cause: error },
      );
    if (error instanceof RangeError)
      throw new WaltideError(
        'PROTOCOL',
        `copying ${name}: ${messageOf(error)}`,
        'The table was altered during the copy; start again.',
        { cause: error },
      );
    throw queryError(error, `copying ${name}`);
  } finally {
    await client.end().catch(() => {});
  }
}

function completed(transaction: Transaction, seq: number, tableSeq: number, relation: Relation): ChangeEvent {
  const message = snapshotEndMessage({ phase: 'completed' });
  return new ChangeEvent('m', transaction, seq, tableSeq, transaction.commitLsn, relation, null, null, message);
}

function copyCommand(quote: (name: string) => string, table: PublishedTable, relation: Relation): string {
  const columns = relation.columns.map((column) => quote(column.name)).join(', ');
  const target = `${quote(table.schema)}.${quote(table.table)}`;
  const where = table.rowFilter ? ` WHERE ${table.rowFilter}` : '';
  // COPY of a bare name takes neither partitioned tables nor filters. ONLY: children of inheritance are tables of their own.
  if (table.kind !== 'p' && !where && relation.columns.length > 0) return `COPY ${target} (${columns}) TO STDOUT`;
  return `COPY (SELECT ${columns} FROM ${table.kind === 'p' ? '' : 'ONLY '}${target}${where}) TO STDOUT`;
}

/** The server sends one row per CopyData message. */
function rowsOf(
  session: CopySession,
  frames: Buffer,
  relation: Relation,
  transaction: Transaction,
  seq: number,
  rows: number,
): ChangeEvent[] {
  const out = new ByteWriter(frames.length + (frames.length >> 1));
  const starts: number[] = [];
  for (let at = 0; at < frames.length; ) {
    const end = at + 1 + frames.readUInt32BE(at + 1);
    if (frames[at] === COPY_DATA) starts.push(copyRowToTuple(frames, at + 5, end, relation.columns.length, out));
    else session.control(frames, at);
    at = end;
  }
  const bytes = out.bytes;
  // The truncate that begins the table is number 1 among its events.
  return starts.map(
    (start, i) =>
      new ChangeEvent(
        'r',
        transaction,
        seq + i + 1,
        rows + i + 2,
        transaction.commitLsn,
        relation,
        null,
        new Row(relation, bytes, start),
      ),
  );
}
