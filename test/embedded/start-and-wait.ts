// Run as a child process by embedded-postgres.pg.test.ts.
import { startEmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';

const server = await startEmbeddedPostgres();
process.stdout.write(`${JSON.stringify({ pid: server.pid, dataDir: server.dataDir })}\n`, () => {
  if (process.argv[2] === 'exit') process.exit(0);
});
setInterval(() => {}, 1000);
