/* Applies transactions without end until it is killed; see file.test.ts. Transaction n has commit LSN n. */
import { pino } from 'pino';
import type { Transaction } from '../../../src/event/change-event.ts';
import { ChangeEvent } from '../../../src/event/change-event.ts';
import type { Relation } from '../../../src/event/relation.ts';
import { encodeTuple, Row } from '../../../src/event/row.ts';
import { createDuckdbSink } from '../../../src/sink/duckdb/duckdb-sink.ts';
import { columnType } from '../../support/column-type.ts';
import { sinkConfig } from './config.ts';

const text = columnType('text', { oid: 25 });
const item: Relation = {
  oid: 16400,
  schema: 'public',
  table: 'item',
  replicaIdentity: 'd',
  columns: [
    { name: 'id', type: columnType('int8', { oid: 20 }), modifier: -1 },
    { name: 'v', type: text, modifier: -1 },
  ],
  key: [0],
};
const path = process.argv[2]!;
const sink = createDuckdbSink(sinkConfig(path, { name: 'kill' }), pino({ level: 'silent' }));
const state = await sink.open({ systemIdentifier: '7311', timeline: 1, slot: 'waltide', database: 'shop' });
process.stdout.write('open\n');
for (let n = (state.offsets[0]?.position.commitLsn ?? 0n) + 1n; ; n++) {
  const transaction: Transaction = { xid: 1, commitLsn: n, commitTimeUs: 0n, snapshot: null, origin: null };
  const events: ChangeEvent[] = [];
  const add = (op: 'c' | 'u', id: number) => {
    const row = new Row(item, encodeTuple([String(id), `tx ${n}`]), 0);
    events.push(new ChangeEvent(op, transaction, events.length + 1, 1, n, item, null, row));
  };
  for (let i = 0; i < 1000; i++) add('c', (Number(n) - 1) * 1000 + i);
  for (let i = 0; i < 500; i++) add('u', i);
  await sink.apply({
    events,
    bytes: 0,
    offsets: [{ partition: '', position: { commitLsn: n, seq: events.length }, next: null }],
    complete: true,
  });
  process.stdout.write('applied\n');
}
