import duckdb, { type Vector } from '@duckdb/node-bindings';
import { dateDays, timeMicros, timestampMicros } from '../../event/temporal.ts';
import { type Cells, type Filler, hexValue, refuse, ValueError } from './cells.ts';
import type { Target } from './mapping.ts';
import { anyDateDays, anyTimestampMicros } from './temporal.ts';

/** Puts row `i` of the cells into the buffer, or refuses. */
type Setter = (out: FixedFiller, cells: Cells, i: number, target: Target) => void;

/** Types of fixed size: values are parsed into one buffer, which is copied into the vector as it is. */
class FixedFiller implements Filler {
  readonly #size: number;
  readonly #target: Target;
  readonly #set: Setter;
  #cells: Cells | null = null;
  #count = 0;
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  i16 = new Int16Array(0);
  i32 = new Int32Array(0);
  f32 = new Float32Array(0);
  f64 = new Float64Array(0);
  i64 = new BigInt64Array(0);

  constructor(size: number, target: Target, set: Setter) {
    this.#size = size;
    this.#target = target;
    this.#set = set;
  }

  parse(cells: Cells, count: number): void {
    if (this.bytes.length < count * this.#size) this.#grow(Math.max(count, 2048));
    const { starts } = cells;
    const set = this.#set;
    const target = this.#target;
    for (let i = 0; i < count; i++) if (starts[i] !== -1) set(this, cells, i, target);
    this.#cells = cells;
    this.#count = count;
  }

  write(vector: Vector): void {
    duckdb.copy_data_to_vector(vector, 0, this.bytes.buffer, 0, this.#count * this.#size);
    writeNulls(vector, this.#cells!.starts, this.#count);
  }

  /** Exact for any safe integer. */
  setInt64(i: number, value: number): void {
    this.i32[i * 2] = value >>> 0;
    this.i32[i * 2 + 1] = Math.floor(value / 4294967296);
  }

  #grow(count: number): void {
    const buffer = new ArrayBuffer(count * 16);
    this.bytes = new Uint8Array(buffer);
    this.i16 = new Int16Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.f32 = new Float32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.i64 = new BigInt64Array(buffer);
  }
}

/** Marks the cells that are NULL. */
export function writeNulls(vector: Vector, starts: Int32Array, count: number): void {
  let mask: Uint8Array | null = null;
  for (let i = 0; i < count; i++) {
    if (starts[i] !== -1) continue;
    mask ??= new Uint8Array(Math.ceil(count / 64) * 8).fill(255);
    mask[i >> 3]! &= ~(1 << (i & 7));
  }
  if (!mask) return;
  duckdb.vector_ensure_validity_writable(vector);
  duckdb.copy_data_to_vector_validity(vector, 0, mask.buffer as ArrayBuffer, 0, mask.length);
}

const MINUS = 0x2d;
const POINT = 0x2e;

const slice = (cells: Cells, i: number): string =>
  cells.heap.bytes.toString('latin1', cells.starts[i]!, cells.ends[i]!);

/** The integer of at most 15 digits between `start` and `end`; NaN where it is longer or not an integer. */
function shortInteger(b: Uint8Array, start: number, end: number): number {
  const negative = b[start] === MINUS;
  let at = negative ? start + 1 : start;
  if (end - at > 15 || at === end) return Number.NaN;
  let value = 0;
  for (; at < end; at++) {
    const digit = b[at]! - 0x30;
    if (digit < 0 || digit > 9) return Number.NaN;
    value = value * 10 + digit;
  }
  return negative ? -value : value;
}

function integer(bits: number, type: string): Setter {
  const limit = 2 ** (bits - 1);
  return (out, cells, i) => {
    const value = shortInteger(cells.heap.bytes, cells.starts[i]!, cells.ends[i]!);
    if (!(value >= -limit && value < limit)) refuse(cells, i, type);
    if (bits === 16) out.i16[i] = value;
    else out.i32[i] = value;
  };
}

const bigint: Setter = (out, cells, i) => {
  const value = shortInteger(cells.heap.bytes, cells.starts[i]!, cells.ends[i]!);
  if (!Number.isNaN(value)) return out.setInt64(i, value);
  const text = slice(cells, i);
  if (!/^-?\d{1,19}$/.test(text)) refuse(cells, i, 'BIGINT');
  const wide = BigInt(text);
  if (BigInt.asIntN(64, wide) !== wide) refuse(cells, i, 'BIGINT');
  out.i64[i] = wide;
};

function float(single: boolean): Setter {
  return (out, cells, i) => {
    const text = slice(cells, i);
    const value = Number(text);
    if (text === '' || (Number.isNaN(value) && text !== 'NaN')) refuse(cells, i, 'a floating-point type');
    if (single) out.f32[i] = value;
    else out.f64[i] = value;
  };
}

/** Computed once: a power per value took as long as all the rest of it. */
const POWERS = Array.from({ length: 19 }, (_, digits) => 10 ** digits);

/** Digits without the point, scaled to the column. Up to 15 of them are exact in a double. */
const decimal: Setter = (out, cells, i, target) => {
  const b = cells.heap.bytes;
  const end = cells.ends[i]!;
  let at = cells.starts[i]!;
  const negative = b[at] === MINUS;
  if (negative) at++;
  let value = 0;
  let digits = 0;
  let missing = target.scale;
  let fraction = false;
  for (; at < end && digits < 16; at++) {
    const digit = b[at]! - 0x30;
    if (digit >= 0 && digit <= 9) {
      value = value * 10 + digit;
      digits++;
      if (fraction) missing--;
    } else if (b[at] === POINT && !fraction) fraction = true;
    else break;
  }
  if (at < end || missing < 0 || digits === 0 || digits + missing > 15) return wideDecimal(out, cells, i, target);
  for (; missing > 0; missing--) value *= 10;
  if (value >= POWERS[target.width]!) refuse(cells, i, target.sql);
  if (negative) value = -value;
  if (target.width <= 4) out.i16[i] = value;
  else if (target.width <= 9) out.i32[i] = value;
  else out.setInt64(i, value);
};

const DECIMAL = /^(-?)(\d+)(?:\.(\d+))?$/;

const wideDecimal: Setter = (out, cells, i, target) => {
  const match = DECIMAL.exec(slice(cells, i));
  if (!match) refuse(cells, i, target.sql);
  const fraction = match[3] ?? '';
  const digits = `${match[2]}${fraction.slice(0, target.scale).padEnd(target.scale, '0')}`.replace(/^0+/, '');
  if (digits.length > target.width || /[1-9]/.test(fraction.slice(target.scale))) refuse(cells, i, target.sql);
  const value = match[1] ? -BigInt(digits || '0') : BigInt(digits || '0');
  if (target.width <= 4) out.i16[i] = Number(value);
  else if (target.width <= 9) out.i32[i] = Number(value);
  else if (target.width <= 18) out.i64[i] = value;
  else {
    out.i64[i * 2] = BigInt.asIntN(64, value);
    out.i64[i * 2 + 1] = BigInt.asIntN(64, value >> 64n);
  }
};

function enumLabel(): Setter {
  let numbers: Map<string, number> | null = null;
  return (out, cells, i, target) => {
    numbers ??= new Map(target.labels.map((label, index) => [Buffer.from(label).toString('latin1'), index]));
    const number = numbers.get(slice(cells, i));
    if (number === undefined) {
      const label = cells.heap.bytes.toString('utf8', cells.starts[i]!, cells.ends[i]!);
      throw new ValueError(i, `the enum has no label "${label}"`, label);
    }
    if (target.labels.length < 256) out.bytes[i] = number;
    else if (target.labels.length < 65536) out.i16[i] = number;
    else out.i32[i] = number;
  };
}

/** DuckDB keeps a UUID as a 128-bit integer with the top bit turned, so that signed order is UUID order. */
const uuid: Setter = (out, cells, i) => {
  const b = cells.heap.bytes;
  let digits = 0;
  let word = 0;
  for (let at = cells.starts[i]!; at < cells.ends[i]!; at++) {
    if (b[at] === MINUS) continue;
    const value = hexValue(b[at]!);
    if (value < 0 || digits === 32) refuse(cells, i, 'UUID');
    word = (word << 4) | value;
    if ((++digits & 7) === 0) out.i32[i * 4 + 4 - (digits >> 3)] = digits === 8 ? word ^ 0x80000000 : word;
  }
  if (digits !== 32) refuse(cells, i, 'UUID');
};

const timestamp: Setter = (out, cells, i) => {
  const micros = timestampMicros(cells.heap.bytes, cells.starts[i]!, cells.ends[i]!);
  if (!Number.isNaN(micros)) return out.setInt64(i, micros);
  const exact = anyTimestampMicros(slice(cells, i));
  if (exact === null) refuse(cells, i, 'TIMESTAMP', 'DuckDB ends at 294247-01-10');
  out.i64[i] = exact;
};

const SIZES = {
  bool: 1,
  int2: 2,
  int4: 4,
  int8: 8,
  uint4: 4,
  float4: 4,
  float8: 8,
  uuid: 16,
  date: 4,
  time: 8,
  timestamp: 8,
  timestamptz: 8,
} as const;

const SETTERS: Readonly<Record<keyof typeof SIZES, Setter>> = {
  bool: (out, cells, i) => {
    const byte = cells.heap.bytes[cells.starts[i]!];
    if (byte !== 0x74 && byte !== 0x66) refuse(cells, i, 'BOOLEAN');
    out.bytes[i] = byte === 0x74 ? 1 : 0;
  },
  int2: integer(16, 'SMALLINT'),
  int4: integer(32, 'INTEGER'),
  int8: bigint,
  uint4: (out, cells, i) => {
    const value = shortInteger(cells.heap.bytes, cells.starts[i]!, cells.ends[i]!);
    if (!(value >= 0 && value < 4294967296)) refuse(cells, i, 'UINTEGER');
    out.i32[i] = value | 0;
  },
  float4: float(true),
  float8: float(false),
  uuid,
  date: (out, cells, i) => {
    let days: number | null = dateDays(cells.heap.bytes, cells.starts[i]!, cells.ends[i]!);
    if (Number.isNaN(days)) days = anyDateDays(slice(cells, i));
    if (days === null) refuse(cells, i, 'DATE');
    out.i32[i] = days;
  },
  time: (out, cells, i) => {
    const micros = timeMicros(cells.heap.bytes, cells.starts[i]!, cells.ends[i]!);
    if (!(micros >= 0 && micros <= 86_400_000_000)) refuse(cells, i, 'TIME');
    out.setInt64(i, micros);
  },
  timestamp,
  timestamptz: timestamp,
};

/** The filler of any type but strings and lists. */
export function fixedFiller(target: Target): Filler {
  switch (target.kind) {
    case 'decimal':
      if (target.width <= 4) return new FixedFiller(2, target, decimal);
      if (target.width <= 9) return new FixedFiller(4, target, decimal);
      return target.width <= 18 ? new FixedFiller(8, target, decimal) : new FixedFiller(16, target, wideDecimal);
    case 'enum':
      return new FixedFiller(
        target.labels.length < 256 ? 1 : target.labels.length < 65536 ? 2 : 4,
        target,
        enumLabel(),
      );
    case 'text':
    case 'json':
    case 'bytes':
    case 'list':
      throw new TypeError(`${target.kind} has no fixed size`);
    default:
      return new FixedFiller(SIZES[target.kind], target, SETTERS[target.kind]);
  }
}
