import { startEmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { demand, type Shared } from './on-demand.ts';
import { OLDER_VERSIONS, type OlderVersion, postgresPackage } from './postgres-package.ts';

/** Many tests use one server at once, and none of them asks what survives a crash of the machine. */
export const SHARED_SETTINGS = {
  fsync: 'off',
  max_wal_senders: '60',
  max_replication_slots: '60',
  max_connections: '200',
};

/** One server of each older version for the whole run; the newest one is `sharedPostgresUrl()`. */
export const SHARED_POSTGRES: Readonly<Record<string, Shared>> = Object.fromEntries(
  OLDER_VERSIONS.map((version) => [nameOf(version), shared(version)]),
);

/** URL of the server of an older version that all tests of this run share: for `createDatabase(url)`. */
export async function ensureSharedPostgres(version: OlderVersion): Promise<string> {
  return (await demand(nameOf(version), shared(version))) as string;
}

function nameOf(version: OlderVersion): string {
  return `postgres-${version}`;
}

function shared(version: OlderVersion): Shared {
  return {
    start: async () => {
      const packageFolder = await postgresPackage(version);
      const server = await startEmbeddedPostgres({ packageFolder, settings: SHARED_SETTINGS });
      return { address: server.url, stop: () => server.stop('immediate') };
    },
  };
}
