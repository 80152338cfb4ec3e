import type { Target, TargetKind } from './mapping.ts';
import { isNull, type Packer, type Packing, scratchOf } from './packing.ts';
import { decimalPacking } from './packing-decimal.ts';

/** Puts the words of row `i` at `n`; returns false for what PostgreSQL has no value for. */
type Put = (words: Uint32Array, i: number, out: Uint32Array, n: number) => boolean;

const NULL_WORD = 0xffffffff;
const [INFINITE_HIGH, MINUS_INFINITE_HIGH] = [0x7fffffff, 0x80000000];
/** From 1970 to 2000, where PostgreSQL's dates begin. */
const EPOCH_2000_DAYS = 10_957;
/** The same in microseconds: 946,684,800,000,000. */
const [EPOCH_2000_HIGH, EPOCH_2000_LOW] = [0x00035d01, 0x3b37e000];

/** By what the column of the source is, without domains; null where the text is compared. */
export function packingOf(typeName: string, target: Target): Packing | null {
  if (typeName === 'numeric') return target.kind === 'decimal' ? decimalPacking(target) : null;
  const found = PACKINGS[target.kind];
  return found && found[0] === typeName ? found[1] : null;
}

function words(bytes: number, put: Put, signed = false): Packing {
  const size = bytes / 4;
  const pack: Packer = (data, valid, from, to) => {
    const from4 = new Uint32Array(data.buffer, data.byteOffset, data.byteLength / 4);
    const out = new Uint32Array(scratchOf((to - from) * (bytes + 4)));
    let n = 0;
    for (let i = from; i < to; i++) {
      if (isNull(valid, i)) out[n++] = NULL_WORD;
      else if (put(from4, i, out, n + 1)) {
        out[n] = bytes;
        n += size + 1;
      } else out[n++] = 0;
    }
    return Buffer.from(out.buffer, 0, n * 4).swap32();
  };
  return { bytes, pack, signed };
}

const int4: Put = (from, i, out, n) => {
  out[n] = from[i]!;
  return true;
};

const int8: Put = (from, i, out, n) => {
  out[n] = from[i * 2 + 1]!;
  out[n + 1] = from[i * 2]!;
  return true;
};

/** NaN has one form. */
const float4: Put = (from, i, out, n) => {
  const word = from[i]!;
  out[n] = (word & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : word;
  return true;
};

const float8: Put = (from, i, out, n) => {
  const [low, high] = [from[i * 2]!, from[i * 2 + 1]!];
  const size = high & 0x7fffffff;
  const noNumber = size > 0x7ff00000 || (size === 0x7ff00000 && low !== 0);
  out[n] = noNumber ? 0x7ff80000 : high;
  out[n + 1] = noNumber ? 0 : low;
  return true;
};

/** DuckDB holds a UUID as a signed number of 128 bits. */
const uuid: Put = (from, i, out, n) => {
  out[n] = from[i * 4 + 3]! ^ 0x80000000;
  out[n + 1] = from[i * 4 + 2]!;
  out[n + 2] = from[i * 4 + 1]!;
  out[n + 3] = from[i * 4]!;
  return true;
};

/** DuckDB's -infinity is one more than the least number. */
const date: Put = (from, i, out, n) => {
  const days = from[i]! | 0;
  const since2000 = days - EPOCH_2000_DAYS;
  if (days === 0x7fffffff) out[n] = INFINITE_HIGH;
  else if (days === -0x7fffffff) out[n] = MINUS_INFINITE_HIGH;
  else out[n] = since2000;
  return Math.abs(days) === 0x7fffffff || since2000 >= -0x80000000;
};

const timestamp: Put = (from, i, out, n) => {
  const [low, high] = [from[i * 2]!, from[i * 2 + 1]!];
  const infinite = high === INFINITE_HIGH && low === 0xffffffff;
  const minusInfinite = high === MINUS_INFINITE_HIGH && low === 1;
  out[n] = infinite || minusInfinite ? high : high - EPOCH_2000_HIGH - (low < EPOCH_2000_LOW ? 1 : 0);
  if (infinite) out[n + 1] = low;
  else out[n + 1] = minusInfinite ? 0 : low - EPOCH_2000_LOW;
  return infinite || minusInfinite || high < 0x80000000 || out[n]! >= 0x80000000;
};

const bool: Packing = {
  bytes: 1,
  signed: false,
  pack: (data, valid, from, to) => {
    const out = Buffer.alloc((to - from) * 5);
    let n = 0;
    for (let i = from; i < to; i++) {
      if (isNull(valid, i)) n = out.writeInt32BE(-1, n);
      else {
        out[n + 3] = 1;
        out[n + 4] = data[i]!;
        n += 5;
      }
    }
    return out.subarray(0, n);
  },
};

const int2: Packing = {
  bytes: 2,
  signed: false,
  pack: (data, valid, from, to) => {
    const values = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
    const out = new Uint16Array(scratchOf((to - from) * 6));
    let n = 0;
    for (let i = from; i < to; i++) {
      if (isNull(valid, i)) {
        out[n++] = 0xffff;
        out[n++] = 0xffff;
      } else {
        out[n] = 0;
        out[n + 1] = 2;
        out[n + 2] = values[i]!;
        n += 3;
      }
    }
    return Buffer.from(out.buffer, 0, n * 2).swap16();
  },
};

/** By the kind of the sink's column: the type that the source's must be. */
const PACKINGS: Readonly<Partial<Record<TargetKind, readonly [string, Packing]>>> = {
  bool: ['bool', bool],
  int2: ['int2', int2],
  int4: ['int4', words(4, int4, true)],
  int8: ['int8', words(8, int8, true)],
  uint4: ['oid', words(4, int4)],
  float4: ['float4', words(4, float4)],
  float8: ['float8', words(8, float8)],
  uuid: ['uuid', words(16, uuid)],
  date: ['date', words(4, date, true)],
  time: ['time', words(8, int8)],
  timestamp: ['timestamp', words(8, timestamp, true)],
  timestamptz: ['timestamptz', words(8, timestamp, true)],
};
