// Run as a child process by crash.pg.test.ts: a pipeline that kills itself where WALTIDE_FAILPOINT says.
import type { Config } from '../../src/config/schema.ts';
import { createLog } from '../../src/log.ts';
import { Pipeline } from '../../src/pipeline/pipeline.ts';
import { PoisonSink } from './poison-sink.ts';

const [json, path] = process.argv.slice(2) as [string, string];
const pipeline = new Pipeline({
  config: JSON.parse(json) as Config,
  role: 'all',
  log: createLog({ level: 'warn', format: 'json' }),
  sinks: [new PoisonSink(path)],
});
await pipeline.run(null, new AbortController().signal);
