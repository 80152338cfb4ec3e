import { startEmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { fillArchive, type Sizes, scrape } from './data.ts';
import { Deployment, PROVEN } from './setting.ts';

/*
 * `npm run example:web-archive`: the whole deployment on this machine in a minute. PostgreSQL comes from npm, unless DATABASE_URL
 * names an empty database of yours. Everything is removed at the end.
 */

const SIZES: Sizes = { users: 200, projects: 400, domains: 1500, pages: 20_000 };

const own = process.env.DATABASE_URL;
const server = own ? null : await startEmbeddedPostgres({ settings: { fsync: 'off' } });
const url = own ?? server!.url;
const archive = new Deployment(url, 'web_archive_example');
const say = (text: string): void => console.log(`\n── ${text}`);
try {
  say(`filling PostgreSQL at ${url.replace(/:[^:@/]*@/, ':…@')}`);
  await fillArchive(url, SIZES);

  say('waltide setup --all');
  console.log(await archive.ok('setup', '--all'));

  say('waltide run, while people and the scraper work');
  const running = archive.start();
  await running.saw(/every existing row is copied/);
  const transactions = await scrape(url, SIZES, { seed: 7, transactions: 500 });
  await archive.caughtUp();
  console.log(`${transactions} transactions are followed`);

  say('waltide query, for what the archive holds');
  const sql = `select language, count(*) as pages, round(avg(word_count)) as words from pages_v2 group by all order by pages desc`;
  console.log(await archive.ok('query', sql));

  say('waltide validate');
  console.log(await archive.ok('validate', ...PROVEN));

  running.child.kill('SIGTERM');
  await running.finished;
  const { differences, tables } = await archive.compare();
  say(differences.length === 0 ? 'every value of every table is as it must be' : differences.join('\n'));
  for (const { table, rows } of tables)
    console.log(`${table.padEnd(14)} ${rows.toLocaleString('en-US').padStart(8)} rows`);
  process.exitCode = differences.length === 0 ? 0 : 1;
} finally {
  await archive.remove();
  await server?.stop();
}
