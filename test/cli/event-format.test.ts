import { expect, test } from 'vitest';
import { debeziumFormatter, prettyFormatter } from '../../src/cli/event-format.ts';
import { ChangeEvent, type Op, type Transaction } from '../../src/event/change-event.ts';
import { formatJson } from '../../src/event/plain-json.ts';
import type { ColumnType, Relation, ReplicaIdentity } from '../../src/event/relation.ts';
import { encodeTuple, Row } from '../../src/event/row.ts';

const transaction: Transaction = {
  xid: 4_000_000_000,
  commitLsn: 0x1_0000_0010n,
  commitTimeUs: 1_700_000_000_123_456n,
  snapshot: null,
  origin: null,
};

function type(name: string, oid = 20): ColumnType {
  return { oid, name, schema: 'pg_catalog', kind: 'base', of: null, domainModifier: -1, delimiter: ',', labels: [] };
}

function relation(types: readonly string[], replicaIdentity: ReplicaIdentity = 'd'): Relation {
  const columns = types.map((name, i) => ({ name: i === 0 ? 'id' : `c"${i}`, type: type(name), modifier: -1 }));
  return { oid: 1, schema: 'public', table: 'a\nb', replicaIdentity, columns, key: [0] };
}

type Values = (string | null | undefined)[] | null;

function event(op: Op, of: Relation, before: Values, after: Values): ChangeEvent {
  const row = (values: Values): Row | null => values && new Row(of, encodeTuple(values), 0);
  return new ChangeEvent(op, transaction, 3, 2, 0x10n, of, row(before), row(after));
}

const parse = (line: string): Record<string, unknown> => {
  expect(line).not.toContain('\n');
  return JSON.parse(line) as Record<string, unknown>;
};

test('json: place, and values without a digit lost', () => {
  const of = relation(['int8', 'numeric', 'bool', 'float8', 'float8', 'float8', 'int4', 'json', 'text', 'text']);
  const values = [
    '9223372036854775807',
    '0.10000000000000000000001',
    't',
    '1e-300',
    'NaN',
    '-Infinity',
    '-5',
    '{"a":\n1}',
    'x\ny"',
    null,
  ];
  const line = formatJson(event('c', of, null, values));
  expect(parse(line)).toEqual({
    op: 'c',
    schema: 'public',
    table: 'a\nb',
    lsn: '0/10',
    commitLsn: '1/10',
    seq: 3,
    xid: 4_000_000_000,
    ts: '2023-11-14T22:13:20.123456Z',
    before: null,
    after: {
      id: '9223372036854775807',
      'c"1': '0.10000000000000000000001',
      'c"2': true,
      'c"3': 1e-300,
      'c"4': 'NaN',
      'c"5': '-Infinity',
      'c"6': -5,
      'c"7': '{"a":\n1}',
      'c"8': 'x\ny"',
      'c"9': null,
    },
  });
});

test('json: before holds what the WAL has: the key, or the whole row under FULL', () => {
  const key = relation(['int4', 'text']);
  expect(parse(formatJson(event('d', key, ['1', null], null)))).toMatchObject({ before: { id: 1 }, after: null });
  expect(Object.keys(parse(formatJson(event('d', key, ['1', null], null))).before as object)).toEqual(['id']);
  const full = relation(['int4', 'text'], 'f');
  expect(parse(formatJson(event('d', full, ['1', null], null))).before).toEqual({ id: 1, 'c"1': null });
});

test('json: an unchanged TOAST value is named, not made up', () => {
  const line = parse(formatJson(event('u', relation(['int4', 'text', 'text']), null, ['1', undefined, 'b'])));
  expect(line).toMatchObject({ after: { id: 1, 'c"2': 'b' }, unchanged: ['c"1'] });
});

test("a user's type that is called bool stays text", () => {
  const of = relation(['int4', 'bool']);
  const own: Relation = { ...of, columns: [of.columns[0]!, { name: 'c', type: type('bool', 20_000), modifier: -1 }] };
  expect(parse(formatJson(event('c', own, null, ['1', 't']))).after).toEqual({ id: 1, c: 't' });
});

test('truncate and messages', () => {
  expect(parse(formatJson(event('t', relation(['int4']), null, null)))).toMatchObject({
    op: 't',
    before: null,
    after: null,
  });
  const message = { prefix: 'p', content: Buffer.from([0, 255]), transactional: true };
  const of = new ChangeEvent('m', { ...transaction, origin: 'peer' }, 1, 0, 1n, null, null, null, message);
  expect(parse(formatJson(of))).toMatchObject({
    op: 'm',
    prefix: 'p',
    contentBase64: 'AP8=',
    transactional: true,
    origin: 'peer',
  });
  expect(prettyFormatter((_style, text) => text)(of)).toContain('message');
});

test('pretty: what changed, on one line, with nothing that moves the cursor', () => {
  const pretty = prettyFormatter((_style, text) => text);
  const full = relation(['int4', 'text', 'text'], 'f');
  expect(pretty(event('u', full, ['1', 'new', 'same'], ['1', 'paid\u001b[2J', 'same']))).toBe(
    '22:13:20.123 update   public.a\\nb id=1  c"1=new → paid\\x1b[2J',
  );
  const key = relation(['int4', 'text', 'text']);
  expect(pretty(event('u', key, ['1', null, null], ['2', 'x', undefined]))).toBe(
    '22:13:20.123 update   public.a\\nb id=1  id=1 → 2 c"1=x',
  );
  expect(pretty(event('u', key, null, ['2', 'x y', null]))).toBe(
    '22:13:20.123 update   public.a\\nb id=2  c"1=\'x y\' c"2=NULL',
  );
  expect(pretty(event('d', key, ['1', null, null], null))).toBe('22:13:20.123 delete   public.a\\nb id=1');
  expect(pretty(event('c', key, null, ['1', 'y'.repeat(100), '']))).toMatch(/ {2}c"1=y{60}… c"2=''$/);
  expect(pretty(event('t', key, null, null))).toBe('22:13:20.123 truncate public.a\\nb');
});

test('debezium: the envelope', () => {
  const format = debeziumFormatter('shop', 'db');
  expect(parse(format(event('c', relation(['int4']), null, ['1'])))).toMatchObject({
    op: 'c',
    after: { id: 1 },
    source: { name: 'shop', db: 'db', txId: 4_000_000_000 },
  });
  // The buffer is used again, and must not keep the longer line.
  expect(parse(format(event('d', relation(['int4']), ['1'], null)))).toMatchObject({ op: 'd', before: { id: 1 } });
});
