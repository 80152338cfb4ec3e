import { controlVersion } from '../../postgres/control.ts';
import { checkRoles, reached } from '../../postgres/endpoint.ts';
import { OLDEST_VERSION, readServer } from '../../postgres/server.ts';
import { connectSource, slotSide } from '../../postgres/session.ts';
import { readSlot } from '../../postgres/slot.ts';
import { type Check, type DatabaseSubject, fail, failureOf, ok, skip, warn } from './check.ts';

/** The newest major version that the tests run against. */
const NEWEST_TESTED = 18;
/** Keepalives are answered within a second; less leaves no room for a busy event loop. */
const SENDER_TIMEOUT_MIN_MS = 5000;

const REPLICATION_REMEDY =
  'ALTER ROLE <role> REPLICATION (on RDS: GRANT rds_replication TO <role>; on Cloud SQL the same ALTER ROLE).';

export const SERVER_CHECKS: readonly Check<DatabaseSubject>[] = [
  {
    name: 'server version',
    run: async ({ client }) => {
      const { version } = await readServer(client);
      const major = Math.floor(version / 10_000);
      const shown = `PostgreSQL ${major}.${version % 10_000}`;
      if (version < OLDEST_VERSION) return fail(`${shown} is too old`, 'Use PostgreSQL 14 or newer.');
      return major > NEWEST_TESTED
        ? warn(
            `${shown} is newer than what Waltide is tested with (14 to ${NEWEST_TESTED})`,
            'Try it beside production first.',
          )
        : ok(shown);
    },
  },
  {
    name: 'wal_level',
    run: async ({ slotClient: client }) => {
      const { walLevel } = await readServer(client);
      if (walLevel === 'logical') return ok('logical');
      return fail(
        `is ${walLevel}, so the WAL does not hold what changed`,
        "ALTER SYSTEM SET wal_level = 'logical', then restart PostgreSQL (on RDS: rds.logical_replication = 1).",
      );
    },
  },
  {
    name: 'control schema',
    run: async ({ client }) => {
      const version = await controlVersion(client);
      if (version === 'current') return ok('schema "waltide" is of this version');
      return ok(
        `schema "waltide" is ${version === 'absent' ? 'not there yet' : 'of an older version'}; the next start sees to it`,
      );
    },
  },
  {
    name: 'primary',
    run: async ({ client, slotClient, config: { source } }) => {
      checkRoles(source, await reached(slotClient), await reached(client));
      return ok(source.primaryUrl ? 'source.url is a standby of source.primaryUrl' : 'the server is not in recovery');
    },
  },
  {
    name: 'replication right',
    run: async ({ slotClient: client }) => {
      const { canReplicate } = await readServer(client);
      return canReplicate
        ? ok('this role may use replication')
        : fail('this role may not use replication', REPLICATION_REMEDY);
    },
  },
  {
    name: 'replication connection',
    run: async ({ slotClient: client, config: { source } }) => {
      const { canReplicate, sendersUsed, sendersMax } = await readServer(client);
      if (!canReplicate) return skip('needs the replication right');
      if (sendersUsed >= sendersMax) return skip('needs a free walsender');
      try {
        const replication = await connectSource(slotSide(source), 'doctor', { replication: true });
        await replication.query('IDENTIFY_SYSTEM').finally(() => replication.end().catch(() => {}));
        return ok('a walsender session can be opened');
      } catch (error) {
        const { detail, remedy } = failureOf(error);
        return fail(
          `no walsender session: ${detail}`,
          `${remedy ?? ''} Behind a pooler, connect to PostgreSQL itself.`.trim(),
        );
      }
    },
  },
  {
    name: 'replication slots',
    run: async ({ slotClient: client, config }) => {
      const { slotsUsed, slotsMax } = await readServer(client);
      const detail = `${slotsUsed} of max_replication_slots = ${slotsMax} are used`;
      const exists = (await readSlot(client, config.source.slot)) !== null;
      if (slotsUsed < slotsMax) return ok(detail);
      const remedy =
        'Drop an unused slot (`waltide slot list`), or raise max_replication_slots and restart PostgreSQL.';
      return exists
        ? warn(`${detail}; ours is among them, but \`waltide tail\` finds none free`, remedy)
        : fail(`${detail}, so slot "${config.source.slot}" cannot be made`, remedy);
    },
  },
  {
    name: 'walsenders',
    run: async ({ slotClient: client, config }) => {
      const { sendersUsed, sendersMax } = await readServer(client);
      const detail = `${sendersUsed} of max_wal_senders = ${sendersMax} are used`;
      if (sendersUsed < sendersMax) return ok(detail);
      const remedy =
        'End a replication connection that is not needed, or raise max_wal_senders and restart PostgreSQL.';
      const ours = (await readSlot(client, config.source.slot))?.active ?? false;
      return ours
        ? warn(`${detail}; ours is among them, but \`waltide tail\` finds none free`, remedy)
        : fail(detail, remedy);
    },
  },
  {
    name: 'wal_sender_timeout',
    run: async ({ slotClient: client }) => {
      const ms = await numberSetting(client, 'wal_sender_timeout');
      if (ms === 0)
        return warn(
          'is 0: the server never notices a dead connection, and keeps its slot busy',
          "Set wal_sender_timeout = '60s'.",
        );
      if (ms !== null && ms < SENDER_TIMEOUT_MIN_MS)
        return warn(
          `is ${ms} ms: a short pause of this process drops the connection`,
          "Set wal_sender_timeout to 10 s or more; '60s' is the default.",
        );
      return ok(`${(ms ?? 0) / 1000} s`);
    },
  },
  {
    name: 'max_slot_wal_keep_size',
    run: async ({ slotClient: client }) => {
      const megabytes = await numberSetting(client, 'max_slot_wal_keep_size');
      if (megabytes === -1)
        return warn(
          'is unlimited: while Waltide is stopped, WAL grows until the disk is full',
          "Set max_slot_wal_keep_size to what the disk can spare (such as '50GB'): a full disk stops the database, a lost slot only asks for a new copy.",
        );
      return ok(`${megabytes} MB; a slot that falls further behind is lost`);
    },
  },
  {
    name: 'idle_replication_slot_timeout',
    run: async ({ slotClient: client }) => {
      const seconds = await numberSetting(client, 'idle_replication_slot_timeout');
      if (seconds === null) return ok('is not known to this version');
      if (seconds === 0) return ok('off');
      return warn(
        `is ${seconds} s: the slot is lost when Waltide is stopped for longer`,
        'Set idle_replication_slot_timeout = 0, or be sure never to stop Waltide that long.',
      );
    },
  },
];

/** In the unit of pg_settings: ms, MB or s here. Null where this version has no such setting. */
async function numberSetting(client: DatabaseSubject['client'], name: string): Promise<number | null> {
  const { rows } = await client.query<{ setting: string }>(
    'SELECT setting FROM pg_catalog.pg_settings WHERE name = $1',
    [name],
  );
  return rows[0] ? Number(rows[0].setting) : null;
}
