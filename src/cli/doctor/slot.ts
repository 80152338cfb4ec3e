import { readSlotRecord } from '../../postgres/control.ts';
import { checkSlot, readSlot } from '../../postgres/slot.ts';
import { blockingTransactions } from '../../postgres/slot-creation.ts';
import { formatBytes } from '../output.ts';
import { type Check, type DatabaseSubject, type Finding, fail, failureOf, ok, skip, warn } from './check.ts';

/** A shorter transaction ends by itself while the slot waits. */
const LONG_TRANSACTION_S = 10;
/** Less WAL to go than this, and the slot may be lost within minutes on a busy server. */
const SAFE_WAL_MIN_BYTES = 1024 ** 3;
/** Ten minutes at 10,000 transactions a second, or a week at ten: beyond it planning and DDL get slower. */
const CATALOG_AGE_MAX = 6_000_000;

export const SLOT_CHECKS: readonly Check<DatabaseSubject>[] = [
  { name: 'slot', run: slotState },
  { name: 'slot in use', run: slotUse },
  { name: 'long transactions', run: longTransactions },
  { name: 'catalog bloat', run: catalogBloat },
];

async function slotState({ client, slotClient, config }: DatabaseSubject): Promise<Finding> {
  const name = config.source.slot;
  const slot = await readSlot(slotClient, name);
  const record = await readSlotRecord(client, name);
  if (!slot && record?.state === 'streaming')
    return fail(
      `"${name}" is gone, though its first copy was finished: changes since then are missing`,
      'Make a new one and copy every table anew with `waltide run --recopy`.',
    );
  if (!slot) return ok(`"${name}" does not exist yet; it is created, and existing rows are copied`);
  try {
    const { rows } = await client.query<{ database: string }>('SELECT pg_catalog.current_database() AS database');
    checkSlot(slot, rows[0]!.database);
  } catch (error) {
    return failureOf(error);
  }
  if (!record)
    return fail(
      `"${name}" exists, but Waltide has not made it, so nobody knows which rows came before it`,
      'Choose another name in source.slot, or drop it with `waltide slot drop` if nothing needs it.',
    );
  if (record.state === 'prepared') return ok(`"${name}" is set up; the first run copies existing rows`);
  if (record.state === 'copying' && !slot.active)
    return warn(
      `the first copy through "${name}" was not finished`,
      record.consistentPoint === null
        ? 'Nothing has to be done: the next start drops the slot and copies again.'
        : 'Nothing has to be done: the next start goes on from the slot, and fills what is missing while it streams.',
    );
  const retains = slot.retainedBytes === null ? '' : `, retains ${formatBytes(slot.retainedBytes)} of WAL`;
  if (
    slot.walStatus === 'unreserved' ||
    (slot.safeWalBytes !== null && slot.safeWalBytes < SAFE_WAL_MIN_BYTES && slot.walStatus !== 'reserved')
  )
    return warn(
      `"${name}" is close to being lost (${slot.walStatus}${retains})`,
      'Start `waltide run` now, or raise max_slot_wal_keep_size.',
    );
  return ok(`"${name}" is ${slot.walStatus ?? 'there'}${retains}`);
}

/** A slot keeps what old catalog snapshots need: dead rows of pg_class and its like pile up, and freezing stops. */
async function catalogBloat({ slotClient: client, config }: DatabaseSubject): Promise<Finding> {
  const { rows } = await client.query<{ age: number | null; wraparound: number }>(
    `SELECT pg_catalog.age(catalog_xmin) AS age, current_setting('autovacuum_freeze_max_age')::int AS wraparound
     FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`,
    [config.source.slot],
  );
  const age = rows[0]?.age ?? null;
  if (age === null) return ok('no slot holds back the catalog');
  const held = `the slot holds back the catalog by ${age.toLocaleString('en')} transactions`;
  const remedy =
    'VACUUM cannot clean the system catalogs meanwhile: let Waltide run and catch up, lower source.retain, or drop the slot if it is not needed.';
  if (age > rows[0]!.wraparound) return fail(held, remedy);
  return age > CATALOG_AGE_MAX ? warn(held, remedy) : ok(held);
}

async function slotUse({ slotClient, config, found }: DatabaseSubject): Promise<Finding> {
  const slot = await readSlot(slotClient, config.source.slot);
  if (!slot?.active) return ok('no process uses the slot');
  const running = found.running.find(({ status }) => status.role !== 'apply');
  if (running) return ok(`by the running process ${running.file.pid} (server process ${slot.activePid})`);
  return warn(
    `the server process ${slot.activePid} uses it, and no Waltide of this stateDir runs`,
    `A killed process holds it for up to wal_sender_timeout. Another Waltide must be stopped, or this one given its own source.slot. To end the connection: SELECT pg_terminate_backend(${slot.activePid}).`,
  );
}

async function longTransactions({ client, slotClient, config }: DatabaseSubject): Promise<Finding | Finding[]> {
  if (await readSlot(slotClient, config.source.slot)) return ok('the slot exists already, so none can hold it up');
  const rows = await blockingTransactions(client, LONG_TRANSACTION_S);
  if (rows.length > 0)
    return rows.map(({ who, pid, gid }) =>
      warn(
        `creating the slot must wait for ${who}`,
        pid === null
          ? `COMMIT PREPARED or ROLLBACK PREPARED ${client.escapeLiteral(gid ?? '')}.`
          : `Let it end, or SELECT pg_terminate_backend(${pid}).`,
      ),
    );
  const { rows: rights } = await client.query<{ all: boolean }>(
    `SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS all`,
  );
  return rights[0]!.all
    ? ok('none that would hold up creating the slot')
    : skip('none among our own; those of other roles cannot be seen (GRANT pg_read_all_stats TO <role>)');
}
