import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ChangeEvent, type LogicalMessage, type Op, type Transaction } from '../../src/event/change-event.ts';
import { baseTypeOf, relationOf, rowOf, TRANSACTION, textsOf } from './fixtures.ts';
import { codec, event, keyText, LSN, metaOf, PLACEHOLDER, valueBytes } from './json-fixtures.ts';

const things = relationOf([
  ['id', baseTypeOf('int8')],
  ['na"mé', baseTypeOf('text')],
  ['at', baseTypeOf('timestamptz')],
]);
const AFTER = ['1', 'x', '2026-11-22 03:00:00+00'];

describe('the envelope', () => {
  it('is Debezium’s', () => {
    const json = JSON.parse(valueBytes(event('c', things, null, rowOf(things, AFTER))).toString());
    expect(json).toEqual({
      before: null,
      after: { id: 1, 'na"mé': 'x', at: '2026-11-22T03:00:00Z' },
      source: {
        version: '0.1.0',
        connector: 'postgresql',
        name: 'shop',
        ts_ms: 1_795_318_346_558,
        snapshot: 'false',
        db: 'dé"b',
        sequence: `["${TRANSACTION.commitLsn}","${LSN}"]`,
        ts_us: 1_795_318_346_558_123,
        schema: 'public',
        table: 'things',
        txId: 777,
        lsn: Number(LSN),
      },
      transaction: { id: `777:${TRANSACTION.commitLsn}`, total_order: 3, data_collection_order: 2 },
      op: 'c',
      ts_ms: expect.any(Number),
    });
    expect(Math.abs(json.ts_ms - Date.now())).toBeLessThan(60_000);
  });

  it('has no transaction for a snapshot', () => {
    const transaction: Transaction = {
      ...TRANSACTION,
      xid: 0,
      commitTimeUs: 0n,
      snapshot: { id: 'x', kind: 'initial', sinks: null },
    };
    const read = new ChangeEvent('r', transaction, 9, 9, LSN, things, null, rowOf(things, AFTER));
    const json = JSON.parse(valueBytes(read).toString());
    expect(json).toMatchObject({ op: 'r', transaction: null });
    expect(json.source).toMatchObject({ snapshot: 'true', txId: null, sequence: `[null,"${LSN}"]` });
    expect(codec.readEvent(valueBytes(read), metaOf(read))).toMatchObject({ op: 'r', tableSeq: 9, lsn: LSN });
  });

  it('carries every LSN', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (lsn) => {
        const of = event('c', things, null, rowOf(things, AFTER), lsn);
        expect(codec.readEvent(valueBytes(of), metaOf(of)).lsn).toBe(lsn);
      }),
    );
  });

  const rows: [Op, (string | null)[] | null, (string | null)[] | null][] = [
    ['c', null, AFTER],
    ['r', null, AFTER],
    ['u', null, AFTER],
    ['u', ['2', 'old', null], AFTER],
    ['d', ['1', null, null], null],
    ['t', null, null],
  ];
  it.each(rows)('gives op %s back (before %j, after %j)', (op, before, after) => {
    const of = event(op, things, before && rowOf(things, before), after && rowOf(things, after));
    const back = codec.readEvent(valueBytes(of), metaOf(of));
    expect(back).toMatchObject({ op, seq: 3, tableSeq: 2, lsn: LSN, relation: things, transaction: TRANSACTION });
    expect([textsOf(back.before), textsOf(back.after)]).toEqual([before, after]);
  });

  it('takes a key change apart', () => {
    const of = event('u', things, rowOf(things, ['1', null, null]), rowOf(things, ['2', 'x', null]));
    expect(JSON.parse(valueBytes(of, 'd').toString())).toMatchObject({ op: 'd', before: { id: 1 }, after: null });
    expect(JSON.parse(valueBytes(of, 'c').toString())).toMatchObject({ op: 'c', before: null, after: { id: 2 } });
    const deleted = codec.readEvent(valueBytes(of, 'd'), metaOf(of));
    expect([deleted.op, textsOf(deleted.before), deleted.after]).toEqual(['d', ['1', null, null], null]);
  });

  it('carries messages, inside a transaction and outside', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.uint8Array(), fc.boolean(), (prefix, content, transactional) => {
        const message: LogicalMessage = { prefix, content: Buffer.from(content), transactional };
        const seq = transactional ? 4 : 0;
        const of = new ChangeEvent('m', TRANSACTION, seq, seq, LSN, null, null, null, message);
        const bytes = valueBytes(of);
        const json = JSON.parse(bytes.toString());
        expect(json).toMatchObject({ op: 'm', message: { prefix, content: Buffer.from(content).toString('base64') } });
        expect(json.source).toMatchObject({ schema: '', table: '' });
        expect(codec.readEvent(bytes, metaOf(of))).toMatchObject({ op: 'm', seq, tableSeq: seq, message });
        expect(JSON.parse(keyText(of, 'after')!)).toEqual({ prefix });
      }),
    );
  });

  it('tells unchanged TOAST values by the headers, never by the placeholder', () => {
    const of = event('u', things, null, rowOf(things, ['1', undefined as unknown as null, null]));
    const bytes = valueBytes(of);
    expect(JSON.parse(bytes.toString()).after['na"mé']).toBe(PLACEHOLDER);
    expect(textsOf(codec.readEvent(bytes, metaOf(of, [1])).after)).toEqual(['1', undefined, null]);
    const literally = event('u', things, rowOf(things, ['1', 'real', null]), rowOf(things, ['1', PLACEHOLDER, null]));
    const back = codec.readEvent(valueBytes(literally), metaOf(literally));
    expect(textsOf(back.after)).toEqual(['1', PLACEHOLDER, null]);
    const full = codec.readEvent(valueBytes(literally), metaOf(literally, [1]));
    expect([textsOf(full.before), textsOf(full.after)]).toEqual([
      ['1', 'real', null],
      ['1', undefined, null],
    ]);
  });

  it('accepts other orders, unknown fields and white space', () => {
    const of = event('u', things, rowOf(things, ['2', 'old', null]), rowOf(things, AFTER));
    const json = valueBytes(of).toString();
    const reversed = (_: string, value: unknown): unknown =>
      value !== null && typeof value === 'object' && !Array.isArray(value)
        ? Object.fromEntries(Object.entries({ ...value }).reverse())
        : value;
    const turned = JSON.stringify({ extra: [{ a: ['}'] }, true, null], ...JSON.parse(json, reversed) }, null, '\t ');
    const back = codec.readEvent(Buffer.from(`\r\n ${turned} \n`), metaOf(of));
    expect([textsOf(back.before), textsOf(back.after)]).toEqual([['2', 'old', null], AFTER]);
    expect(back).toMatchObject({ op: 'u', lsn: LSN, tableSeq: 2 });
  });

  it('resolves the escapes that other JSON writers use', () => {
    const json = valueBytes(event('c', things, null, rowOf(things, AFTER))).toString();
    const escaped = json
      .replace('"x"', '"\\/\\u00e9\\ud834\\udd1e\\u0001"')
      .replace('"na\\"mé"', '"na\\u0022m\\u00e9"');
    const back = codec.readEvent(Buffer.from(escaped), metaOf(event('c', things, null, null)));
    expect(back.after?.text(1)).toBe('/é𝄞\u0001');
  });

  it('keeps earlier events’ rows intact while later ones are read', () => {
    const many = Array.from({ length: 3_000 }, (_, i) =>
      event('c', things, null, rowOf(things, [String(i), 'y'.repeat(i), null])),
    );
    const back = many.map((of) => codec.readEvent(valueBytes(of), metaOf(of)));
    expect(back.every((read, i) => read.after?.text(0) === String(i) && read.after.text(1)?.length === i)).toBe(true);
  });

  it('throws PROTOCOL, and nothing else, on what it cannot read', () => {
    const of = event('u', things, rowOf(things, ['2', 'old', null]), rowOf(things, AFTER));
    const good = valueBytes(of);
    const check = (bytes: Buffer): void => {
      try {
        codec.readEvent(bytes, metaOf(of));
      } catch (error) {
        expect(error).toMatchObject({ code: 'PROTOCOL' });
      }
    };
    for (let end = 0; end < good.length; end++) {
      expect(() => codec.readEvent(good.subarray(0, end), metaOf(of))).toThrowError(
        expect.objectContaining({ code: 'PROTOCOL' }),
      );
    }
    fc.assert(
      fc.property(
        fc.nat(good.length - 1),
        fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from('"\\{}[],:0-tfn'))),
        (at, byte) => {
          const bad = Buffer.from(good);
          bad[at] = byte;
          check(bad);
        },
      ),
      { numRuns: 1000 },
    );
    for (const text of ['{}', '[]', 'null', '1', `${good.toString()}x`]) {
      expect(() => codec.readEvent(Buffer.from(text), metaOf(of)), text).toThrowError(
        expect.objectContaining({ code: 'PROTOCOL' }),
      );
    }
  });

  it('refuses a tuple that is not the relation’s', () => {
    const two = relationOf([
      ['id', baseTypeOf('int8')],
      ['v', baseTypeOf('text')],
    ]);
    const of = event('c', two, null, rowOf(two, ['1']));
    expect(() => valueBytes(of)).toThrowError(expect.objectContaining({ code: 'PROTOCOL' }));
  });
});

describe('keys', () => {
  it('are objects of the key’s columns, in its order', () => {
    const pair = relationOf(
      things.columns.map(({ name, type }) => [name, type] as const),
      [1, 0],
    );
    const of = event('u', pair, rowOf(pair, ['1', 'a', null]), rowOf(pair, ['2', 'b"', null]));
    expect(keyText(of, 'before')).toBe('{"na\\"mé":"a","id":1}');
    expect(keyText(of, 'after')).toBe('{"na\\"mé":"b\\"","id":2}');
    expect(keyText(event('d', things, rowOf(things, ['5', null, null]), null), 'before')).toBe('{"id":5}');
  });

  it('are none without a key and for truncates', () => {
    const keyless = relationOf([['id', baseTypeOf('int8')]], [], 'f');
    expect(keyText(event('c', keyless, null, rowOf(keyless, ['1'])), 'after')).toBeNull();
    expect(keyText(event('t', things, null, null), 'after')).toBeNull();
  });

  it('come from the old row where the new one has the key as unchanged TOAST', () => {
    const texts = relationOf([['k', baseTypeOf('text')]]);
    const unchanged = rowOf(texts, [undefined]);
    expect(keyText(event('u', texts, rowOf(texts, ['long']), unchanged), 'after')).toBe('{"k":"long"}');
    expect(() => keyText(event('u', texts, null, unchanged), 'after')).toThrowError(
      expect.objectContaining({ code: 'PROTOCOL' }),
    );
  });
});
