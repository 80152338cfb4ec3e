import { setImmediate } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import { SnapshotRuns } from '../../src/control/snapshot-runs.ts';
import { Tracker } from '../../src/postgres/tracked.ts';
import type { SnapshotProgress } from '../../src/snapshot/snapshot.ts';
import { eventually, log } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';

it('follows a snapshot through any number of chunks, holding nothing of them', async () => {
  const database = await createDatabase();
  const { source, tracking } = resolveConfig({
    source: { url: database.url, tables: ['*.*'], slot: database.name },
  });
  const tracker = new Tracker({ source, tracking, log, version: '0', role: 'test' });
  const warnings: Error[] = [];
  const warned = (warning: Error): number => warnings.push(warning);
  process.on('warning', warned);
  try {
    await tracker.open();
    const runs = new SnapshotRuns(tracker, source.slot, log);
    const progress = (rows: number, done = false): SnapshotProgress => ({
      ...{ table: 'public.t', kind: 'incremental', rows, bytes: rows, estimatedRows: 50, done },
      state: done ? 'completed' : 'running',
    });
    const recorded = async () =>
      (await database.query("select * from waltide.sync_history where sync_type = 'snapshot:public.t'"))[0];
    runs.note(progress(0));
    await eventually('it is recorded', async () => (await recorded()) !== undefined);
    for (let rows = 1; rows < 50; rows++) {
      runs.note(progress(rows));
      await setImmediate();
    }
    runs.note(progress(50, true));
    await eventually('it has ended', async () => (await recorded())!.status === 'success');
    expect((await recorded())!.records_processed).toBe('50');
    // What node says of too many listeners.
    expect(warnings).toEqual([]);
  } finally {
    process.off('warning', warned);
    await tracker.close();
    await database.drop();
  }
}, 60_000);
