import { parseArgs } from 'node:util';
import { log, start, testPipeline } from '../test/support/pipeline.ts';
import { plant, write } from '../test/support/planted.ts';
import { createDatabase, startPostgres } from '../test/support/postgres.ts';

/*
 * The proof of docs/validation.md at full size: 1,000 planted differences in a million rows, found under constant writes
 * and repaired. `npx tsx bench/validate-planted.ts --rows 1000000`
 */

const { values } = parseArgs({
  options: { rows: { type: 'string', default: '1000000' }, planted: { type: 'string', default: '1000' } },
});
const rows = Number(values.rows);
const count = Number(values.planted);
const say = (text: string): void => void process.stdout.write(`${(performance.now() / 1000).toFixed(1)} s  ${text}\n`);

const server = await startPostgres();
const database = await createDatabase(server.url);
const test = testPipeline(database);
say(`copying ${rows} rows and planting ${count} differences`);
const { expected, isPlanted } = await plant(database, test, rows, count);
const running = start(test.config);
while (running.pipeline.status().state !== 'streaming') await new Promise((resolve) => setTimeout(resolve, 50));
const writer = write(database.url, rows, isPlanted);
try {
  for (const repair of [false, true, false]) {
    const written = writer.written();
    let told = performance.now();
    const report = await running.pipeline.validate(
      { repair },
      {
        signal: AbortSignal.timeout(3_600_000),
        onProgress: (progress) => {
          if (performance.now() - told < 2000) return;
          told = performance.now();
          say(`  ${progress.rows} rows, ${progress.differences} differences`);
        },
      },
    );
    const [table] = report.tables;
    const { differences, ...result } = table!;
    say(`${writer.written() - written} rows were written meanwhile: ${JSON.stringify(result)}`);
    const found = new Map(differences.map(({ key, kind }) => [key[0]!, kind]));
    const wrong = [...found].filter(([key, kind]) => expected.get(key) !== kind).length;
    const unfound = [...expected.keys()].filter((key) => !found.has(key)).length;
    if (!repair) say(`${found.size} found, ${wrong} of them not planted, ${unfound} planted and not found`);
  }
} catch (error) {
  log.error(error);
  process.exitCode = 1;
} finally {
  await writer.stop();
  await running.stop();
  await database.drop();
  await server.stop();
}
