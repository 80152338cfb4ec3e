/**
 * What masks, filters and functions cost per event, on the 5-column row that all of the project's figures use, and what
 * they cost where nothing is configured, or nothing for the table. `npx tsx bench/micro/protect.ts [events]`.
 */
import type { Batch } from '../../src/event/batch.ts';
import { ChangeEvent, type Transaction } from '../../src/event/change-event.ts';
import type { Relation } from '../../src/event/relation.ts';
import { encodeTuple, Row } from '../../src/event/row.ts';
import { loadProtection, type Protection } from '../../src/protect/protection.ts';
import { columnType } from '../../test/support/column-type.ts';

const EVENTS = Number(process.argv[2] ?? 200_000);
const BATCH_EVENTS = 2500;
const ROUNDS = 5;

const relation: Relation = {
  oid: 16_400,
  schema: 'public',
  table: 'bench',
  replicaIdentity: 'f',
  columns: [
    { name: 'id', type: columnType('int8', { oid: 20 }), modifier: -1 },
    { name: 'name', type: columnType('text', { oid: 25 }), modifier: -1 },
    { name: 'amount', type: columnType('numeric', { oid: 1700 }), modifier: ((12 << 16) | 2) + 4 },
    { name: 'payload', type: columnType('jsonb', { oid: 3802 }), modifier: -1 },
    { name: 'created_at', type: columnType('timestamptz', { oid: 1184 }), modifier: -1 },
  ],
  key: [0],
};

const transaction: Transaction = { xid: 1, commitLsn: 8n, commitTimeUs: 0n, snapshot: null, origin: null };
const batches: Batch[] = [];
for (let i = 0; i < EVENTS; i += BATCH_EVENTS) {
  const events = Array.from({ length: BATCH_EVENTS }, (_, n) => {
    const values = [String(i + n), `name ${n}`, `${n}.25`, `{"pad": "${'x'.repeat(40)}"}`, '2026-01-01 00:00:00+00'];
    return new ChangeEvent(
      'c',
      transaction,
      n + 1,
      n + 1,
      8n,
      relation,
      null,
      new Row(relation, encodeTuple(values), 0),
    );
  });
  batches.push({ events, bytes: BATCH_EVENTS * 150, commitEndLsn: 16n });
}

const column = (name: string) => `public.bench.${name}`;
const rule = (mask: 'hash' | 'encrypt' | 'partial' | 'redact', of = column('name')) => ({
  protect: {
    key: 'a key that is long enough for a bench',
    rules: [{ columns: [of], mask, keepFirst: 0, keepLast: 4 }],
  },
  transforms: [],
});
const transform = { tables: ['public.bench'], drop: [], rename: {}, cast: {} };

const CASES: Record<string, Parameters<typeof loadProtection>[0]> = {
  'nothing configured': { transforms: [] },
  'rules for another table': rule('hash', 'public.other.name'),
  redact: rule('redact'),
  partial: rule('partial'),
  hash: rule('hash'),
  encrypt: rule('encrypt'),
  'drop and rename': { transforms: [{ ...transform, drop: ['payload'], rename: { name: 'who' } }] },
  'filter, all pass': { transforms: [{ ...transform, filter: "amount >= 0 and name <> 'x'" }] },
};

/** CPU in nanoseconds per event, the best of some rounds. */
function measure(protection: Protection): number {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const before = process.cpuUsage();
    for (const batch of batches) protection.batch(batch);
    const { user, system } = process.cpuUsage(before);
    best = Math.min(best, ((user + system) * 1000) / EVENTS);
  }
  return best;
}

for (const [name, source] of Object.entries(CASES))
  console.log(
    `${name.padEnd(24)} ${measure(await loadProtection(source))
      .toFixed(1)
      .padStart(9)} ns CPU per event`,
  );
