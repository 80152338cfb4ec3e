import { join } from 'node:path';
import { configSchema } from '../src/config/schema.ts';
import { parseLsn } from '../src/event/lsn.ts';
import { createLog } from '../src/log.ts';
import { connect } from '../src/postgres/connection.ts';
import { migrate } from '../src/postgres/control.ts';
import { identify } from '../src/postgres/identity.ts';
import { WalSource } from '../src/source/wal-source.ts';

/*
 * Streams a slot into typed events and throws them away: what capture costs by itself. Compiled and run by plain Node
 * (see waltide.ts). Arguments: url, slot, publication, end LSN, source.protocol as JSON. Prints what it saw as one line
 * of JSON.
 */
const [url, slot, publication, end, protocol = '{}'] = process.argv.slice(2) as [string, string, string, string];
const endLsn = parseLsn(end);
const { source: config } = configSchema.parse({
  source: { url, slot, publication, tables: ['public.bench'], protocol: JSON.parse(protocol) },
});
const log = createLog({ level: 'info', format: 'json' });

const client = await connect(url, { applicationName: 'bench', replication: false, timeoutMs: 10_000 });
// Changes of a table's schema are recorded there.
await migrate(client);
const identity = await identify(client, slot);
await client.end();
const stateDir = join(process.cwd(), `state-${slot}`);
const options = {
  config,
  identity,
  publications: [publication],
  captured: null,
  hides: () => false,
  from: 0n,
  stateDir,
  log,
};
const source = new WalSource(options);
const stop = new AbortController();
let inserts = 0;
let updates = 0;
let doneAt = 0;
for await (const batch of source.stream(stop.signal)) {
  for (const { op } of batch.events) {
    if (op === 'c') inserts++;
    else if (op === 'u') updates++;
  }
  if (batch.commitEndLsn === null) continue;
  source.acknowledge(batch.commitEndLsn, batch.commitEndLsn);
  if (batch.commitEndLsn >= endLsn) {
    doneAt = Date.now();
    stop.abort();
    break;
  }
}
await source.close();
console.log(JSON.stringify({ inserts, updates, doneAt }));
