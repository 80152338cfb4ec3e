import { ByteWriter } from '../event/byte-writer.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import { createJsonCodec } from '../event/json.ts';
import { isoTime } from '../event/plain-json.ts';
import type { Row } from '../event/row.ts';
import { VERSION } from '../version.ts';
import { type Paint, printable } from './output.ts';

/** One line per event, without its newline. */
export type EventFormatter = (event: ChangeEvent) => string;

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
