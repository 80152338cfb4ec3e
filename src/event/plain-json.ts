import type { ChangeEvent } from './change-event.ts';
import { formatLsn } from './lsn.ts';
import type { Relation } from './relation.ts';
import type { Row } from './row.ts';
import { formatTimestamp } from './temporal.ts';
import { baseType, builtinName } from './value.ts';

/* Events as JSON for people and small programs: `waltide tail`, the API. What goes into Kafka is in json.ts. */

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

/** `2026-01-31T12:00:00.123456Z` */
export function isoTime(us: bigint): string {
  const [date, time = '00:00:00'] = formatTimestamp(us).split(' ');
  const [clock, fraction = ''] = time.split('.');
  return `${date}T${clock}.${fraction.padEnd(6, '0')}Z`;
}
