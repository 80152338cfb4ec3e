import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { serverAccount, temporaryParent } from '../../src/embedded/binaries.ts';
import { type EmbeddedPostgres, type Settings, startEmbeddedPostgres } from '../../src/embedded/embedded-postgres.ts';
import { eventually } from './pipeline.ts';
import { query } from './postgres.ts';
import { type PostgresVersion, postgresPackage } from './postgres-package.ts';

/** Name of the physical slot on the primary that holds WAL for the standby. */
export const STANDBY_SLOT = 'standby';

export interface Standby {
  readonly server: EmbeddedPostgres;
  /**
   * Copies failover slots now, and waits until the copy of this one would survive a promotion (17 and later). The
   * worker of sync_replication_slots does the same, up to half a minute later.
   */
  syncSlot(name: string): Promise<void>;
  /** Becomes the primary; resolves when it can be written to. */
  promote(): Promise<void>;
  /** Stops it and removes its data. */
  stop(): Promise<void>;
}

/**
 * A streaming standby of `primary`, as a file copy of it: the primary is halted for a moment, so that the copy is
 * whole, and started again. Set up for failover slots, which servers before 17 have not.
 */
export async function startStandby(
  primary: EmbeddedPostgres,
  { version = 18, settings = {} }: { version?: PostgresVersion; settings?: Settings } = {},
): Promise<Standby> {
  await query(primary.url, `SELECT pg_create_physical_replication_slot('${STANDBY_SLOT}', true)`);
  await primary.halt();
  const home = await mkdtemp(join(await temporaryParent(await serverAccount()), 'waltide-standby-'));
  // cp -a keeps owners: PostgreSQL refuses data that are not its own.
  await promisify(execFile)('cp', ['-a', primary.dataDir, join(dirname(primary.dataDir), 'password'), home]);
  await writeFile(join(home, 'data', 'standby.signal'), '');
  await primary.start();
  const url = new URL(primary.url);
  const upstream = `host=${url.hostname} port=${url.port} user=${url.username} password=${url.password} dbname=postgres`;
  const server = await startEmbeddedPostgres({
    dir: home,
    ...(version === 18 ? {} : { packageFolder: await postgresPackage(version) }),
    settings: {
      fsync: 'off',
      hot_standby_feedback: 'on',
      wal_receiver_status_interval: '1s',
      primary_conninfo: upstream,
      primary_slot_name: STANDBY_SLOT,
      ...settings,
    },
  });
  await eventually('the standby streams', async () => {
    const [slot] = await query(
      primary.url,
      `SELECT active FROM pg_replication_slots WHERE slot_name = '${STANDBY_SLOT}'`,
    );
    return slot?.active === true;
  });
  return {
    server,
    syncSlot: (name) =>
      eventually(
        `the standby has a copy of slot ${name}`,
        async () => {
          // The copy is taken into use once the slot has passed a point that the standby still has WAL of.
          await query(primary.url, 'SELECT pg_log_standby_snapshot()');
          try {
            await query(server.url, 'SELECT pg_sync_replication_slots()');
          } catch (error) {
            // A slot that moves may be ahead of what the standby has received by now.
            if (/is ahead of the standby position/.test((error as Error).message)) return false;
            throw error;
          }
          const [slot] = await query(
            server.url,
            `SELECT synced AND NOT temporary AND invalidation_reason IS NULL AS ready FROM pg_replication_slots WHERE slot_name = '${name}'`,
          );
          return slot?.ready === true;
        },
        60_000,
      ),
    promote: async () => {
      await query(server.url, 'SELECT pg_promote(true, 60)');
      await eventually('the standby is the primary', async () => {
        const [row] = await query(server.url, 'SELECT pg_is_in_recovery() AS standby');
        return row?.standby === false;
      });
    },
    stop: async () => {
      await server.stop('immediate');
      await rm(home, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
