import { ChangeEvent, type Transaction } from '../event/change-event.ts';
import { type CopiedRows, CopyEvent } from '../event/copied-rows.ts';
import type { Relation } from '../event/relation.ts';
import { encodeTuple, fillUnchanged, Row } from '../event/row.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import { KeyFilter } from './key-filter.ts';
import type { Touch, Verdict } from './reconcile.ts';
import { keyOf, keyOfRow } from './table-watch.ts';

/** What came of one read of a table. */
export interface ChunkRows {
  readonly blocks: readonly CopiedRows[];
  /** Keys that were asked for and had no row: what the sinks hold of them goes. */
  readonly absent: readonly Row[];
  readonly verdict: Verdict<Row>;
  /** The table as it is in the stream. */
  readonly relation: Relation;
}

/** The events of a chunk at its place in the stream: what has been streamed of a row since it was read is newer. */
export function chunkEvents({ blocks, absent, verdict, relation }: ChunkRows, transaction: Transaction): ChangeEvent[] {
  const { commitLsn } = transaction;
  const events: ChangeEvent[] = [];
  const images: Row[] = [];
  const filter = verdict.touched.size === 0 ? null : new KeyFilter(verdict.touched.keys());
  let seq = 0;
  for (const block of blocks) {
    const kept = filter && untouched(block, relation, { filter, touched: verdict.touched }, images);
    if (kept?.length === 0) continue;
    const rows = block.select(kept, relation);
    seq += rows.count;
    events.push(new CopyEvent(transaction, seq, seq, commitLsn, rows));
  }
  for (const row of images) events.push(new ChangeEvent('r', transaction, ++seq, seq, commitLsn, relation, null, row));
  for (const row of absent) {
    if (verdict.touched.has(keyOfRow(row, relation.key) ?? '')) continue;
    const before = new Row(relation, row.bytes, row.at);
    events.push(new ChangeEvent('d', transaction, ++seq, seq, commitLsn, relation, before, null));
  }
  return events;
}

/** Indexes of the rows that no streamed change has touched; `images` gets those whose newer image lacks values. */
function untouched(
  block: CopiedRows,
  relation: Relation,
  { filter, touched }: { readonly filter: KeyFilter; readonly touched: ReadonlyMap<string, Touch<Row>> },
  images: Row[],
): number[] {
  const kept: number[] = [];
  for (let i = 0; i < block.count; i++) {
    const touch = filter.mayHave(block, i, relation.key)
      ? touched.get(keyOf((column) => block.text(i, column), relation.key) ?? '')
      : undefined;
    if (touch === undefined) kept.push(i);
    else if (touch !== 'whole' && touch !== 'gone')
      images.push(fillUnchanged(touch.image, block.select([i], relation).rows()[0]!));
  }
  return kept;
}

/** Those of the keys (texts of the columns of `key`) of which the blocks have no row, as rows of nothing but their key. */
export function absentKeys(
  { relation, blocks }: { readonly relation: Relation; readonly blocks: readonly CopiedRows[] },
  asked: readonly { readonly key: KeyText }[],
  key: readonly { readonly index: number }[],
): Row[] {
  const columns = key.map(({ index }) => index);
  const found = new Set<string>();
  for (const block of blocks)
    for (let i = 0; i < block.count; i++) found.add(keyOf((column) => block.text(i, column), columns) ?? '');
  const rows = asked.map(({ key: texts }) => {
    const values = relation.columns.map((_, index) => texts[columns.indexOf(index)] ?? null);
    return new Row(relation, encodeTuple(values), 0);
  });
  return rows.filter((row) => !found.has(keyOfRow(row, columns) ?? ''));
}
