import { skipColumn } from '../event/row.ts';

/*
 * Logical Replication Message Formats, protocol version 1 (PostgreSQL manual, chapter "Frontend/Backend Protocol").
 * Pure: bytes in, message out; no state, no I/O. Tuples stay bytes: a message says where they begin.
 */

export interface BeginMessage {
  readonly type: 'begin';
  /** LSN of the commit record: what orders transactions. */
  readonly finalLsn: bigint;
  /** Microseconds since 2000-01-01 UTC. */
  readonly commitTime: bigint;
  readonly xid: number;
}
export interface CommitMessage {
  readonly type: 'commit';
  readonly commitLsn: bigint;
  /** First byte after the commit record: what a slot is acknowledged up to. */
  readonly endLsn: bigint;
  readonly commitTime: bigint;
}
export interface OriginMessage {
  readonly type: 'origin';
  readonly commitLsn: bigint;
  readonly name: string;
}
export interface RelationMessage {
  readonly type: 'relation';
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  readonly replicaIdentity: 'd' | 'n' | 'f' | 'i';
  readonly columns: readonly RelationColumn[];
}
export interface RelationColumn {
  readonly name: string;
  /** Part of the replica identity (all columns are, under FULL). */
  readonly isKey: boolean;
  readonly typeOid: number;
  readonly modifier: number;
}
export interface TypeMessage {
  readonly type: 'type';
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
}
export interface InsertMessage {
  readonly type: 'insert';
  readonly relationOid: number;
  /** Offset of the new tuple. */
  readonly newAt: number;
}
export interface UpdateMessage {
  readonly type: 'update';
  readonly relationOid: number;
  /** K = key columns only, O = the whole old row, null = the key did not change. */
  readonly oldKind: 'K' | 'O' | null;
  /** Offset of the old tuple; -1 without one. */
  readonly oldAt: number;
  readonly newAt: number;
}
export interface DeleteMessage {
  readonly type: 'delete';
  readonly relationOid: number;
  readonly oldKind: 'K' | 'O';
  readonly oldAt: number;
}
export interface TruncateMessage {
  readonly type: 'truncate';
  readonly relationOids: readonly number[];
  readonly cascade: boolean;
  readonly restartIdentity: boolean;
}
export interface LogicalDecodingMessage {
  readonly type: 'message';
  readonly transactional: boolean;
  readonly lsn: bigint;
  readonly prefix: string;
  readonly content: Buffer;
}
export type PgoutputMessage =
  | BeginMessage
  | CommitMessage
  | OriginMessage
  | RelationMessage
  | TypeMessage
  | InsertMessage
  | UpdateMessage
  | DeleteMessage
  | TruncateMessage
  | LogicalDecodingMessage;

/** The bytes are not what the manual says: a newer protocol, or a stream that lost its place. */
export class PgoutputError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'PgoutputError';
  }
}

/**
 * Decodes the message at `at`, which must end at `end`. Offsets in the result point into `bytes`.
 * Throws PgoutputError on an unknown type or on bytes that end too early or too late.
 */
export function decodePgoutput(bytes: Buffer, at: number, end: number): PgoutputMessage {
  const type = bytes[at];
  switch (type) {
    case 0x49: // I
      expectByte(bytes, at + 5, 0x4e);
      return { type: 'insert', relationOid: bytes.readUInt32BE(at + 1), newAt: at + 6 };
    case 0x55: // U
      return decodeUpdate(bytes, at, end);
    case 0x44: // D
      return {
        type: 'delete',
        relationOid: bytes.readUInt32BE(at + 1),
        oldKind: oldKind(bytes[at + 5]),
        oldAt: at + 6,
      };
    case 0x42: // B
      expectLength(at, end, 21);
      return {
        type: 'begin',
        finalLsn: bytes.readBigUInt64BE(at + 1),
        commitTime: bytes.readBigInt64BE(at + 9),
        xid: bytes.readUInt32BE(at + 17),
      };
    case 0x43: // C, with one byte of unused flags
      expectLength(at, end, 26);
      return {
        type: 'commit',
        commitLsn: bytes.readBigUInt64BE(at + 2),
        endLsn: bytes.readBigUInt64BE(at + 10),
        commitTime: bytes.readBigInt64BE(at + 18),
      };
    case 0x52: // R
      return decodeRelation(bytes, at, end);
    case 0x54: // T
      return decodeTruncate(bytes, at, end);
    case 0x4d: // M
      return decodeMessage(bytes, at, end);
    case 0x59: {
      // Y
      const schema = readString(bytes, at + 5, end);
      const name = readString(bytes, schema.next, end);
      return { type: 'type', oid: bytes.readUInt32BE(at + 1), schema: schema.text, name: name.text };
    }
    case 0x4f: // O
      return { type: 'origin', commitLsn: bytes.readBigUInt64BE(at + 1), name: readString(bytes, at + 9, end).text };
    default:
      throw new PgoutputError(`unknown message type ${JSON.stringify(String.fromCharCode(type ?? 0))}`);
  }
}

/** 'U' Int32 oid, then optionally 'K' or 'O' with the old tuple, then 'N' with the new one. */
function decodeUpdate(bytes: Buffer, at: number, end: number): UpdateMessage {
  const relationOid = bytes.readUInt32BE(at + 1);
  if (bytes[at + 5] === 0x4e) return { type: 'update', relationOid, oldKind: null, oldAt: -1, newAt: at + 6 };
  const kind = oldKind(bytes[at + 5]);
  const newMark = skipTuple(bytes, at + 6, end);
  expectByte(bytes, newMark, 0x4e);
  return { type: 'update', relationOid, oldKind: kind, oldAt: at + 6, newAt: newMark + 1 };
}

function oldKind(byte: number | undefined): 'K' | 'O' {
  if (byte === 0x4b) return 'K';
  if (byte === 0x4f) return 'O';
  throw new PgoutputError(`old tuple is marked ${byte}, not K or O`);
}

/** Offset of the first byte after the tuple at `at`. */
export function skipTuple(bytes: Buffer, at: number, end: number): number {
  const count = bytes.readUInt16BE(at);
  let next = at + 2;
  for (let i = 0; i < count; i++) {
    next = skipColumn(bytes, next);
    if (next > end) throw new PgoutputError('a tuple ends after its message');
  }
  return next;
}

function decodeRelation(bytes: Buffer, at: number, end: number): RelationMessage {
  const schema = readString(bytes, at + 5, end);
  const table = readString(bytes, schema.next, end);
  const replicaIdentity = String.fromCharCode(bytes[table.next]!);
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
  expectLength(at, end, next - at);
  return {
    type: 'relation',
    oid: bytes.readUInt32BE(at + 1),
    // The manual: an empty string stands for pg_catalog.
    schema: schema.text || 'pg_catalog',
    table: table.text,
    replicaIdentity: replicaIdentity as RelationMessage['replicaIdentity'],
    columns,
  };
}

/** 'T' Int32 count, Int8 options (1 = CASCADE, 2 = RESTART IDENTITY), Int32 oid each. */
function decodeTruncate(bytes: Buffer, at: number, end: number): TruncateMessage {
  const count = bytes.readUInt32BE(at + 1);
  expectLength(at, end, 6 + count * 4);
  const relationOids: number[] = [];
  for (let i = 0; i < count; i++) relationOids.push(bytes.readUInt32BE(at + 6 + i * 4));
  const flags = bytes[at + 5]!;
  return { type: 'truncate', relationOids, cascade: (flags & 1) !== 0, restartIdentity: (flags & 2) !== 0 };
}

/** 'M' Int8 flags (1 = transactional), Int64 LSN, String prefix, Int32 length, content. */
function decodeMessage(bytes: Buffer, at: number, end: number): LogicalDecodingMessage {
  const prefix = readString(bytes, at + 10, end);
  const length = bytes.readUInt32BE(prefix.next);
  expectLength(at, end, prefix.next + 4 + length - at);
  return {
    type: 'message',
    transactional: bytes[at + 1] === 1,
    lsn: bytes.readBigUInt64BE(at + 2),
    prefix: prefix.text,
    content: bytes.subarray(prefix.next + 4, prefix.next + 4 + length),
  };
}

function readString(bytes: Buffer, at: number, end: number): { text: string; next: number } {
  const zero = bytes.indexOf(0, at);
  if (zero < 0 || zero >= end) throw new PgoutputError('a string has no end');
  return { text: bytes.toString('utf8', at, zero), next: zero + 1 };
}

function expectByte(bytes: Buffer, at: number, byte: number): void {
  if (bytes[at] !== byte) throw new PgoutputError(`expected ${String.fromCharCode(byte)} at byte ${at}`);
}

function expectLength(at: number, end: number, length: number): void {
  if (end - at !== length) throw new PgoutputError(`a message of ${length} bytes came with ${end - at}`);
}
