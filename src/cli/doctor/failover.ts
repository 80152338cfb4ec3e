import { urlPerHost } from '../../config/hosts.ts';
import { describeUrl } from '../../postgres/connection.ts';
import { FAILOVER_VERSION } from '../../postgres/failover.ts';
import { readServer } from '../../postgres/server.ts';
import { withSession } from '../../postgres/session.ts';
import { readSlot } from '../../postgres/slot.ts';
import { type Check, type DatabaseSubject, type Finding, fail, failureOf, few, ok, skip, warn } from './check.ts';

/** Whether the slot would survive a promotion, and whether sinks could never get ahead of the promoted standby. */
export const FAILOVER_CHECKS: readonly Check<DatabaseSubject>[] = [
  { name: 'failover slot', run: failoverSlot },
  { name: 'synchronized_standby_slots', run: synchronizedSlots },
  { name: 'standbys', run: standbys },
];

async function failoverSlot({ client, config: { source } }: DatabaseSubject): Promise<Finding> {
  const { version, inRecovery } = await readServer(client);
  const { rows } = await client.query<{ standbys: number }>(
    `SELECT count(*)::int AS standbys FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical'`,
  );
  const replicated = (rows[0]?.standbys ?? 0) > 0;
  if (version < FAILOVER_VERSION) {
    if (source.failover)
      return fail(
        'source.failover needs PostgreSQL 17 or newer',
        'Leave it out; after a promotion everything must be copied anew: `waltide run --recopy`.',
      );
    return replicated
      ? warn(
          'standbys keep no copy of the slot before PostgreSQL 17',
          'After a promotion copy anew: `waltide run --recopy`. From 17 on set source.failover: true.',
        )
      : ok('no standby has a slot here');
  }
  const slot = await readSlot(client, source.slot);
  if (inRecovery) return skip('this is a standby');
  if (source.failover && slot && !slot.failover)
    return warn(`"${source.slot}" is not one yet`, 'Start `waltide run`: it alters the slot.');
  if (source.failover) return ok(slot ? `"${source.slot}" is one` : `"${source.slot}" will be one`);
  return replicated
    ? warn(
        'there are standbys, and they keep no copy of the slot: a promotion loses it',
        'Set source.failover: true, sync_replication_slots = on on the standby, and see synchronized_standby_slots below.',
      )
    : ok('not asked for, and no standby has a slot here');
}

async function synchronizedSlots({ client, config: { source } }: DatabaseSubject): Promise<Finding> {
  const { rows } = await client.query<{ setting: string }>(
    `SELECT setting FROM pg_catalog.pg_settings WHERE name = 'synchronized_standby_slots'`,
  );
  if (!rows[0]) return ok('is not known to this version');
  if (!source.failover) return ok('matters for failover slots only');
  const names = rows[0].setting
    .split(',')
    .map((name) => name.trim().replaceAll('"', ''))
    .filter((name) => name !== '');
  const { rows: slots } = await client.query<{ name: string; active: boolean }>(
    `SELECT slot_name AS name, active FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical'`,
  );
  if (names.length === 0)
    return warn(
      'is empty: sinks may get changes that the standby has not received, and a promotion then loses them',
      `Set it to the physical slot of the standby that would be promoted${slots.length > 0 ? ` (${few(slots.map(({ name }) => name))})` : ''}; failover slots then wait for it.`,
    );
  const missing = names.filter((name) => !slots.some((slot) => slot.name === name));
  if (missing.length > 0)
    return fail(
      `names slots that do not exist: ${few(missing)}`,
      'No change leaves through a failover slot until they do: make them (pg_create_physical_replication_slot), or take them out.',
    );
  const idle = names.filter((name) => !slots.find((slot) => slot.name === name)!.active);
  return idle.length > 0
    ? warn(
        `no standby uses ${few(idle)}`,
        'Changes wait until it does. Start the standby, or take the slot out of the setting.',
      )
    : ok(few(names));
}

/** The hosts of source.url that are standbys: what they must have so that a promotion loses nothing. */
async function standbys({ config: { source } }: DatabaseSubject): Promise<Finding | Finding[]> {
  const urls = urlPerHost(source.url);
  if (urls.length === 1) return ok('source.url names one host');
  if (!source.failover) return skip('source.failover is off');
  const findings: Finding[] = [];
  for (const url of urls) {
    try {
      findings.push(...(await standby(url.replace(/([?&])target_session_attrs=[^&]*/, '$1'), source)));
    } catch (error) {
      const { detail, remedy } = failureOf(error);
      findings.push(warn(detail, remedy ?? 'Check that it runs.'));
    }
  }
  return findings.length > 0 ? findings : ok('none of the hosts is a standby just now');
}

function standby(url: string, source: DatabaseSubject['config']['source']): Promise<Finding[]> {
  return withSession({ ...source, url }, 'doctor', async (client) => {
    if (!(await readServer(client)).inRecovery) return [];
    const where = describeUrl(url);
    const { rows } = await client.query<{ name: string; setting: string }>(
      `SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('sync_replication_slots', 'hot_standby_feedback', 'primary_slot_name')`,
    );
    const settings = new Map(rows.map(({ name, setting }) => [name, setting]));
    const findings: Finding[] = [];
    const off = ['sync_replication_slots', 'hot_standby_feedback'].filter((name) => settings.get(name) !== 'on');
    if (off.length > 0)
      findings.push(
        warn(
          `${where}: ${off.join(' and ')} is off, so no copy of the slot is kept there`,
          `Set ${off.map((name) => `${name} = on`).join(', ')}.`,
        ),
      );
    if (settings.get('primary_slot_name') === '')
      findings.push(
        warn(
          `${where}: primary_slot_name is not set`,
          'Give the standby a physical slot on the primary, and name it in primary_slot_name; dbname must be in primary_conninfo.',
        ),
      );
    const slot = await readSlot(client, source.slot);
    if (!slot?.synced || slot.temporary || slot.invalidation !== null)
      findings.push(
        warn(
          `${where}: there is no copy of slot "${source.slot}" that would survive a promotion${slot?.invalidation ? ` (${slot.invalidation})` : ''}`,
          'It comes within a minute of `waltide run` where the settings are right; the log of the standby says what is missing.',
        ),
      );
    return findings.length > 0 ? findings : [ok(`${where} has a copy of the slot`)];
  });
}
