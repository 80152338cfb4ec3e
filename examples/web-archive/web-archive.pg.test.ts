import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../../test/support/postgres.ts';
import { fillArchive, type Sizes, scrape } from './data.ts';
import { Deployment } from './setting.ts';

const SIZES: Sizes = { users: 60, projects: 80, domains: 200, pages: 3000 };

describe('the web archive, from set-up to proof', () => {
  let database: TestDatabase;
  let archive: Deployment;
  beforeAll(async () => {
    database = await createDatabase();
    await fillArchive(database.url, SIZES);
    archive = new Deployment(database.url, database.name);
  });
  afterAll(async () => {
    await archive.remove();
    await database.drop();
  });

  it('is set up by one command, which two may give at once', async () => {
    const both = await Promise.all([archive.waltide(['setup', '--all']), archive.waltide(['setup', '--all'])]);
    for (const { code, stdout, stderr } of both) expect(code, stdout + stderr).toBe(0);
    expect(both[0]?.stdout).toMatch(/set up: \d+ checks, none fails/);
    const { checks } = JSON.parse(await archive.ok('setup', '--verify-setup', '--json')) as {
      checks: { name: string; status: string }[];
    };
    expect(checks.filter(({ status }) => status === 'fail')).toEqual([]);
    const names = checks.map(({ name }) => name);
    for (const part of ['control schema', 'publication', 'slot', 'capture trigger', 'sink archive', 'schedules'])
      expect(names).toContain(`setup: ${part}`);
  });

  it('copies and follows what people and the scraper do', async () => {
    const running = archive.start();
    await running.saw(/every existing row is copied/);
    const rounds = scrape(database.url, SIZES, { seed: 7, transactions: 150 });
    expect(await rounds).toBe(150);
    await archive.caughtUp();
    running.child.kill('SIGTERM');
    expect((await running.finished).code).toBe(0);
    const { differences, tables } = await archive.compare();
    expect(differences).toEqual([]);
    expect(tables.map(({ table }) => table)).toEqual(['users', 'projects', 'domains', 'pages_v2', 'project_pages']);
    expect(tables.every(({ rows }) => rows > 50)).toBe(true);
  });
});
