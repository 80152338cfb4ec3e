import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RejectedBatchError } from '../../src/errors.ts';
import type { Delivery } from '../../src/event/batch.ts';
import type { ChangeEvent } from '../../src/event/change-event.ts';
import type { Offset } from '../../src/event/offset.ts';
import type { Relation } from '../../src/event/relation.ts';
import type { Row } from '../../src/event/row.ts';
import type { Sink, SinkState, StoppedTable } from '../../src/sink/sink.ts';
import { catchUp, eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { askForSnapshot } from '../support/snapshots.ts';

const ROUNDS = Number(process.env.WALTIDE_LETTER_ROUNDS ?? 3);
const SEED = Number(process.env.WALTIDE_LETTER_SEED ?? Date.now() % 1_000_000);

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

type Values = (string | null | undefined)[];

/** A table by key, which takes a batch whole or not at all, and refuses rows with `poison` in their second column. */
class TableSink implements Sink {
  readonly name = 'rows';
  readonly delivery = 'transactional';
  rows = new Map<string, Values>();
  healed = false;
  /** It names what it refuses. */
  readonly tells: boolean;
  readonly stopped: StoppedTable[] = [];
  #offsets: readonly Offset[] = [];

  constructor(tells: boolean) {
    this.tells = tells;
  }

  async open(): Promise<SinkState> {
    return { offsets: this.#offsets, stopped: this.stopped, tables: null };
  }

  async apply({ events, offsets }: Delivery): Promise<boolean> {
    const culprits = new Map<object, string>();
    const next = new Map(this.rows);
    for (const event of events) {
      if (!this.healed && event.after?.text(1) === 'poison') culprits.set(event, 'poison');
      else if (culprits.size === 0) applyTo(next, event);
    }
    if (culprits.size > 0) throw new RejectedBatchError('poison somewhere', this.tells ? { culprits } : {});
    this.rows = next;
    if (offsets.length > 0) this.#offsets = offsets;
    return true;
  }

  async stopTable({ schema, table }: Relation, reason: string): Promise<void> {
    this.stopped.push({ schema, table, reason });
  }

  async close(): Promise<void> {}
}

const keyOf = (row: Row): string => JSON.stringify([row.text(0)]);

function applyTo(rows: Map<string, Values>, { op, before, after }: ChangeEvent): void {
  if (op === 't') rows.clear();
  if (op === 't' || op === 'm') return;
  const old = rows.get(keyOf((before ?? after)!));
  if (before) rows.delete(keyOf(before));
  if (!after) return;
  const whole = after.relation.replicaIdentity === 'f' ? before : null;
  const values = after.relation.columns.map((_, i) =>
    after.isUnchanged(i) ? (whole?.text(i) ?? old?.[i]) : after.text(i),
  );
  if (values.includes(undefined)) throw new Error('a change leaves out what the sink does not have');
  rows.set(keyOf(after), values);
}

/** Statements over few rows, so that what was refused is met again. */
function statement(random: Random): string {
  const id = 1 + random.int(12);
  const v = random.int(3) === 0 ? 'poison' : `v${random.int(100)}`;
  const big = `repeat('${String.fromCharCode(97 + random.int(26))}', 3000)`;
  switch (random.int(10)) {
    case 0:
      return `delete from t where id = ${id}`;
    case 1:
      return `update t set id = id + 100 where id = ${id} and not exists (select from t where id = ${id} + 100)`;
    case 2:
      return `update t set id = id - 100, v = '${v}' where id = ${id} + 100 and not exists (select from t where id = ${id})`;
    case 3:
    case 4:
      return `update t set v = '${v}' where id = ${id}`;
    case 5:
      return `update t set v = '${v}', big = ${big} where id in (${id}, ${id} + 100)`;
    case 6:
      return random.int(8) === 0 ? 'truncate t' : `update t set n = n + 1 where id = ${id}`;
    default:
      return `insert into t values (${id}, '${v}', 0, ${big}) on conflict (id) do update set v = excluded.v, big = excluded.big`;
  }
}

describe.each(Array.from({ length: ROUNDS }, (_, round) => SEED + round))('random changes, seed %i', (seed) => {
  it('what the sink has otherwise than the source is what its letters name, and nothing once they are retried', {
    timeout: 300_000,
  }, async () => {
    const random = new Random(seed);
    await database.query(
      `create table t (id int primary key, v text, n int, big text); alter table t alter big set storage external;
       ${seed % 2 === 0 ? 'alter table t replica identity full' : ''}`,
    );
    const { config } = testPipeline(database, { sinks: [] });
    const sink = new TableSink(random.int(2) === 0);
    const open = async (): Promise<string[]> =>
      (await database.query("select row_name from waltide.dead_letters where state = 'open' order by row_name")).map(
        (row) => String(row.row_name),
      );
    const source = async (): Promise<Map<string, Values>> =>
      new Map(
        (await database.query('select id::text, v, n::text, big from t')).map(({ id, v, n, big }) => [
          JSON.stringify([id]),
          [id, v, n, big] as Values,
        ]),
      );
    const others = (rows: Map<string, Values>, names: string[]): [string, Values][] =>
      [...rows].filter(([key]) => !names.includes(key)).sort();
    await catchUp(config, { sinks: [sink] });
    for (let phase = 0; phase < 4; phase++) {
      for (let i = 0; i < 40; i++) {
        const list = Array.from({ length: 1 + random.int(4) }, () => statement(random));
        await database.query(`begin; ${list.join('; ')}; commit`);
      }
      expect(await catchUp(config, { sinks: [sink] })).toEqual([]);
      const names = await open();
      expect(new Set(names).size, 'one open letter for a row').toBe(names.length);
      expect(others(sink.rows, names), `phase ${phase}`).toEqual(others(await source(), names));
      // A letter of a row that is no more, or is whole, would be one too many.
      for (const name of names) expect([...(await source()).keys()], `phase ${phase}`).toContain(name);
    }

    sink.healed = true;
    const running = start(config, { sinks: [sink] });
    await eventually('it is open', () => running.pipeline.status().state === 'streaming');
    await database.query("update waltide.dead_letters set state = 'retrying' where state = 'open'");
    await eventually(
      'all are retried',
      async () => (await database.query("select from waltide.dead_letters where state = 'retrying'")).length === 0,
    );
    await running.stop();
    // What no letter has, since the row was whole before and the change left it out, is read anew as the refusal says.
    const left = await database.query("select error_message from waltide.dead_letters where state = 'open'");
    for (const { error_message: message } of left)
      expect(message).toMatch(/left out .* Read the row anew: waltide snapshot/);
    if (left.length > 0) {
      await askForSnapshot(database, config, 't');
      expect(await catchUp(config, { sinks: [sink] })).toEqual([]);
    }
    expect(await open()).toEqual([]);
    expect(others(sink.rows, [])).toEqual(others(await source(), []));
  });
});

it('past its limit the table is set aside as a whole, and the others go on', { timeout: 300_000 }, async () => {
  await database.query('create table t (id int primary key, v text); create table other (id int primary key, v text)');
  const { config } = testPipeline(database, { sinks: [], deadLetters: { perTableMax: 5 } });
  const sink = new TableSink(false);
  await catchUp(config, { sinks: [sink] });
  await database.query(
    "insert into t select i, 'poison' from generate_series(1, 20) i; insert into other select -i, 'good' from generate_series(1, 5) i",
  );
  expect(await catchUp(config, { sinks: [sink] })).toMatchObject([{ sink: 'rows', table: 'public.t' }]);
  expect(sink.stopped).toMatchObject([{ table: 't', reason: expect.stringContaining('5 rows are set aside already') }]);
  expect([...sink.rows.keys()].sort()).toEqual(['["-1"]', '["-2"]', '["-3"]', '["-4"]', '["-5"]']);
});
