import type { KeyText } from '../postgres/snapshots.ts';
import type { KeyRange } from './validation.ts';

/** Ranges that adjoin: from `after` to the first end, and so on. */
export function chain(after: KeyText | null, ends: readonly (KeyText | null)[]): KeyRange[] {
  return ends.map((upto, i) => ({ after: i === 0 ? after : ends[i - 1]!, upto }));
}

export function slices<T>(all: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(all.length / size) }, (_, i) => all.slice(i * size, (i + 1) * size));
}

/** Neither is left running unobserved where the other fails. */
export async function both<A, B>(a: Promise<A>, b: Promise<B>): Promise<[A, B]> {
  const [first, second] = await Promise.allSettled([a, b]);
  if (first.status === 'rejected') throw first.reason;
  if (second.status === 'rejected') throw second.reason;
  return [first.value, second.value];
}
