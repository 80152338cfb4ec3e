import { afterEach, beforeEach, expect, it } from 'vitest';
import { parseLsn } from '../../src/event/lsn.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

it('an applying process knows its lag, also of what lay in the log before it began', async () => {
  const transport = { type: 'kafka' as const, brokers: await ensureSharedKafka(), topicPrefix: database.name };
  const { config } = testPipeline(database, { transport, sinks: [] });
  await database.query('create table t (id int primary key)');
  const capture = start(config, { role: 'capture' });
  const memory = new MemorySink();
  let apply = start(config, { role: 'apply', sinks: [memory] });
  const lag = () => apply.pipeline.status().sinks[0]?.lagSeconds ?? null;
  try {
    await eventually('it applies', () => apply.pipeline.status().ready);
    await database.query('insert into t values (1)');
    await eventually('it came', () => memory.events.some(({ key }) => key === '1'));
    await eventually('it does not lag', () => lag() !== null && lag()! < 2);
    expect(apply.pipeline.status().sinks[0]!.roundTripSeconds).toBeNull();
    // The broker may tell a reader before it tells the writer.
    await eventually('the capture knows its lag', () => {
      const { captured, published } = capture.pipeline.status().source!;
      return captured.lagSeconds !== null && published.lagSeconds !== null;
    });
    await apply.stop();
    await database.query('insert into t values (2)');
    const [{ lsn } = {}] = await database.query('select pg_current_wal_insert_lsn()::text as lsn');
    await eventually(
      'it is in the log',
      () => parseLsn(capture.pipeline.status().source!.durableLsn) >= parseLsn(lsn as string),
    );
    await new Promise((resolve) => setTimeout(resolve, 4000));
    let go = (): void => {};
    const held = new Promise<void>((resolve) => (go = resolve));
    memory.before = ({ events }) => (events.length > 0 ? held : Promise.resolve());
    apply = start(config, { role: 'apply', sinks: [memory] });
    // Its record of the capture is new, the change is not.
    await eventually('it lags by the age of the change', () => (lag() ?? 0) > 3);
    go();
    await eventually('it does not lag any more', () => lag()! < 2);
  } finally {
    await apply.stop();
    await capture.stop();
  }
}, 240_000);
