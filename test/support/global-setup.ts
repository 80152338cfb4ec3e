import type { TestProject } from 'vitest/node';
import { startEmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { haveKafka } from './kafka-server.ts';
import { offer } from './on-demand.ts';
import { SHARED_KAFKA } from './shared-kafka.ts';
import { SHARED_POSTGRES, SHARED_SETTINGS } from './shared-postgres.ts';

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
  const server = await startEmbeddedPostgres({ settings: SHARED_SETTINGS });
  project.provide('postgresUrl', server.url);
  // Older servers and the broker start when a test first asks for them.
  const stopOthers = await offer({ ...SHARED_POSTGRES, ...(haveKafka().ok ? { kafka: SHARED_KAFKA } : {}) });
  return async () => {
    await Promise.all([server.stop('immediate'), stopOthers()]);
  };
}
