import { ByteWriter } from '../../src/event/byte-writer.ts';
import { ChangeEvent, type Op } from '../../src/event/change-event.ts';
import type { RecordMeta } from '../../src/event/codec.ts';
import { createJsonCodec } from '../../src/event/json.ts';
import type { Relation } from '../../src/event/relation.ts';
import type { Row } from '../../src/event/row.ts';
import { TRANSACTION } from './fixtures.ts';

export const PLACEHOLDER = '__debezium_unavailable_value';
export const codec = createJsonCodec({ name: 'shop', database: 'dé"b', version: '0.1.0' });
export const LSN = 0x16_b374d000n;

export function event(op: Op, relation: Relation, before: Row | null, after: Row | null, lsn = LSN): ChangeEvent {
  return new ChangeEvent(op, TRANSACTION, 3, 2, lsn, relation, before, after);
}

export function valueBytes(of: ChangeEvent, as?: 'c' | 'd'): Buffer {
  // Begins small and not at 0, so that growth and offsets are part of every test.
  const out = new ByteWriter(8);
  out.push(Buffer.from('abc'));
  codec.writeValue(out, of, as);
  return Buffer.from(out.bytes.subarray(3, out.length));
}

export function keyText(of: ChangeEvent, which: 'before' | 'after'): string | null {
  const out = new ByteWriter(1);
  return codec.writeKey(out, of, which) ? out.bytes.toString('utf8', 0, out.length) : null;
}

export function metaOf(of: ChangeEvent, unchanged: readonly number[] = []): RecordMeta {
  return { transaction: of.transaction, seq: of.seq, unchanged, relation: of.relation };
}
