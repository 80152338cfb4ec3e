import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Platform, platformOf } from '../../src/cli/setup/grants.ts';
import { differences, withDuckdb } from '../support/compare.ts';
import { catchUp, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';
import { cli, makeProject } from './support.ts';

const role = `least_${process.pid}_${Date.now().toString(36)}`;

async function printed(
  url: string,
  name: string,
  argv: readonly string[] = [],
  writes = false,
  tables: string[] = ['public.*', 'sales.*'],
): Promise<string> {
  const project = await makeProject({
    writes: { enabled: writes },
    source: { url, slot: name, publication: name, tables, connectTimeoutMs: 30_000 },
  });
  const { code, stdout, stderr } = await cli(project.dir, 'setup', '--grants', ...argv);
  expect(code, stderr).toBe(0);
  await project.remove();
  return stdout;
}

describe('setup --grants', () => {
  let database: TestDatabase;
  let url: string;
  beforeAll(async () => {
    database = await createDatabase();
    await database.query(SCHEMA);
    await database.query(`create table "Odd ""T"".x" (id int primary key); revoke create on schema public from public`);
    url = database.url.replace(/\/\/.*@/, `//${role}:secret@`);
  });
  afterAll(async () => {
    await database.query(`drop owned by ${role} cascade; drop role ${role}`);
    await database.drop();
  });

  test('says what to run before the role can log in, from the patterns alone', async () => {
    const sql = await printed(url, database.name, ['--platform', 'plain']);
    expect(sql).toContain(`ALTER ROLE "${role}" REPLICATION;`);
    expect(sql).toContain('GRANT SELECT ON ALL TABLES IN SCHEMA "sales"');
    expect(sql).not.toContain('secret');
    expect(sql).not.toContain('INSERT');
    const more = await printed(url, database.name, [], true);
    expect(more).toContain('GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "sales"');
  });

  test('takes a name without a schema for one of schema public, also where the table is not there', async () => {
    for (const asked of [url, database.url]) {
      const sql = await printed(asked, database.name, [], true, ['users', 'none_*', 'later.things']);
      expect(sql).toContain('GRANT USAGE ON SCHEMA "public", "later" TO');
      for (const wrong of ['users', 'none_', 'could not be asked']) expect(sql).not.toContain(wrong);
    }
  });

  test('prints what is enough, and no more: Waltide copies, streams and is found healthy with a role of just that', async () => {
    // As an administrator prints it, for another role than the one that asks.
    await database.query(`create role ${role} login password 'secret'`);
    const sql = await printed(url, database.name);
    await database.query(sql);
    await database.query(sql);
    const [made] = await database.query(
      `select rolsuper or rolcreaterole or rolcreatedb or rolbypassrls as powers, has_database_privilege(rolname, current_database(), 'create') as creates,
              has_table_privilege(rolname, 'account', 'insert, update, delete, truncate') as writes from pg_roles where rolname = $1`,
      [role],
    );
    expect(made).toEqual({ powers: false, creates: false, writes: false });

    await runWorkload(database.url, 1, AbortSignal.timeout(300));
    const { config, path } = testPipeline(database, {}, { url, tables: ['public.*', 'sales.*'] });
    expect(await catchUp(config)).toEqual([]);
    await runWorkload(database.url, 2, AbortSignal.timeout(300));
    expect(await catchUp(config)).toEqual([]);
    expect(await withDuckdb(path, (run) => differences(database.url, run, TABLES))).toEqual([]);

    const project = await makeProject({ source: config.source });
    const { stdout } = await cli(project.dir, 'doctor', '--json');
    const { checks } = JSON.parse(stdout) as { checks: { status: string; name: string; detail: string }[] };
    expect(checks.filter(({ status }) => status === 'fail')).toEqual([]);
    await project.remove();
  });

  test.each([
    ['rds', 'GRANT rds_replication TO'],
    ['cloudsql', 'cloudsql.logical_decoding'],
    ['azure', 'azure_pg_admin'],
    ['supabase', 'not to the pooler'],
    ['neon', 'in its console'],
  ] as const)('knows the way of %s', async (platform, words) => {
    const sql = await printed(url, database.name, ['--platform', platform]);
    expect(sql).toContain(words);
    expect(sql.includes(`ALTER ROLE "${role}" REPLICATION`)).toBe(['cloudsql', 'azure', 'supabase'].includes(platform));
  });

  test('finds out whose server it is', () => {
    const hosts: [string, string[], Platform][] = [
      ['a.b.eu-west-1.rds.amazonaws.com', [], 'rds'],
      ['db.abc.supabase.co', [], 'supabase'],
      ['ep-x.eu-central-1.aws.neon.tech', [], 'neon'],
      ['x.postgres.database.azure.com', [], 'azure'],
      ['10.0.0.3', ['postgres', 'cloudsqlsuperuser'], 'cloudsql'],
      ['localhost', ['postgres'], 'plain'],
    ];
    for (const [host, roles, platform] of hosts) expect(platformOf(host, roles), host).toBe(platform);
  });
});
