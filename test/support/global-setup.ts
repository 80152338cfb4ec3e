import type { TestProject } from 'vitest/node';
import { startEmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { offerSharedKafka } from './shared-kafka.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** The server shared by the run; empty where no file of the run is named after a server. */
    postgresUrl: string;
  }
}

/** Starts one PostgreSQL for the whole run, when some file of it needs a server. Each test makes its own database. */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  // Internal to vitest, hence the cautious reading: without it the server starts for every run, which only costs time.
  const { filenamePattern } = project.vitest as unknown as { filenamePattern?: string[] };
  const filters = filenamePattern?.map((filter) => filter.replace(/:\d+$/, ''));
  const { testFiles } = await project.globTestFiles(filters);
  if (!testFiles.some((file) => /\.(pg|kafka)\.test\.ts$/.test(file))) {
    project.provide('postgresUrl', '');
    return undefined;
  }
  const settings = { fsync: 'off', max_wal_senders: '60', max_replication_slots: '60', max_connections: '200' };
  const server = await startEmbeddedPostgres({ settings });
  project.provide('postgresUrl', server.url);
  // The broker starts when a test first asks for it.
  const stopKafka = await offerSharedKafka();
  return async () => {
    await Promise.all([server.stop('immediate'), stopKafka()]);
  };
}
