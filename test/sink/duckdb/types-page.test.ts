import { expect, test } from 'vitest';
import { isFresh } from '../../../docs/duckdb-types.ts';

test('docs/duckdb-types.md is what docs/duckdb-types.ts writes: run `npm run docs` where this fails', () => {
  expect(isFresh()).toBe(true);
});
