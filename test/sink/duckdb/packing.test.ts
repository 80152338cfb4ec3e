import { describe, expect, it } from 'vitest';
import type { Target, TargetKind } from '../../../src/sink/duckdb/mapping.ts';
import { packingOf } from '../../../src/sink/duckdb/packing-fixed.ts';
import { partTexts } from '../../../src/sink/duckdb/packing-text.ts';
import { Rising } from '../../../src/sink/duckdb/rising.ts';
import { sizesOf } from '../../../src/validation/row-text.ts';

/* What PostgreSQL itself sends is compared in test/validation/range-digest.pg.test.ts; here is what it cannot hold, or not in one table. */

const target = (kind: TargetKind): Target => ({ kind, sql: '', width: 0, scale: 0, labels: [], element: null });

function hex(type: string, kind: TargetKind, values: BigInt64Array | Int32Array): string {
  const data = new Uint8Array(values.buffer);
  return Buffer.from(packingOf(type, target(kind))!.pack(data, null, 0, values.length)).toString('hex');
}

describe('packing', () => {
  it('takes no date or time that PostgreSQL has not for one that it has', () => {
    expect(hex('date', 'date', Int32Array.of(2147483647, -2147483647, 10957))).toBe(
      '000000047fffffff000000048000000000000004' + '00000000',
    );
    expect(hex('date', 'date', Int32Array.of(-2147472692, -2147472691))).toBe('00000000' + '0000000480000000');
    const [max, epoch] = [2n ** 63n - 1n, 946_684_800_000_000n];
    expect(hex('timestamp', 'timestamp', BigInt64Array.of(max, -max, epoch, epoch - 1n))).toBe(
      '000000087fffffffffffffff' + '000000088000000000000000' + '000000080000000000000000' + '00000008ffffffffffffffff',
    );
    expect(hex('timestamptz', 'timestamptz', BigInt64Array.of(-max + 1n))).toBe('00000000');
  });

  it('is by what the source has, and nothing else', () => {
    expect(packingOf('int4', target('int8'))).toBeNull();
    expect(packingOf('money', target('int8'))).toBeNull();
    expect(packingOf('numeric', target('text'))).toBeNull();
    expect(packingOf('numeric', { ...target('decimal'), width: 19, scale: 2 })).toBeNull();
  });

  it('sees whether signed integers rise, also from one vector to the next', () => {
    const rise = (...vectors: (Int32Array | BigInt64Array)[]): boolean => {
      const rising = new Rising(vectors[0]!.BYTES_PER_ELEMENT);
      return vectors.every((one) => rising.goOn(new Uint8Array(one.buffer), null, 0, one.length));
    };
    expect(rise(Int32Array.of(-5, -1, 0, 7), Int32Array.of(8, 2147483647))).toBe(true);
    expect(rise(Int32Array.of(-5, -1), Int32Array.of(-1))).toBe(false);
    expect(rise(Int32Array.of(1, 0))).toBe(false);
    const wide = [
      -(2n ** 63n),
      -(2n ** 32n) - 1n,
      -(2n ** 32n),
      -1n,
      0n,
      2n ** 31n,
      2n ** 32n - 1n,
      2n ** 32n,
      2n ** 63n - 1n,
    ];
    expect(rise(BigInt64Array.from(wide.slice(0, 4)), BigInt64Array.from(wide.slice(4)))).toBe(true);
    for (let i = 1; i < wide.length; i++) expect(rise(BigInt64Array.of(wide[i]!, wide[i - 1]!))).toBe(false);
    expect(new Rising(4).goOn(new Uint8Array(Int32Array.of(1, 2).buffer), Uint8Array.of(1), 0, 2)).toBe(false);
  });

  it('parts texts, however long those of one column are, and NULL from the empty one', () => {
    const long = 'ü'.repeat(200);
    const gathered = Buffer.from(['1:a:', ':0:', `400:${long}2:::`, ':400:'].join('') + long);
    const packed = partTexts(gathered, 2, 4).map((bytes) => Buffer.from(bytes));
    const element = (text: string | null): Buffer => {
      const length = Buffer.alloc(4);
      length.writeInt32BE(text === null ? -1 : Buffer.byteLength(text));
      return Buffer.concat([length, Buffer.from(text ?? '')]);
    };
    expect(packed[0]).toEqual(Buffer.concat(['a', null, long, null].map(element)));
    expect(packed[1]).toEqual(Buffer.concat([null, '', '::', long].map(element)));
    for (let columns = 1; columns < 40; columns++) {
      const nulls = Buffer.from(':'.repeat(columns * 3));
      for (const one of partTexts(nulls, columns, 3)) expect(Buffer.from(one).toString('hex')).toBe('ff'.repeat(12));
    }
  });

  it('asks for fewer rows of wide tables at once', () => {
    const columns = (sent: number, texts: number) => [
      ...Array.from({ length: sent }, () => ({ sent: true })),
      ...Array.from({ length: texts }, () => ({ sent: false })),
    ];
    expect(sizesOf(columns(10, 2))).toEqual({ rows: 2048, ranges: 16 });
    for (const [sent, texts] of [
      [1, 20],
      [1000, 0],
      [0, 1600],
    ] as const) {
      const { rows, ranges } = sizesOf(columns(sent, texts));
      expect(rows).toBeGreaterThan(0);
      expect(rows * (sent * 24 + texts * 256)).toBeLessThanOrEqual(2 * 1024 * 1024);
      expect(ranges).toBe(16);
    }
  });
});
