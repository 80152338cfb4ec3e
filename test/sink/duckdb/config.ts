import type { DuckdbSinkConfig } from '../../../src/config/schema.ts';

export function sinkConfig(path: string, more: Partial<DuckdbSinkConfig> = {}): DuckdbSinkConfig {
  const batch = { rowsMax: 50_000, bytesMax: 24 << 20, lingerMs: 10 };
  return {
    name: 'test',
    type: 'duckdb',
    path,
    memoryLimit: '256MB',
    threads: 2,
    s3: false,
    consistency: 'table',
    batch,
    breaker: { failuresMax: 8, openMs: 30_000 },
    onUnrepresentable: 'text',
    schemaChanges: 'evolve',
    droppedTables: 'keep',
    rowBytesMax: 134_217_728,
    transactionBytesMax: 2 ** 32,
    ...more,
  };
}
