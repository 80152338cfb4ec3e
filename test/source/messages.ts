import { encodeTuple } from '../../src/event/row.ts';

/** Builds pgoutput messages by name, as the server would send them: the other side of the decoder, written apart from it. */

type Value = string | null | undefined;

function int(size: 1 | 2 | 4, value: number): Buffer {
  const bytes = Buffer.alloc(size);
  if (size === 4) bytes.writeUInt32BE(value >>> 0);
  else bytes.writeUIntBE(value, 0, size);
  return bytes;
}

function int64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(BigInt.asIntN(64, value));
  return bytes;
}

const string = (text: string): Buffer => Buffer.from(`${text}\0`);
const char = (letter: string): Buffer => Buffer.from(letter, 'latin1');

export const message = {
  begin: (finalLsn: bigint, commitTime: bigint, xid: number): Buffer =>
    Buffer.concat([char('B'), int64(finalLsn), int64(commitTime), int(4, xid)]),
  commit: (commitLsn: bigint, endLsn: bigint, commitTime: bigint): Buffer =>
    Buffer.concat([char('C'), int(1, 0), int64(commitLsn), int64(endLsn), int64(commitTime)]),
  origin: (lsn: bigint, name: string): Buffer => Buffer.concat([char('O'), int64(lsn), string(name)]),
  relation: (
    oid: number,
    schema: string,
    table: string,
    identity: string,
    columns: readonly { name: string; key?: boolean; oid: number; modifier?: number }[],
  ): Buffer =>
    Buffer.concat([
      char('R'),
      int(4, oid),
      string(schema),
      string(table),
      char(identity),
      int(2, columns.length),
      ...columns.flatMap((column) => [
        int(1, column.key ? 1 : 0),
        string(column.name),
        int(4, column.oid),
        int(4, column.modifier ?? -1),
      ]),
    ]),
  type: (oid: number, schema: string, name: string): Buffer =>
    Buffer.concat([char('Y'), int(4, oid), string(schema), string(name)]),
  insert: (oid: number, values: readonly Value[]): Buffer =>
    Buffer.concat([char('I'), int(4, oid), char('N'), encodeTuple(values)]),
  update: (oid: number, old: { kind: 'K' | 'O'; values: readonly Value[] } | null, values: readonly Value[]): Buffer =>
    Buffer.concat([
      char('U'),
      int(4, oid),
      ...(old ? [char(old.kind), encodeTuple(old.values)] : []),
      char('N'),
      encodeTuple(values),
    ]),
  delete: (oid: number, kind: 'K' | 'O', values: readonly Value[]): Buffer =>
    Buffer.concat([char('D'), int(4, oid), char(kind), encodeTuple(values)]),
  truncate: (oids: readonly number[], flags: number): Buffer =>
    Buffer.concat([char('T'), int(4, oids.length), int(1, flags), ...oids.map((oid) => int(4, oid))]),
  logical: (transactional: boolean, lsn: bigint, prefix: string, content: Buffer): Buffer =>
    Buffer.concat([
      char('M'),
      int(1, transactional ? 1 : 0),
      int64(lsn),
      string(prefix),
      int(4, content.length),
      content,
    ]),
};

/** The message inside XLogData inside CopyData, as it comes off the socket. */
export function copyData(lsn: bigint, payload: Buffer): Buffer {
  const head = Buffer.alloc(30);
  head[0] = 0x64;
  head.writeUInt32BE(4 + 25 + payload.length, 1);
  head[5] = 0x77;
  head.writeBigUInt64BE(lsn, 6);
  head.writeBigUInt64BE(lsn, 14);
  return Buffer.concat([head, payload]);
}

const lsns = (...values: bigint[]): Buffer => Buffer.concat(values.map(int64));

/** Messages of versions 2 to 4. */
export const openMessage = {
  streamStart: (xid: number, first: boolean): Buffer => Buffer.concat([char('S'), int(4, xid), int(1, first ? 1 : 0)]),
  streamStop: (): Buffer => char('E'),
  streamCommit: (xid: number, commitLsn: bigint, endLsn: bigint, time: bigint): Buffer =>
    Buffer.concat([char('c'), int(4, xid), int(1, 0), lsns(commitLsn, endLsn, time)]),
  streamAbort: (xid: number, subxid: number, parallel: readonly [bigint, bigint] | null = null): Buffer =>
    Buffer.concat([char('A'), int(4, xid), int(4, subxid), lsns(...(parallel ?? []))]),
  beginPrepare: (prepareLsn: bigint, endLsn: bigint, time: bigint, xid: number, gid: string): Buffer =>
    Buffer.concat([char('b'), lsns(prepareLsn, endLsn, time), int(4, xid), string(gid)]),
  /** P prepare, p stream prepare, K commit prepared. */
  twoPhase: (letter: 'P' | 'p' | 'K', lsn: bigint, endLsn: bigint, time: bigint, xid: number, gid: string): Buffer =>
    Buffer.concat([char(letter), int(1, 0), lsns(lsn, endLsn, time), int(4, xid), string(gid)]),
  rollbackPrepared: (values: readonly [bigint, bigint, bigint, bigint], xid: number, gid: string): Buffer =>
    Buffer.concat([char('r'), int(1, 0), lsns(...values), int(4, xid), string(gid)]),
};

/** The same message as it comes inside a stream: with the xid of its subtransaction after the type. */
export function streamed(xid: number, bytes: Buffer): Buffer {
  return bytes[0] === 0x4f ? bytes : Buffer.concat([bytes.subarray(0, 1), int(4, xid), bytes.subarray(1)]);
}
