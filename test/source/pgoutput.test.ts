import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Row } from '../../src/event/row.ts';
import { decodePgoutput, PgoutputError } from '../../src/source/pgoutput.ts';
import { message, openMessage, streamed } from './messages.ts';

const decode = (bytes: Buffer) => decodePgoutput(bytes, 0, bytes.length);
const relation = { oid: 1, schema: 's', table: 't', replicaIdentity: 'd', columns: [], key: [] } as const;
const texts = (bytes: Buffer, at: number): (string | null | undefined)[] => {
  const row = new Row(relation, bytes, at);
  return Array.from({ length: row.starts().length - 1 }, (_, i) => row.text(i));
};

describe('decodePgoutput', () => {
  it('reads begin, commit and origin with unsigned 32-bit xids and 64-bit LSNs', () => {
    expect(decode(message.begin(0xfffffffffffffff0n, 5n, 4_294_967_295))).toEqual({
      type: 'begin',
      finalLsn: 0xfffffffffffffff0n,
      commitTime: 5n,
      xid: 4_294_967_295,
    });
    expect(decode(message.commit(10n, 20n, -3n))).toEqual({
      type: 'commit',
      commitLsn: 10n,
      endLsn: 20n,
      commitTime: -3n,
    });
    expect(decode(message.origin(7n, 'node é'))).toEqual({ type: 'origin', commitLsn: 7n, name: 'node é' });
  });

  it('reads relation and type with unsigned 32-bit OIDs', () => {
    const columns = [
      { name: 'id', key: true, oid: 20 },
      { name: 'odd "name"', oid: 4_000_000_000, modifier: 786_438 },
    ];
    expect(decode(message.relation(3_000_000_000, 'public', 'orders', 'i', columns))).toEqual({
      type: 'relation',
      oid: 3_000_000_000,
      schema: 'public',
      table: 'orders',
      replicaIdentity: 'i',
      columns: [
        { name: 'id', isKey: true, typeOid: 20, modifier: -1 },
        { name: 'odd "name"', isKey: false, typeOid: 4_000_000_000, modifier: 786_438 },
      ],
    });
    expect(decode(message.relation(1, '', 'pg_class', 'n', []))).toMatchObject({ schema: 'pg_catalog' });
    expect(decode(message.type(16400, 'public', 'mood'))).toEqual({
      type: 'type',
      oid: 16400,
      schema: 'public',
      name: 'mood',
    });
  });

  it('reads rows of insert, update and delete, with NULL and unchanged TOAST apart', () => {
    const insert = message.insert(9, ['1', null, '']);
    const inserted = decode(insert);
    expect(inserted).toMatchObject({ type: 'insert', relationOid: 9 });
    if (inserted.type === 'insert') expect(texts(insert, inserted.newAt)).toEqual(['1', null, '']);

    const update = message.update(9, { kind: 'K', values: ['1', null] }, ['2', undefined]);
    const updated = decode(update);
    expect(updated).toMatchObject({ type: 'update', oldKind: 'K' });
    if (updated.type === 'update') {
      expect(texts(update, updated.oldAt)).toEqual(['1', null]);
      expect(texts(update, updated.newAt)).toEqual(['2', undefined]);
    }
    expect(decode(message.update(9, null, ['2']))).toMatchObject({ oldKind: null, oldAt: -1 });
    expect(decode(message.delete(9, 'O', ['1']))).toMatchObject({ type: 'delete', oldKind: 'O', relationOid: 9 });
  });

  it('reads truncate and logical messages', () => {
    expect(decode(message.truncate([1, 4_294_967_295], 3))).toEqual({
      type: 'truncate',
      relationOids: [1, 4_294_967_295],
      cascade: true,
      restartIdentity: true,
    });
    const content = Buffer.from([0, 255, 10]);
    expect(decode(message.logical(false, 99n, 'audit', content))).toMatchObject({
      type: 'message',
      transactional: false,
      lsn: 99n,
      prefix: 'audit',
      content,
    });
  });

  it('refuses rubbish: an unknown type, a cut message, a message that is too long', () => {
    expect(() => decode(Buffer.from('Z12345678'))).toThrow(PgoutputError);
    const commit = message.commit(1n, 2n, 3n);
    expect(() => decode(commit.subarray(0, -1))).toThrow();
    expect(() => decode(Buffer.concat([commit, Buffer.alloc(1)]))).toThrow(PgoutputError);
    const update = message.update(9, { kind: 'O', values: ['abc'] }, ['def']);
    for (let end = 0; end < update.length - 10; end++) expect(() => decode(update.subarray(0, end))).toThrow();
  });

  it('gives back any row that was put in', () => {
    const value = fc.option(
      fc.string({ unit: 'binary' }).filter((text) => !text.includes('\0')),
      { nil: null },
    );
    fc.assert(
      fc.property(fc.array(value, { maxLength: 20 }), (values) => {
        const bytes = message.insert(1, values);
        const decoded = decode(bytes);
        if (decoded.type !== 'insert') throw new Error('not an insert');
        expect(texts(bytes, decoded.newAt)).toEqual(values);
      }),
    );
  });

  const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  const time = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
  const xid = fc.integer({ min: 0, max: 0xffff_ffff });
  const name = fc.string({ unit: 'binary', maxLength: 40 }).filter((text) => !text.includes('\0'));

  it('gives back whatever begins, continues and ends open transactions', () => {
    fc.assert(
      fc.property(lsn, lsn, time, time, xid, xid, name, fc.boolean(), (a, b, t, u, x, sub, gid, flag) => {
        const { streamStart, streamStop, streamCommit, streamAbort, beginPrepare, twoPhase, rollbackPrepared } =
          openMessage;
        expect(decode(streamStart(x, flag))).toEqual({ type: 'streamStart', xid: x, first: flag });
        expect(decode(streamStop())).toEqual({ type: 'streamStop' });
        const committed = { commitLsn: a, endLsn: b, commitTime: t, xid: x };
        expect(decode(streamCommit(x, a, b, t))).toEqual({ type: 'streamCommit', ...committed });
        expect(decode(streamAbort(x, sub, flag ? [a, t] : null))).toEqual({
          ...{ type: 'streamAbort', xid: x, subxid: sub },
          ...(flag ? { abortLsn: a, abortTime: t } : { abortLsn: null, abortTime: null }),
        });
        const prepared = { prepareLsn: a, endLsn: b, prepareTime: t, xid: x, gid };
        expect(decode(beginPrepare(a, b, t, x, gid))).toEqual({ type: 'beginPrepare', ...prepared });
        expect(decode(twoPhase('P', a, b, t, x, gid))).toEqual({ type: 'prepare', ...prepared });
        expect(decode(twoPhase('p', a, b, t, x, gid))).toEqual({ type: 'streamPrepare', ...prepared });
        expect(decode(twoPhase('K', a, b, t, x, gid))).toEqual({ type: 'commitPrepared', ...committed, gid });
        expect(decode(rollbackPrepared([a, b, t, u], x, gid))).toEqual({
          ...{ type: 'rollbackPrepared', prepareEndLsn: a, endLsn: b, prepareTime: t, rollbackTime: u, xid: x, gid },
        });
      }),
    );
  });

  it('reads the same inside a stream, past the xid', () => {
    const columns = [{ name: 'id', key: true, oid: 20 }];
    const messages = [
      message.insert(9, ['1', null]),
      message.update(9, { kind: 'K', values: ['1'] }, ['2']),
      message.delete(9, 'O', ['1']),
      message.truncate([1, 2], 1),
      message.relation(7, 's', 't', 'f', columns),
      message.type(16400, 'public', 'mood'),
      message.logical(true, 5n, 'audit', Buffer.from('x')),
      message.origin(7n, 'node'),
    ];
    for (const bytes of messages) {
      const plain = decode(bytes);
      const inside = decodePgoutput(streamed(77, bytes), 0, streamed(77, bytes).length, true);
      const shift = plain.type === 'origin' ? 0 : 4;
      const moved = Object.entries(plain).map(([key, value]) =>
        (key === 'newAt' || key === 'oldAt') && value >= 0 ? [key, value + shift] : [key, value],
      );
      expect(inside).toEqual(Object.fromEntries(moved));
    }
  });

  it('refuses cut and mangled bytes by PgoutputError alone, and reads nothing beyond the message', () => {
    const row = fc.array(fc.option(name, { nil: null }), { maxLength: 4 });
    const any = fc.oneof(
      row.map((values) => message.insert(1, values)),
      fc.tuple(row, row).map(([old, values]) => message.update(1, { kind: 'O', values: old }, values)),
      row.map((values) => message.delete(1, 'K', values)),
      name.map((text) => message.relation(1, text, 'b', 'd', [{ name: text, oid: 20 }])),
      fc.array(xid, { maxLength: 4 }).map((oids) => message.truncate(oids, 3)),
      name.map((text) => message.logical(true, 1n, text, Buffer.from(text))),
      fc.tuple(xid, name).map(([id, gid]) => openMessage.twoPhase('P', 1n, 2n, 3n, id, gid)),
      xid.map((id) => openMessage.streamAbort(id, id, [1n, 2n])),
      fc.uint8Array({ minLength: 1, maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
    );
    fc.assert(
      fc.property(any, fc.nat(), fc.integer({ min: 0, max: 255 }), fc.boolean(), (bytes, where, byte, inStream) => {
        const attempt = (rubbish: Buffer): void => {
          // Followed by another message, as it comes off the socket.
          const all = Buffer.concat([rubbish, Buffer.alloc(64, 0x74)]);
          try {
            const decoded = decodePgoutput(all, 0, rubbish.length, inStream);
            if ('newAt' in decoded) expect(new Row(relation, all, decoded.newAt).starts().at(-1)).toBe(rubbish.length);
          } catch (error) {
            expect(error).toBeInstanceOf(PgoutputError);
          }
        };
        attempt(bytes.subarray(0, where % (bytes.length + 1)));
        const mangled = Buffer.from(bytes);
        mangled[where % mangled.length] = byte;
        attempt(mangled);
      }),
      { numRuns: 2000 },
    );
  });
});
