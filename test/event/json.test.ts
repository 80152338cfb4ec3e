import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ByteWriter } from '../../src/event/byte-writer.ts';
import { ChangeEvent, type LogicalMessage, type Op, type Transaction } from '../../src/event/change-event.ts';
import type { RecordMeta } from '../../src/event/codec.ts';
import { createJsonCodec } from '../../src/event/json.ts';
import type { ColumnType, Relation } from '../../src/event/relation.ts';
import type { Row } from '../../src/event/row.ts';
import { arrayOf, baseTypeOf, domainOf, relationOf, rowOf, TRANSACTION, textsOf, userType } from './fixtures.ts';

const PLACEHOLDER = '__debezium_unavailable_value';
const codec = createJsonCodec({ name: 'shop', database: 'dé"b', version: '0.1.0' });
const LSN = 0x16_b374d000n;

function event(op: Op, relation: Relation, before: Row | null, after: Row | null, lsn = LSN): ChangeEvent {
  return new ChangeEvent(op, TRANSACTION, 3, 2, lsn, relation, before, after);
}

function valueBytes(of: ChangeEvent, as?: 'c' | 'd'): Buffer {
  // Begins small and not at 0, so that growth and offsets are part of every test.
  const out = new ByteWriter(8);
  out.push(Buffer.from('abc'));
  codec.writeValue(out, of, as);
  return Buffer.from(out.bytes.subarray(3, out.length));
}

function keyText(of: ChangeEvent, which: 'before' | 'after'): string | null {
  const out = new ByteWriter(1);
  return codec.writeKey(out, of, which) ? out.bytes.toString('utf8', 0, out.length) : null;
}

function metaOf(of: ChangeEvent, unchanged: readonly number[] = []): RecordMeta {
  return { transaction: of.transaction, seq: of.seq, unchanged, relation: of.relation };
}

/** Encodes one value of one column, checks that it comes back text for text, and gives its JSON literal. */
function literal(type: ColumnType, text: string): string {
  const relation = relationOf([['v', type]]);
  const bytes = valueBytes(event('c', relation, null, rowOf(relation, [text])));
  JSON.parse(bytes.toString());
  const back = codec.readEvent(bytes, metaOf(event('c', relation, null, null)));
  expect(textsOf(back.after)).toEqual([text]);
  const json = bytes.toString();
  return json.slice('{"before":null,"after":{"v":'.length, json.indexOf('},"source":'));
}

const digits = (max: number) => fc.string({ unit: fc.constantFrom(...'0123456789'), minLength: 1, maxLength: max });
const anyText = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: fc.constantFrom('"', '\\', '\n', '\u0001', '\u001f', '\u007f', '{', '}', ',', 'é', '𝄞', ' ') }),
  fc.constantFrom('', 'null', 'NULL', 'true', '1', PLACEHOLDER, '\u2028'),
);
const noNul = anyText.map((text) => text.replaceAll('\0', '')).filter((text) => Buffer.from(text).toString() === text);
const pad = (value: number, width: number): string => String(value).padStart(width, '0');
const dateText = fc.oneof(
  fc
    .date({ min: new Date('0001-01-01'), max: new Date('9999-12-31'), noInvalidDate: true })
    .map((d) => d.toISOString().slice(0, 10)),
  fc.constantFrom('infinity', '-infinity', '0044-03-15 BC', '5874897-12-31', '0001-01-01', '9999-12-31'),
);
const timeText = fc
  .tuple(fc.nat(23), fc.nat(59), fc.nat(59), fc.nat(999_999), fc.boolean())
  .map(
    ([h, m, s, f, whole]) =>
      `${pad(h, 2)}:${pad(m, 2)}:${pad(s, 2)}${whole || f === 0 ? '' : `.${pad(f, 6).replace(/0+$/, '')}`}`,
  );
const stampText = (zone: string) =>
  fc.tuple(dateText, timeText).map(([date, time]) => {
    if (date.endsWith('infinity')) return date;
    return date.endsWith(' BC') ? `${date.slice(0, -3)} ${time}${zone} BC` : `${date} ${time}${zone}`;
  });
const float = fc.double().map((value) => (Object.is(value, -0) ? '-0' : String(value)));
const bytea = fc.uint8Array().map((bytes) => `\\x${Buffer.from(bytes).toString('hex')}`);
const integer = (bits: number) =>
  fc.bigInt({ min: -(2n ** BigInt(bits - 1)), max: 2n ** BigInt(bits - 1) - 1n }).map(String);

/** PostgreSQL texts per type, extremes among them. */
const TEXTS: Readonly<Record<string, fc.Arbitrary<string>>> = {
  bool: fc.constantFrom('t', 'f'),
  int2: integer(16),
  int4: integer(32),
  int8: fc.oneof(integer(64), fc.constantFrom('9223372036854775807', '-9223372036854775808', '9007199254740993')),
  oid: fc.nat(4_294_967_295).map(String),
  float4: fc.oneof(float, fc.constantFrom('NaN', 'Infinity', '-Infinity', '1e+20', '1e-37', '-0')),
  float8: fc.oneof(float, fc.constantFrom('NaN', 'Infinity', '-Infinity', '1e+308', '5e-324', '-0')),
  numeric: fc.oneof(
    fc.tuple(digits(40), digits(20)).map(([a, b]) => `${a}.${b}`),
    fc.constantFrom('NaN', 'Infinity', '0.00'),
  ),
  money: fc.constantFrom('$1,000.00', '-$0.01'),
  date: dateText,
  time: fc.oneof(timeText, fc.constant('24:00:00')),
  timetz: timeText.map((time) => `${time}+05:30`),
  timestamp: stampText(''),
  timestamptz: stampText('+00'),
  interval: fc.constantFrom('1 year 2 mons 3 days 04:05:06.7', '-00:00:01'),
  uuid: fc.uuid(),
  bytea,
  inet: fc.constantFrom('10.0.0.1/8', '::1'),
  jsonb: fc.json(),
  varbit: fc.constantFrom('', '0101'),
  int4range: fc.constantFrom('[1,5)', 'empty', '(,)'),
  text: noNul,
};

/** As array_out does it, written apart from the code under test. */
function arrayText(items: readonly (string | null)[], delimiter: string): string {
  const element = (item: string | null): string => {
    if (item === null) return 'NULL';
    const bare =
      item !== '' && item.toUpperCase() !== 'NULL' && !item.includes(delimiter) && !/["\\{}\t\n\v\f\r ]/.test(item);
    return bare ? item : `"${item.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
  };
  return `{${items.map(element).join(delimiter)}}`;
}

describe('values', () => {
  it.each(Object.keys(TEXTS))('of type %s come back text for text, also in domains and arrays', (name) => {
    const type = baseTypeOf(name);
    fc.assert(
      fc.property(TEXTS[name]!, fc.array(fc.option(TEXTS[name]!), { maxLength: 8 }), (text, items) => {
        const plain = literal(type, text);
        expect(literal(domainOf(type), text)).toBe(plain);
        const array = literal(arrayOf(type), arrayText(items, ','));
        expect(array.startsWith('[')).toBe(true);
        expect(JSON.parse(array)).toHaveLength(items.length);
        literal(arrayOf(type), `[2:${items.length + 1}]=${arrayText(items, ',')}`);
        literal(arrayOf(type), `{${arrayText(items, ',')},${arrayText(items, ',')}}`);
      }),
    );
  });

  it.each<[string, string, string]>([
    ['bool', 't', 'true'],
    ['int8', '9223372036854775807', '9223372036854775807'],
    ['float8', '1e+20', '1e+20'],
    ['float8', '-0', '-0'],
    ['float8', 'NaN', '"NaN"'],
    ['float8', '-Infinity', '"-Infinity"'],
    ['numeric', '10.50', '"10.50"'],
    ['date', '1969-12-31', '-1'],
    ['date', '10000-01-01', '"10000-01-01"'],
    ['date', 'infinity', '"infinity"'],
    ['time', '24:00:00', '86400000000'],
    ['timestamp', '2026-11-22 03:00:00.123456', '1795316400123456'],
    ['timestamp', '9999-12-31 23:59:59.999999', '253402300799999999'],
    ['timestamp', '0044-03-15 12:00:00 BC', '"0044-03-15 12:00:00 BC"'],
    ['timestamptz', '2026-11-22 03:00:00.5+00', '"2026-11-22T03:00:00.5Z"'],
    ['timestamptz', 'infinity', '"infinity"'],
    ['bytea', '\\x616263', '"YWJj"'],
    ['bytea', '\\x61', '"YQ=="'],
    ['bytea', '\\x', '""'],
    ['text', 'a"\\\u0001\n\u007fé', '"a\\"\\\\\\u0001\\n\u007fé"'],
    ['jsonb', '{"a": 1}', '"{\\"a\\": 1}"'],
  ])('%s %s is written %s', (name, text, json) => expect(literal(baseTypeOf(name), text)).toBe(json));

  it.each<[string, string, string]>([
    ['int4', '{1,NULL,3}', '[1,null,3]'],
    ['bool', '{t,f}', '[true,false]'],
    ['text', '{"a,b","NULL",NULL,"",c}', '["a,b","NULL",null,"",c]'.replace('c]', '"c"]')],
    ['timestamptz', '{"2026-11-22 03:00:00+00"}', '["2026-11-22T03:00:00Z"]'],
    ['bytea', '{"\\\\x61"}', '["YQ=="]'],
    ['box', '{(1,1),(0,0);(2,2),(1,1)}', '["(1,1),(0,0)","(2,2),(1,1)"]'],
    ['int4', '{}', '[]'],
    ['int4', '[2:3]={1,2}', '"[2:3]={1,2}"'],
    ['int4', '{{1},{2}}', '"{{1},{2}}"'],
    ['text', '{"plain"}', '"{\\"plain\\"}"'],
    ['text', '{Null}', '"{Null}"'],
  ])('an array of %s %s is written %s', (name, text, json) =>
    expect(literal(arrayOf(baseTypeOf(name)), text)).toBe(json),
  );

  it('keeps users’ types as text, whatever they are called', () => {
    expect(literal(userType('int8', 'enum'), '1')).toBe('"1"');
    expect(literal(userType('pair', 'composite'), '(1,"a b")')).toBe('"(1,\\"a b\\")"');
    expect(literal(arrayOf(userType('mood', 'enum')), '{sad,"very ok"}')).toBe('["sad","very ok"]');
  });

  it('takes any text in any column without losing it', () => {
    const types = Object.keys(TEXTS)
      .filter((name) => name !== 'bytea')
      .map(baseTypeOf);
    fc.assert(
      fc.property(fc.constantFrom(...types, ...types.map(arrayOf)), noNul, (type, text) => {
        literal(type, text);
      }),
    );
  });

  it('are long and many without a wrong size', () => {
    const control = '\u0001"'.repeat(5_000);
    literal(baseTypeOf('text'), control);
    literal(arrayOf(baseTypeOf('text')), arrayText(Array(3_000).fill('\u0001'), ','));
    literal(arrayOf(baseTypeOf('bool')), arrayText(Array(5_000).fill('f'), ','));
    literal(arrayOf(baseTypeOf('timestamp')), arrayText(Array(2_000).fill('1970-01-01 00:00:00'), ','));
    literal(arrayOf(baseTypeOf('time')), arrayText(Array(2_000).fill('24:00:00'), ','));
    literal(baseTypeOf('bytea'), `\\x${'00ff7e'.repeat(100_000)}`);
  });

  it('are refused where a bytea is not in hex form', () => {
    expect(() => literal(baseTypeOf('bytea'), 'abc')).toThrowError(expect.objectContaining({ code: 'PROTOCOL' }));
  });
});

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
        ts_ns: expect.any(Number),
        schema: 'public',
        table: 'things',
        txId: 777,
        lsn: Number(LSN),
        xmin: null,
      },
      transaction: { id: `777:${TRANSACTION.commitLsn}`, total_order: 3, data_collection_order: 2 },
      op: 'c',
      ts_ms: expect.any(Number),
      ts_us: expect.any(Number),
      ts_ns: expect.any(Number),
    });
    expect(Math.abs(json.ts_ms - Date.now())).toBeLessThan(60_000);
    expect(valueBytes(event('c', things, null, rowOf(things, AFTER))).toString()).toContain(
      '"ts_ns":1795318346558123000',
    );
  });

  it('has no transaction for a snapshot', () => {
    const transaction: Transaction = { ...TRANSACTION, xid: 0, commitTimeUs: 0n, snapshot: true };
    const read = new ChangeEvent('r', transaction, 9, 9, LSN, things, null, rowOf(things, AFTER));
    const json = JSON.parse(valueBytes(read).toString());
    expect(json).toMatchObject({ op: 'r', transaction: null });
    expect(json.source).toMatchObject({ snapshot: 'true', txId: null, ts_ns: 0, sequence: `[null,"${LSN}"]` });
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
      fc.property(noNul, fc.uint8Array(), fc.boolean(), (prefix, content, transactional) => {
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
