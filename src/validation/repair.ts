import { setTimeout as sleep } from 'node:timers/promises';
import { WaltideError } from '../errors.ts';
import { relationName } from '../event/relation.ts';
import { type KeyText, readSnapshot, requestSnapshot } from '../postgres/snapshots.ts';
import type { TableResult } from './report.ts';
import type { ValidatedSink, ValidationRun } from './run.ts';
import type { SourceTable } from './source-table.ts';
import type { TableRun } from './table-run.ts';

/** Keys in one request: a row of `waltide.snapshots` holds them. */
const KEYS_MAX = 10_000;
const POLL_MS = 50;
const TOLD_EVERY_MS = 10_000;

/**
 * Has the differing rows read again, and those that the source does not have removed, by snapshots beside the stream that
 * are for this sink alone; then compares them once more. A table without a key, or with more differences than were looked
 * for, is copied as a whole.
 */
export async function repair(
  run: ValidationRun,
  sink: ValidatedSink,
  table: SourceTable,
  found: TableResult,
  begin: (before: TableResult | null) => TableRun,
  compareAll: (again: TableRun) => Promise<void>,
): Promise<TableResult> {
  const wrong = found.missing + found.extra + found.different;
  const name = relationName(table.relation);
  const again = begin(null);
  if (table.key.length === 0 || found.truncated) {
    run.log.info(
      { sink: sink.name, table: name },
      'the table is copied again, since its rows cannot be repaired one by one',
    );
    await snapshot(run, sink, table, null);
    await compareAll(again);
    const result = again.result();
    return { ...result, repaired: Math.max(0, wrong - result.missing - result.extra - result.different) };
  }
  const keys = found.differences.map(({ key }) => key);
  run.log.info({ sink: sink.name, table: name, rows: keys.length }, 'repairing rows');
  for (let i = 0; i < keys.length; i += KEYS_MAX) await snapshot(run, sink, table, keys.slice(i, i + KEYS_MAX));
  await again.compareKeys(keys);
  const { missing, extra, different, unsettled, differences, lsn, score } = again.result();
  const left = missing + extra + different;
  return {
    ...found,
    ...{ missing, extra, different, differences, lsn },
    unsettled: found.unsettled + unsettled,
    sinkRows: found.sourceRows - missing + extra,
    sinkDigest: left === 0 ? found.sourceDigest : found.sinkDigest,
    score: left === 0 ? 100 : Math.max(found.score, score),
    repaired: wrong - left,
    durationMs: found.durationMs + again.result().durationMs,
  };
}

/** Resolves once it is completed, and the sink has it. */
async function snapshot(
  run: ValidationRun,
  sink: ValidatedSink,
  table: SourceTable,
  keys: readonly KeyText[] | null,
): Promise<void> {
  const { control, config, signal, source, log, id } = run;
  const name = relationName(table.relation);
  const { oid, schema, table: bare } = table.published;
  const request = {
    slot: config.source.slot,
    table: { oid, schema, table: bare },
    sinks: [sink.name],
    reason: `repair by validation ${id}`,
    // Nothing but the keys.
    ...(keys ? { kind: 'partial' as const, where: 'false', keys, estimatedRows: keys.length } : {}),
  };
  let asked: string | null = null;
  for (let toldAt = performance.now(); asked === null; ) {
    asked = await requestSnapshot(control, request);
    if (asked !== null) break;
    if (performance.now() - toldAt > TOLD_EVERY_MS) {
      log.info({ table: name }, 'the repair waits for another snapshot of the table to end');
      toldAt = performance.now();
    }
    await sleep(POLL_MS * 10, undefined, { signal });
  }
  for (;;) {
    const record = await readSnapshot(control, asked);
    if (record?.state === 'completed') break;
    if (!record || record.state === 'failed' || record.state === 'cancelled')
      throw new WaltideError(
        'VALIDATION',
        `the repair of ${name} ${record?.state ?? 'vanished'}${record?.error ? `: ${record.error}` : ''}`,
        'See `waltide snapshot list`, then validate again with --repair.',
      );
    await sleep(POLL_MS, undefined, { signal });
  }
  await sink.passed(await source.now(), signal);
}
