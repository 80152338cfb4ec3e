import { resolve } from 'node:path';
import { alertFaults } from './alert-checks.ts';
import { apiFaults } from './api-checks.ts';
import type { Document } from './document.ts';
import { type Fault, faultAt } from './faults.ts';
import { originOf } from './issues.ts';
import { scheduleFaults } from './schedule-checks.ts';

/** What one key alone cannot tell. Reads the values as written, so that it speaks together with the schema. */
export function crossFaults(document: Document, baseDir: string): Fault[] {
  return [
    ...sinkFaults(document, baseDir),
    ...retentionFaults(document),
    ...strategyFaults(document),
    ...apiFaults(document),
    ...scheduleFaults(document),
    ...alertFaults(document),
    ...protectFaults(document),
  ];
}

function retentionFaults(document: Document): Fault[] {
  const { source, transport } = (document.value ?? {}) as Record<string, Record<string, unknown> | undefined>;
  const faults: Fault[] = [];
  const fault = (at: string[], message: string) => faults.push(faultAt(originOf(document, at), at, message));
  const { warnAt = 0.6, criticalAt = 0.85 } = (source?.walBudget ?? {}) as Record<string, unknown>;
  if (typeof warnAt === 'number' && typeof criticalAt === 'number' && warnAt >= criticalAt)
    fault(['source', 'walBudget', 'warnAt'], `must be less than criticalAt (${criticalAt})`);
  if (source?.retain && transport?.type === 'kafka')
    fault(
      ['source', 'retain'],
      'is for the in-process transport; Kafka keeps the log itself, by retention.ms of the topics',
    );
  return faults;
}

/** Of a sink that there is not, nobody would notice that it has no effect. */
function strategyFaults(document: Document): Fault[] {
  const { sinks, tableStrategies } = (document.value ?? {}) as { sinks?: unknown; tableStrategies?: unknown };
  if (!Array.isArray(tableStrategies)) return [];
  const names = Array.isArray(sinks) ? sinks.map((sink: { name?: unknown } | null) => sink?.name) : [];
  return tableStrategies.flatMap((entry: { sinks?: unknown } | null, i) =>
    (Array.isArray(entry?.sinks) ? entry.sinks : []).flatMap((name: unknown, n) => {
      if (typeof name !== 'string' || names.includes(name)) return [];
      const at = ['tableStrategies', i, 'sinks', n];
      return [faultAt(originOf(document, at), at, `there is no sink "${name}"`)];
    }),
  );
}

function protectFaults(document: Document): Fault[] {
  const { source } = (document.value ?? {}) as { source?: { protect?: Record<string, unknown> } | null };
  const { key, keyFile, rules } = source?.protect ?? {};
  const at = ['source', 'protect'];
  const fault = (message: string): Fault[] => [faultAt(originOf(document, at), at, message)];
  if (key !== undefined && keyFile !== undefined) return fault('has both key and keyFile; keep one of them');
  const needs = (rule: unknown): boolean => /^(hash|encrypt)$/.test(String((rule as { mask?: unknown } | null)?.mask));
  if (key === undefined && keyFile === undefined && Array.isArray(rules) && rules.some(needs))
    return fault('needs keyFile, or WALTIDE_SOURCE_PROTECT_KEY in the environment, for masks hash and encrypt');
  return [];
}

function sinkFaults(document: Document, baseDir: string): Fault[] {
  const { transport } = (document.value ?? {}) as { transport?: unknown };
  const sinks = (document.value as { sinks?: unknown } | null)?.sinks;
  if (!Array.isArray(sinks)) return [];
  const faults: Fault[] = [];
  const names = new Map<string, number>();
  const files = new Map<string, number>();
  for (const [i, sink] of sinks.entries()) {
    if (typeof sink !== 'object' || sink === null) continue;
    const { name, type, path, consistency } = sink as Record<string, unknown>;
    const fault = (key: string, message: string) => {
      const at = ['sinks', i, key];
      faults.push(faultAt(originOf(document, at), at, message));
    };
    if (typeof name === 'string') {
      const first = names.get(name);
      if (first !== undefined)
        fault('name', `sinks[${first}] has this name too; give each sink its own, offsets are saved under it`);
      else names.set(name, i);
    }
    const missing = consistency === 'transaction' ? missingForTransactions(transport) : null;
    if (missing) fault('consistency', missing);
    if (type !== 'duckdb' || typeof path !== 'string') continue;
    if (path === ':memory:')
      fault('path', 'must be a file: what is only in memory cannot be taken up again after a restart');
    const file = resolve(baseDir, path);
    const first = files.get(file);
    if (first !== undefined) fault('path', `sinks[${first}] writes this file too; DuckDB allows one writer per file`);
    else files.set(file, i);
  }
  return faults;
}

/** What `consistency: transaction` needs of a Kafka transport; null where nothing is missing. */
function missingForTransactions(transport: unknown): string | null {
  if (typeof transport !== 'object' || transport === null) return null;
  const { type, transactions, cleanupPolicy } = transport as Record<string, unknown>;
  if (type !== 'kafka') return null;
  if ((transactions as { enabled?: unknown } | undefined)?.enabled !== true)
    return 'transaction needs transport.transactions.enabled: true, which says what belongs together';
  if (typeof cleanupPolicy === 'string' && cleanupPolicy !== 'delete')
    return `transaction needs transport.cleanupPolicy: delete; ${cleanupPolicy} takes records out of transactions`;
  return null;
}
