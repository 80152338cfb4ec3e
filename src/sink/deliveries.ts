import type { Delivery, TraceRef } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import type { Offset } from '../event/offset.ts';

/** All of them in one, in order. */
export function merge(deliveries: readonly Delivery[]): Delivery {
  if (deliveries.length === 1) return deliveries[0]!;
  const events: ChangeEvent[] = [];
  const offsets = new Map<string, Offset>();
  const traces: TraceRef[] = [];
  let bytes = 0;
  for (const delivery of deliveries) {
    if (delivery.traces && delivery.events.length > 0) traces.push(...delivery.traces);
    for (const event of delivery.events) events.push(event);
    for (const offset of delivery.offsets) offsets.set(offset.partition, offset);
    bytes += delivery.bytes;
  }
  const { complete } = deliveries.at(-1)!;
  return { events, bytes, offsets: [...offsets.values()], complete, ...(traces.length > 0 && { traces }) };
}

/**
 * What a sink saves with a part of a delivery; `next` has the log offsets that it has saved. Nothing where it is not known
 * which partition the part is of: then it may come again.
 */
export function offsetsUpTo(
  part: readonly ChangeEvent[],
  { offsets }: Delivery,
  next: ReadonlyMap<string, bigint | null>,
): Offset[] {
  const [only] = offsets;
  const last = part.at(-1);
  if (!only || !last || offsets.length > 1) return [];
  const saved = next.get(only.partition) ?? null;
  return only.next !== null && saved === null
    ? []
    : [{ partition: only.partition, position: last.position, next: saved }];
}
