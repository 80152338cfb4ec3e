import { expect, it } from 'vitest';
import { NOT_SHOWN } from '../../src/protect/query.ts';
import type { ValidationReport } from '../../src/validation/report.ts';
import { eventually, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

/* What business rules show, and what becomes of one that the database refuses. */

async function validate(
  database: TestDatabase,
  rules: readonly { name: string; sql: string; on?: 'source' | 'sink' | 'both' }[],
  source: object,
): Promise<{ report: ValidationReport; stored: string }> {
  const { config } = testPipeline(database, { validation: { rules: [...rules] } }, source);
  const running = start(config);
  try {
    await eventually('streaming', () => running.pipeline.status().state === 'streaming');
    // A rule goes on meaning a column that is renamed.
    await database.query('alter table person rename column phone to telephone');
    const report = await running.pipeline.validate(
      { checks: ['row_count', 'business_rules'] },
      { signal: AbortSignal.timeout(60_000) },
    );
    const stored = await database.query(
      'select v::text, r::text as r from waltide.validations v, waltide.validation_results r',
    );
    return { report, stored: JSON.stringify(stored) };
  } finally {
    await running.stop();
  }
}

const TABLES = `
create table person (id int primary key, email text, card numeric, note text, phone text, memo text);
insert into person values (7, 'ann@example.org', 4111222233334444, 'hi', '555-1234', 'secret memo'), (8, null, null, null, null, null);
create view contact as select id, email from person;
create table event (id int, at date, who text, primary key (id, at)) partition by range (at);
create table event_2026 partition of event for values from ('2026-01-01') to ('2027-01-01');
insert into event values (1, '2026-03-01', 'bob@example.org')`;

it('shows no masked value, by whichever way a rule asks for it', async () => {
  const database = await createDatabase();
  try {
    await database.query(TABLES);
    const rules = {
      plain: 'select id, email, card, note from person where id = 7',
      renamed: 'select telephone as t, memo, email as note from person where id = 7',
      nested: 'with w as (select * from (select email as e, id from person) s) select e, id from w where id = 7',
      expression: 'select id, upper(email), note || 1, count(*) over () from person where id = 7',
      row: 'select p from person p where id = 7',
      view: 'select email, id from contact where id = 7',
      union: 'select note from person where id = 7 union select email from person where id = 7',
      partition: 'select id, who from event_2026',
      parent: 'select at, who from event',
      null: 'select email, id from person where id = 8',
      cast: 'select email::int from person where id = 7',
      missing: 'select nix from person',
    };
    const { report, stored } = await validate(
      database,
      Object.entries(rules).map(([name, sql]) => ({ name, sql, on: 'source' as const })),
      {
        protect: {
          key: 'a key of no less than thirty-two bytes',
          rules: [
            { columns: ['public.person.email', 'public.event.who'], mask: 'hash' },
            { columns: ['public.person.card'], mask: 'partial' },
            { columns: ['public.person.phone'], mask: 'redact' },
          ],
        },
        transforms: [{ tables: ['public.person'], drop: ['memo'] }],
      },
    );
    const hash = expect.stringMatching(/^[0-9a-f]{64}$/);
    const rowsOf = (name: string): unknown => report.rules.find(({ rule }) => rule === name)?.rows;
    expect(rowsOf('plain')).toEqual([[7, hash, '***4444', 'hi']]);
    expect(rowsOf('renamed')).toEqual([['***', expect.stringContaining('not shown'), hash]]);
    expect(rowsOf('nested')).toEqual([[hash, 7]]);
    expect(rowsOf('expression')).toEqual([[7, NOT_SHOWN, NOT_SHOWN, NOT_SHOWN]]);
    expect(rowsOf('row')).toEqual([[NOT_SHOWN]]);
    expect(rowsOf('view')).toEqual([[NOT_SHOWN, NOT_SHOWN]]);
    expect(rowsOf('union')).toEqual([[NOT_SHOWN], [NOT_SHOWN]]);
    expect(rowsOf('partition')).toEqual([[1, hash]]);
    expect(rowsOf('parent')).toEqual([[expect.anything(), hash]]);
    expect(rowsOf('null')).toEqual([[null, 8]]);
    const errorOf = (name: string): unknown => report.rules.find(({ rule }) => rule === name)?.error;
    expect(errorOf('cast')).toContain('SQLSTATE 22P02');
    expect(errorOf('missing')).toContain('column "nix" does not exist');
    for (const secret of ['example.org', 'EXAMPLE.ORG', '41112222', '555-1234', 'secret memo'])
      expect(JSON.stringify(report) + stored, secret).not.toContain(secret);
  } finally {
    await database.drop();
  }
});

it('a rule that a database refuses does not hold, and the rest goes on', async () => {
  const database = await createDatabase();
  try {
    await database.query(TABLES);
    const { report, stored } = await validate(
      database,
      [
        { name: 'wrong', sql: 'select nix from person', on: 'both' },
        { name: 'two', sql: 'select 1; select 2', on: 'source' },
        { name: 'fine', sql: 'select id, upper(note) from person where note is not null', on: 'both' },
      ],
      {},
    );
    expect(report.ok).toBe(false);
    expect(report.tables.map(({ table }) => table)).toContain('public.person');
    expect(report.rules).toMatchObject([
      {
        rule: 'wrong',
        side: 'source',
        holds: false,
        rows: [],
        error: expect.stringContaining('column "nix" does not exist'),
      },
      {
        rule: 'wrong',
        side: 'analytics',
        holds: false,
        error: expect.stringMatching(/nix.*Mend its sql in validation\.rules/s),
      },
      { rule: 'two', holds: false, error: expect.stringContaining('syntax error') },
      { rule: 'fine', side: 'source', holds: false, rows: [[7, 'HI']], error: null },
      { rule: 'fine', side: 'analytics', holds: false, rows: [[7, 'HI']], error: null },
    ]);
    expect(stored).toContain('completed');
  } finally {
    await database.drop();
  }
});
