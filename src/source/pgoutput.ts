import type {
  InsertMessage,
  LogicalDecodingMessage,
  OpenMessage,
  PgoutputMessage,
  RelationColumn,
  RelationMessage,
  TruncateMessage,
  TypeMessage,
  UpdateMessage,
} from './pgoutput-messages.ts';

/*
 * Logical Replication Message Formats, protocol versions 1 to 4 (PostgreSQL manual, chapter "Frontend/Backend
 * Protocol"). Pure: bytes in, message out; no state, no I/O. Tuples stay bytes: a message says where they begin.
 */

/** Message types, by their first byte. */
export const RELATION = 0x52; // R
export const ORIGIN = 0x4f; // O
export const MESSAGE = 0x4d; // M
export const STREAM_STOP = 0x45; // E
export const PREPARE = 0x50; // P

/** The bytes are not what the manual says: a newer protocol, or a stream that lost its place. */
export class PgoutputError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'PgoutputError';
  }
}

/**
 * Decodes the message at `at`, which must end at `end`. Offsets in the result point into `bytes`. `streamed` is true
 * between Stream Start and Stream Stop, where an Int32 xid follows the type of all but Origin.
 * Throws PgoutputError on an unknown type, or on bytes that are cut, too long or mangled.
 */
export function decodePgoutput(bytes: Buffer, at: number, end: number, streamed = false): PgoutputMessage {
  try {
    return decode(bytes, at, end, streamed);
  } catch (error) {
    if (error instanceof RangeError) throw new PgoutputError(`a message of ${end - at} bytes ends too early`);
    throw error;
  }
}

function decode(bytes: Buffer, at: number, end: number, streamed: boolean): PgoutputMessage {
  const type = bytes[at];
  /** Offset of what follows the type and, in a stream, the xid. */
  const body = streamed ? at + 5 : at + 1;
  switch (type) {
    case 0x49: // I
      return decodeInsert(bytes, body, end);
    case 0x55: // U
      return decodeUpdate(bytes, body, end);
    case 0x44: // D
      expectByteOf(bytes, body + 4, OLD_KEY, OLD_ROW);
      expectEnd(skipTuple(bytes, body + 5, end), end);
      return {
        type: 'delete',
        relationOid: bytes.readUInt32BE(body),
        oldKind: bytes[body + 4] === OLD_KEY ? 'K' : 'O',
        oldAt: body + 5,
      };
    case 0x42: // B
      expectEnd(at + 21, end);
      return {
        type: 'begin',
        finalLsn: bytes.readBigUInt64BE(at + 1),
        commitTime: bytes.readBigInt64BE(at + 9),
        xid: bytes.readUInt32BE(at + 17),
      };
    case 0x43: // C, with one byte of unused flags
      expectEnd(at + 26, end);
      return {
        type: 'commit',
        commitLsn: bytes.readBigUInt64BE(at + 2),
        endLsn: bytes.readBigUInt64BE(at + 10),
        commitTime: bytes.readBigInt64BE(at + 18),
      };
    case RELATION:
      return decodeRelation(bytes, body, end);
    case 0x54: // T
      return decodeTruncate(bytes, body, end);
    case MESSAGE:
      return decodeMessage(bytes, body, end);
    case 0x59: // Y
      return decodeType(bytes, body, end);
    case ORIGIN: {
      const name = readString(bytes, at + 9, end);
      expectEnd(name.next, end);
      return { type: 'origin', commitLsn: bytes.readBigUInt64BE(at + 1), name: name.text };
    }
    default:
      return decodeStreaming(bytes, at, end) ?? decodeTwoPhase(bytes, at, end) ?? unknown(type);
  }
}

/** Messages of version 2, and Stream Abort as version 4 extends it. */
function decodeStreaming(bytes: Buffer, at: number, end: number): OpenMessage | null {
  switch (bytes[at]) {
    case 0x53: // S
      expectEnd(at + 6, end);
      return { type: 'streamStart', xid: bytes.readUInt32BE(at + 1), first: bytes[at + 5] === 1 };
    case STREAM_STOP:
      expectEnd(at + 1, end);
      return { type: 'streamStop' };
    case 0x63: // c, with one byte of unused flags after the xid
      expectEnd(at + 30, end);
      return {
        type: 'streamCommit',
        xid: bytes.readUInt32BE(at + 1),
        commitLsn: bytes.readBigUInt64BE(at + 6),
        endLsn: bytes.readBigUInt64BE(at + 14),
        commitTime: bytes.readBigInt64BE(at + 22),
      };
    case 0x41: {
      // A; LSN and time only under parallel streaming
      const parallel = end - at !== 9;
      if (parallel) expectEnd(at + 25, end);
      return {
        type: 'streamAbort',
        xid: bytes.readUInt32BE(at + 1),
        subxid: bytes.readUInt32BE(at + 5),
        abortLsn: parallel ? bytes.readBigUInt64BE(at + 9) : null,
        abortTime: parallel ? bytes.readBigInt64BE(at + 17) : null,
      };
    }
    default:
      return null;
  }
}

/** Messages of version 3. All but Begin Prepare have one byte of unused flags after the type. */
function decodeTwoPhase(bytes: Buffer, at: number, end: number): OpenMessage | null {
  const type = bytes[at];
  if (type === 0x62) {
    // b
    const gid = lastString(bytes, at + 29, end);
    return {
      type: 'beginPrepare',
      prepareLsn: bytes.readBigUInt64BE(at + 1),
      endLsn: bytes.readBigUInt64BE(at + 9),
      prepareTime: bytes.readBigInt64BE(at + 17),
      xid: bytes.readUInt32BE(at + 25),
      gid,
    };
  }
  if (type === PREPARE || type === 0x70 || type === 0x4b) {
    // P, p or K
    const first = bytes.readBigUInt64BE(at + 2);
    const endLsn = bytes.readBigUInt64BE(at + 10);
    const time = bytes.readBigInt64BE(at + 18);
    const xid = bytes.readUInt32BE(at + 26);
    const gid = lastString(bytes, at + 30, end);
    if (type === 0x4b) return { type: 'commitPrepared', commitLsn: first, endLsn, commitTime: time, xid, gid };
    const kind = type === PREPARE ? 'prepare' : 'streamPrepare';
    return { type: kind, prepareLsn: first, endLsn, prepareTime: time, xid, gid };
  }
  if (type !== 0x72) return null;
  // r
  return {
    type: 'rollbackPrepared',
    prepareEndLsn: bytes.readBigUInt64BE(at + 2),
    endLsn: bytes.readBigUInt64BE(at + 10),
    prepareTime: bytes.readBigInt64BE(at + 18),
    rollbackTime: bytes.readBigInt64BE(at + 26),
    xid: bytes.readUInt32BE(at + 34),
    gid: lastString(bytes, at + 38, end),
  };
}

const NEW_ROW = 0x4e; // N
const OLD_KEY = 0x4b; // K
const OLD_ROW = 0x4f; // O

/** 'I' Int32 oid, 'N' with the new tuple. */
function decodeInsert(bytes: Buffer, body: number, end: number): InsertMessage {
  expectByteOf(bytes, body + 4, NEW_ROW, NEW_ROW);
  expectEnd(skipTuple(bytes, body + 5, end), end);
  return { type: 'insert', relationOid: bytes.readUInt32BE(body), newAt: body + 5 };
}

/** 'U' Int32 oid, then optionally 'K' or 'O' with the old tuple, then 'N' with the new one. */
function decodeUpdate(bytes: Buffer, body: number, end: number): UpdateMessage {
  const relationOid = bytes.readUInt32BE(body);
  if (bytes[body + 4] === NEW_ROW) {
    expectEnd(skipTuple(bytes, body + 5, end), end);
    return { type: 'update', relationOid, oldKind: null, oldAt: -1, newAt: body + 5 };
  }
  expectByteOf(bytes, body + 4, OLD_KEY, OLD_ROW);
  const newMark = skipTuple(bytes, body + 5, end);
  expectByteOf(bytes, newMark, NEW_ROW, NEW_ROW);
  expectEnd(skipTuple(bytes, newMark + 1, end), end);
  const oldKind = bytes[body + 4] === OLD_KEY ? 'K' : 'O';
  return { type: 'update', relationOid, oldKind, oldAt: body + 5, newAt: newMark + 1 };
}

/**
 * Offset of the first byte after the tuple at `at` (TupleData, as in event/row.ts). Every column is looked at, so that
 * no reader of the row can run into the next message.
 */
export function skipTuple(bytes: Buffer, at: number, end: number): number {
  if (at + 2 > end) throw new PgoutputError('a tuple has no beginning');
  let next = at + 2;
  for (let left = (bytes[at]! << 8) | bytes[at + 1]!; left > 0; left--) {
    const kind = bytes[next];
    if (kind === 0x74 || kind === 0x62) {
      // t or b: text or binary, with an Int32 length
      if (next + 5 > end) throw new PgoutputError('a tuple ends after its message');
      const length = (bytes[next + 1]! << 24) | (bytes[next + 2]! << 16) | (bytes[next + 3]! << 8) | bytes[next + 4]!;
      if (length < 0) throw new PgoutputError(`a value of ${length} bytes`);
      next += 5 + length;
    } else if (kind === 0x6e || kind === 0x75)
      next++; // n or u: NULL or unchanged TOAST
    else throw new PgoutputError(`unknown kind of column ${kind} in a tuple`);
    if (next > end) throw new PgoutputError('a tuple ends after its message');
  }
  return next;
}

function decodeRelation(bytes: Buffer, body: number, end: number): RelationMessage {
  const schema = readString(bytes, body + 4, end);
  const table = readString(bytes, schema.next, end);
  const replicaIdentity = String.fromCharCode(bytes[table.next] ?? 0);
  if (!'dnfi'.includes(replicaIdentity)) throw new PgoutputError(`unknown replica identity ${replicaIdentity}`);
  const count = bytes.readUInt16BE(table.next + 1);
  const columns: RelationColumn[] = [];
  let next = table.next + 3;
  for (let i = 0; i < count; i++) {
    const name = readString(bytes, next + 1, end);
    columns.push({
      name: name.text,
      isKey: (bytes[next]! & 1) === 1,
      typeOid: bytes.readUInt32BE(name.next),
      modifier: bytes.readInt32BE(name.next + 4),
    });
    next = name.next + 8;
  }
  expectEnd(next, end);
  return {
    type: 'relation',
    oid: bytes.readUInt32BE(body),
    // The manual: an empty string stands for pg_catalog.
    schema: schema.text || 'pg_catalog',
    table: table.text,
    replicaIdentity: replicaIdentity as RelationMessage['replicaIdentity'],
    columns,
  };
}

function decodeType(bytes: Buffer, body: number, end: number): TypeMessage {
  const schema = readString(bytes, body + 4, end);
  const name = readString(bytes, schema.next, end);
  expectEnd(name.next, end);
  return { type: 'type', oid: bytes.readUInt32BE(body), schema: schema.text, name: name.text };
}

/** 'T' Int32 count, Int8 options (1 = CASCADE, 2 = RESTART IDENTITY), Int32 oid each. */
function decodeTruncate(bytes: Buffer, body: number, end: number): TruncateMessage {
  const count = bytes.readUInt32BE(body);
  expectEnd(body + 5 + count * 4, end);
  const relationOids: number[] = [];
  for (let i = 0; i < count; i++) relationOids.push(bytes.readUInt32BE(body + 5 + i * 4));
  const flags = bytes[body + 4]!;
  return { type: 'truncate', relationOids, cascade: (flags & 1) !== 0, restartIdentity: (flags & 2) !== 0 };
}

/** 'M' Int8 flags (1 = transactional), Int64 LSN, String prefix, Int32 length, content. */
function decodeMessage(bytes: Buffer, body: number, end: number): LogicalDecodingMessage {
  const prefix = readString(bytes, body + 9, end);
  const length = bytes.readUInt32BE(prefix.next);
  expectEnd(prefix.next + 4 + length, end);
  return {
    type: 'message',
    transactional: bytes[body] === 1,
    lsn: bytes.readBigUInt64BE(body + 1),
    prefix: prefix.text,
    content: bytes.subarray(prefix.next + 4, prefix.next + 4 + length),
  };
}

function readString(bytes: Buffer, at: number, end: number): { text: string; next: number } {
  const zero = bytes.indexOf(0, at);
  if (zero < 0 || zero >= end) throw new PgoutputError('a string has no end');
  return { text: bytes.toString('utf8', at, zero), next: zero + 1 };
}

function lastString(bytes: Buffer, at: number, end: number): string {
  const { text, next } = readString(bytes, at, end);
  expectEnd(next, end);
  return text;
}

function expectByteOf(bytes: Buffer, at: number, one: number, other: number): void {
  if (bytes[at] !== one && bytes[at] !== other)
    throw new PgoutputError(`byte ${bytes[at]} before a tuple, where ${String.fromCharCode(one)} is expected`);
}

function expectEnd(found: number, end: number): void {
  if (found !== end)
    throw new PgoutputError(`a message ends ${Math.abs(found - end)} bytes too ${found > end ? 'early' : 'late'}`);
}

function unknown(type: number | undefined): never {
  throw new PgoutputError(`unknown message type ${JSON.stringify(String.fromCharCode(type ?? 0))}`);
}
