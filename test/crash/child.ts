/*
 * The process to be killed: a pipeline with DuckDB and the append-only sink, run from what `npm run build` made.
 * Arguments: configuration as JSON, role, path of the append-only file, `recopy` or nothing. SIGTERM drains it.
 * Says `open` once everything is open.
 */
import type { Config } from '../../src/config/schema.ts';
import type { Role } from '../../src/pipeline/status.ts';
import { AppendSink } from './append-sink.ts';

const { Pipeline, createLog } = (await import(
  new URL('../../dist/index.js', import.meta.url).href
)) as typeof import('../../src/index.ts');

const [json, role, path, recopy] = process.argv.slice(2) as [string, Role, string, string | undefined];
const stopping = new AbortController();
process.on('SIGTERM', () => stopping.abort());
const pipeline = new Pipeline({
  config: JSON.parse(json) as Config,
  role,
  log: createLog({ level: 'warn', format: 'json' }),
  recopy: recopy === 'recopy',
  sinks: role === 'capture' ? [] : [new AppendSink(path)],
});
// Before that, a server that is gone is an error at once.
const opening = setInterval(() => {
  if (pipeline.status().state === 'starting') return;
  clearInterval(opening);
  process.stdout.write('open\n');
}, 10);
try {
  await pipeline.run(null, stopping.signal);
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}
