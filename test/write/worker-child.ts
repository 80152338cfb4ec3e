/* A WriteWorker in a process of its own, to be killed. Argument: configuration as JSON. Says `started`. */
import type { Config } from '../../src/config/schema.ts';
import { createLog } from '../../src/log.ts';
import { WriteWorker } from '../../src/write/worker.ts';

const config = JSON.parse(process.argv[2]!) as Config;
const worker = new WriteWorker({ config, log: createLog({ level: 'warn', format: 'json' }) });
await worker.start();
process.stdout.write('started\n');
