import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ColumnType } from '../../src/event/relation.ts';
import { arrayOf, baseTypeOf, domainOf, relationOf, rowOf, textsOf, userType } from './fixtures.ts';
import { codec, event, metaOf, PLACEHOLDER, valueBytes } from './json-fixtures.ts';

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
