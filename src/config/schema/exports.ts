import { z } from 'zod';
import { about } from './common.ts';

export const PARQUET_COMPRESSIONS = ['zstd', 'snappy', 'gzip', 'lz4', 'brotli', 'uncompressed'] as const;

export const compression = z.enum(PARQUET_COMPRESSIONS);
export const rowGroupSize = z.number().int().min(2048).max(100_000_000);
export const keep = z.number().int().min(1).max(10_000);

export const exports = z.strictObject({
  /** A third smaller than snappy, and no slower to read from a disk. */
  compression: compression.default('zstd').meta(about('Of Parquet files.')),
  /** Long rows make smaller ones, by the memory there is. */
  rowGroupSize: rowGroupSize.default(1_000_000).meta(about('Most rows of a row group of a Parquet file.')),
  /** Who has begun to read the last one can end it. */
  keep: keep.default(2).meta(about('How many exports stay in a directory, the newest included.')),
});
