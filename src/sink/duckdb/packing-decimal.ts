import type { Target } from './mapping.ts';
import { isNull, type Packer, type Packing, scratchOf } from './packing.ts';

/*
 * numeric_send: number of digits, weight, sign and scale, then digits to the base of 10,000, 2 bytes each. Digits are
 * grouped from the point in both directions; neither zeros before the first nor after the last are kept.
 */

/** Wider ones are no 64-bit numbers in DuckDB. */
const WIDTH_MAX = 18;
const DIGITS_MAX = 6;
const [LENGTH, HEAD] = [2, 4];
const NEGATIVE = 0x4000;
const BASE = 10_000;
/** Up to here numbers and their groups are exact as floating point. */
const SCALE_EXACT_MAX = 12;

/** Null for a decimal that is too wide. */
export function decimalPacking({ width, scale }: Target): Packing | null {
  if (width > WIDTH_MAX) return null;
  const bytes = width <= 4 ? 2 : width <= 9 ? 4 : 8;
  const pack: Packer = (data, valid, from, to) => {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const out = new Uint16Array(scratchOf((to - from) * (LENGTH + HEAD + DIGITS_MAX) * 2));
    let n = 0;
    for (let i = from; i < to; i++) {
      if (isNull(valid, i)) {
        out[n++] = 0xffff;
        out[n++] = 0xffff;
        continue;
      }
      n = bytes === 8 ? putWide(view, i, scale, out, n) : putNumber(narrow(view, i, bytes), scale, out, n);
    }
    return Buffer.from(out.buffer, 0, n * 2).swap16();
  };
  return { bytes, pack, signed: false };
}

const narrow = (view: DataView, i: number, bytes: number): number =>
  bytes === 2 ? view.getInt16(i * 2, true) : view.getInt32(i * 4, true);

function putWide(view: DataView, i: number, scale: number, out: Uint16Array, n: number): number {
  const value = view.getInt32(i * 8 + 4, true) * 4294967296 + view.getUint32(i * 8, true);
  if (Number.isSafeInteger(value) && scale <= SCALE_EXACT_MAX) return putNumber(value, scale, out, n);
  return putBig(view.getBigInt64(i * 8, true), scale, out, n);
}

const DIGITS = new Uint16Array(12);

/** Digits are found from the last to the first. */
function putNumber(value: number, scale: number, out: Uint16Array, n: number): number {
  const size = Math.abs(value);
  const point = 10 ** scale;
  const groups = Math.ceil(scale / 4);
  let fraction = (size % point) * 10 ** (groups * 4 - scale);
  let whole = (size - (size % point)) / point;
  let count = 0;
  for (; count < groups; count++) {
    DIGITS[count] = fraction % BASE;
    fraction = (fraction - DIGITS[count]!) / BASE;
  }
  for (; whole > 0; count++) {
    DIGITS[count] = whole % BASE;
    whole = (whole - DIGITS[count]!) / BASE;
  }
  return put(count, groups, value < 0, scale, out, n);
}

function putBig(value: bigint, scale: number, out: Uint16Array, n: number): number {
  const groups = Math.ceil(scale / 4);
  let rest = (value < 0n ? -value : value) * 10n ** BigInt(groups * 4 - scale);
  let count = 0;
  for (; rest > 0n || count < groups; count++) {
    DIGITS[count] = Number(rest % 10_000n);
    rest /= 10_000n;
  }
  return put(count, groups, value < 0n, scale, out, n);
}

/** `count` digits, of which `groups` stand behind the point, the last one first. */
function put(count: number, groups: number, negative: boolean, scale: number, out: Uint16Array, n: number): number {
  let first = count - 1;
  while (first >= 0 && DIGITS[first] === 0) first--;
  let last = 0;
  while (last <= first && DIGITS[last] === 0) last++;
  const digits = first - last + 1;
  out[n] = 0;
  out[n + 1] = (HEAD + digits) * 2;
  out[n + 2] = digits;
  out[n + 3] = digits === 0 ? 0 : first - groups;
  out[n + 4] = negative ? NEGATIVE : 0;
  out[n + 5] = scale;
  let end = n + LENGTH + HEAD;
  for (let i = first; i >= last; i--) out[end++] = DIGITS[i]!;
  return end;
}
