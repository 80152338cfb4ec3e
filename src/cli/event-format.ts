import { ByteWriter } from '../event/byte-writer.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import { createJsonCodec } from '../event/json.ts';
import { formatLsn } from '../event/lsn.ts';
import type { Relation } from '../event/relation.ts';
import type { Row } from '../event/row.ts';
import { formatTimestamp } from '../event/temporal.ts';
import { baseType, builtinName } from '../event/value.ts';
import { VERSION } from '../version.ts';
import { type Paint, printable } from './output.ts';

/** One line per event, without its newline. */
export type EventFormatter = (event: ChangeEvent) => string;

const NUMBERS = new Set(['int2', 'int4', 'oid', 'float4', 'float8']);

/**
 * A value as compact JSON, with no digit lost: bool, int2, int4, oid and finite floats as themselves; NULL as null; everything else
 * (int8 and numeric too, which doubles would round, and JSON, whose null is not NULL) as PostgreSQL's text.
 */
function jsonValue(relation: Relation, row: Row, column: number): string {
  const text = row.text(column);
  if (text === null || text === undefined) return 'null';
  const name = builtinName(baseType(relation.columns[column]!.type));
  if (name === 'bool') return text === 't' ? 'true' : 'false';
  // NaN and Infinity are no JSON. PostgreSQL's other numbers are.
  if (name !== null && NUMBERS.has(name) && /^[-\d]/.test(text) && !text.includes('I')) return text;
  return JSON.stringify(text);
}

function jsonRow(relation: Relation, row: Row | null, only: readonly number[] | null): string {
  if (!row) return 'null';
  const columns = only ?? relation.columns.map((_, i) => i);
  const pairs = columns
    .filter((i) => !row.isUnchanged(i))
    .map((i) => `${JSON.stringify(relation.columns[i]!.name)}:${jsonValue(relation, row, i)}`);
  return `{${pairs.join(',')}}`;
}

/** Which columns of `before` the WAL really has: all under FULL, else the key's. */
function columnsOfBefore({ relation }: ChangeEvent): readonly number[] | null {
  return relation!.replicaIdentity === 'f' ? null : relation!.key;
}

/** `{op, schema, table, lsn, commitLsn, seq, xid, ts, before, after}`; `unchanged` names TOAST columns that the WAL left out. */
export function formatJson(event: ChangeEvent): string {
  const { op, transaction, seq, lsn, relation, before, after, message } = event;
  const origin = transaction.origin === null ? '' : `,"origin":${JSON.stringify(transaction.origin)}`;
  const place = `"lsn":"${formatLsn(lsn)}","commitLsn":"${formatLsn(transaction.commitLsn)}","seq":${seq},"xid":${transaction.xid},"ts":"${isoTime(transaction.commitTimeUs)}"${origin}`;
  if (message) {
    const { prefix, content, transactional } = message;
    return `{"op":"m",${place},"prefix":${JSON.stringify(prefix)},"transactional":${transactional},"contentBase64":"${content.toString('base64')}"}`;
  }
  const table = `"schema":${JSON.stringify(relation!.schema)},"table":${JSON.stringify(relation!.table)}`;
  const unchanged = after ? relation!.columns.filter((_, i) => after.isUnchanged(i)).map((column) => column.name) : [];
  const marks = unchanged.length > 0 ? `,"unchanged":${JSON.stringify(unchanged)}` : '';
  return `{"op":"${op}",${table},${place},"before":${jsonRow(relation!, before, columnsOfBefore(event))},"after":${jsonRow(relation!, after, null)}${marks}}`;
}

/** The envelope that goes into Kafka. */
export function debeziumFormatter(name: string, database: string): EventFormatter {
  const codec = createJsonCodec({ name, database, version: VERSION });
  const out = new ByteWriter();
  return (event) => {
    out.length = 0;
    codec.writeValue(out, event);
    return out.bytes.toString('utf8', 0, out.length);
  };
}

const VERBS: Record<ChangeEvent['op'], { word: string; style: Parameters<Paint>[0] }> = {
  c: { word: 'insert', style: 'green' },
  r: { word: 'read', style: 'cyan' },
  u: { word: 'update', style: 'yellow' },
  d: { word: 'delete', style: 'red' },
  t: { word: 'truncate', style: 'red' },
  m: { word: 'message', style: 'cyan' },
};
const VALUE_WIDTH_MAX = 60;

/** For eyes: time, verb, table, key, then what changed. */
export function prettyFormatter(paint: Paint): EventFormatter {
  return (event) => {
    const { op, transaction, relation, before, after, message } = event;
    const { word, style } = VERBS[op];
    const head = `${paint('dim', isoTime(transaction.commitTimeUs).slice(11, 23))} ${paint(style, word.padEnd(8))}`;
    if (message) return `${head} ${printable(message.prefix)} ${shorten(message.content.toString('utf8'))}`;
    const where = paint('bold', printable(`${relation!.schema}.${relation!.table}`));
    if (op === 't') return `${head} ${where}`;
    const row = (after ?? before)!;
    const show = (i: number, from: Row): string => `${printable(relation!.columns[i]!.name)}=${shownValue(from, i)}`;
    const key = relation!.key.map((i) => show(i, op === 'u' && before ? before : row));
    const rest = relation!.columns.flatMap((_, i) => {
      if (op === 'd' && relation!.replicaIdentity !== 'f') return [];
      if (op === 'u') return changeOf(event, i, show);
      return relation!.key.includes(i) ? [] : [show(i, row)];
    });
    return `${head} ${where} ${paint('cyan', key.join(' '))}${key.length > 0 && rest.length > 0 ? '  ' : ''}${rest.join(' ')}`.trimEnd();
  };
}

function changeOf(
  { relation, before, after }: ChangeEvent,
  column: number,
  show: (i: number, from: Row) => string,
): string[] {
  if (after!.isUnchanged(column)) return [];
  const known = before !== null && (relation!.replicaIdentity === 'f' || relation!.key.includes(column));
  if (!known) return relation!.key.includes(column) ? [] : [show(column, after!)];
  if (before.text(column) === after!.text(column)) return [];
  return [`${show(column, before)} → ${shownValue(after!, column)}`];
}

function shownValue(row: Row, column: number): string {
  const text = row.text(column);
  return text === null ? 'NULL' : text === undefined ? '(unchanged)' : shorten(text);
}

function shorten(text: string): string {
  const shown = printable(text.slice(0, VALUE_WIDTH_MAX));
  const cut = text.length > VALUE_WIDTH_MAX ? `${shown}…` : shown;
  return cut === '' || cut.includes(' ') ? `'${cut}'` : cut;
}

/** `2026-01-31T12:00:00.123456Z` */
function isoTime(us: bigint): string {
  const [date, time = '00:00:00'] = formatTimestamp(us).split(' ');
  const [clock, fraction = ''] = time.split('.');
  return `${date}T${clock}.${fraction.padEnd(6, '0')}Z`;
}
