import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Writable } from 'node:stream';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import { Pipeline } from '../../src/pipeline/pipeline.ts';
import { connect } from '../../src/postgres/connection.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import { withDuckdb } from './compare.ts';
import { MASK_KEY } from './masks.ts';
import { testPipeline } from './pipeline.ts';
import { createDatabase, type TestDatabase } from './postgres.ts';

/** Stands in every masked value, and `SHOWN` in every other: what is searched finds the one and not the other. */
const CLEAR = 'klartext';
const SHOWN = 'sichtbar';

const PROTECT: NonNullable<ConfigInput['source']['protect']> = {
  key: MASK_KEY,
  rules: [
    { columns: ['public.t.id', 'public.t.mail'], mask: 'hash' },
    { columns: ['public.t.doc', 'public.t.big'], mask: 'encrypt' },
    { columns: ['public.t.tags', '*.*.secret'], mask: 'redact' },
    { columns: ['public.t.card'], mask: 'partial' },
  ],
};

const value = (i: string): string =>
  `'${CLEAR}-' || ${i}, '${CLEAR}@' || ${i}, json_build_object('${CLEAR}', ${i}), array['${CLEAR}', null], '${CLEAR}-000' || ${i}, repeat('${CLEAR} ', 800) || ${i}, '${SHOWN}', 1`;

const STEPS = [
  `insert into t select ${value('i')} from generate_series(100, 120) i`,
  `update t set mail = '${CLEAR}.new', n = n + 1 where id like '%1'`,
  `update t set id = '${CLEAR}' || id where id like '%2'`,
  `delete from t where id like '%3'`,
  // No type of the sink holds it: the row becomes a dead letter.
  `update t set n = 'NaN' where id like '%4';`,
  `alter table t add secret text default '${CLEAR} by default'; insert into t select ${value('i')} from generate_series(200, 201) i`,
  `alter table t alter mail set default '${CLEAR} by default'; alter table t alter big type varchar using '${CLEAR}' || big; update t set n = 5`,
  `alter table t rename mail to post; update t set n = 6`,
];

/** After every kind of change, through `transport`: what was masked is nowhere, as far as anyone outside the source can look. */
export function leaksNothing(
  transport: (database: TestDatabase) => Promise<ConfigInput['transport']>,
  others: (config: Config) => Promise<string>,
): void {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase();
  });
  afterEach(() => database.drop());

  it('no clear value of a masked column is in files, topics, dead letters, logs or status', async () => {
    const shared = { transport: await transport(database), snapshot: { tablesIntervalMs: 200 } };
    const { config, path } = testPipeline(database, shared, { protect: PROTECT });
    config.sinks[0]!.onUnrepresentable = 'dead-letter';
    let seen = '';
    const logged = new Writable({
      write(chunk, _, done) {
        seen += chunk;
        done();
      },
    });
    const run = async (): Promise<void> => {
      const pipeline = new Pipeline({ config, role: 'all', log: pino({ level: 'trace' }, logged) });
      await pipeline.run('caught-up', AbortSignal.timeout(90_000));
      seen += JSON.stringify(pipeline.status(), (_, one: unknown) => (typeof one === 'bigint' ? String(one) : one));
    };
    await database.query(
      'create table t (id text primary key, mail text, doc jsonb, tags text[], card varchar(30), big text, open text, n numeric(12,2))',
    );
    await database.query(
      `alter table t alter big set storage external; insert into t select ${value('i')} from generate_series(1, 50) i`,
    );
    await run();
    const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
    await installDdlCapture(client).finally(() => client.end());
    for (const step of STEPS) {
      await database.query(step);
      await run();
    }
    seen += JSON.stringify(await database.query('select * from waltide.schema_history'));
    const letters = JSON.stringify(await database.query('select l::text as letter from waltide.dead_letters l'));
    expect(letters).toContain(SHOWN);
    seen += letters;
    seen += await others(config);
    seen += await storedRows(path);
    const folder = dirname(path);
    for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8', withFileTypes: true }))
      if (file.isFile()) seen += readFileSync(join(file.parentPath, file.name), 'latin1');
    expect(seen.includes(SHOWN)).toBe(true);
    const at = seen.indexOf(CLEAR);
    expect(at < 0 ? '' : seen.slice(Math.max(0, at - 200), at + 100)).toBe('');
  }, 180_000);
}

/** Every row of every table of the file, as text. */
function storedRows(path: string): Promise<string> {
  return withDuckdb(path, async (query) => {
    const tables = await query('select schema_name, table_name from duckdb_tables() where not internal');
    let text = '';
    for (const [schema, table] of tables) {
      const found = await query(`select t::varchar from "${schema}"."${table}" t`);
      text += `${table}: ${found.join('\n')}`;
    }
    return text;
  });
}
