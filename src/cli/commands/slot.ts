import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type pg from 'pg';
import { toJson } from '../../api/json.ts';
import { WaltideError } from '../../errors.ts';
import { formatLsn } from '../../event/lsn.ts';
import { forgetSlot, readSlotRecord, type SlotRecord } from '../../postgres/control.ts';
import { slotSide, withSession } from '../../postgres/session.ts';
import { dropSlot, listSlots, readSlot, type SlotInfo } from '../../postgres/slot.ts';
import type { CliContext } from '../context.ts';
import { formatBytes, formatTable, paintFor, printable } from '../output.ts';
import { listOwned, type OwnedSlot } from '../slot-owner.ts';

/** A terminated walsender lets go of its slot a moment later. */
const RELEASE_WAIT_MS = 10_000;

/** `waltide slot list | drop`. */
export function slotCommand(context: CliContext): Command {
  return new Command('slot')
    .description('List and drop logical replication slots of the server.')
    .addCommand(listCommand(context))
    .addCommand(dropCommand(context))
    .addHelpText('after', '\nExamples:\n  waltide slot list\n  waltide slot drop old_slot');
}

function listCommand(context: CliContext): Command {
  return new Command('list')
    .description(
      'All logical slots of the server: whose they are, how much WAL they retain, and which nobody uses any more.',
    )
    .addHelpText('after', '\nExamples:\n  waltide slot list\n  waltide slot list --json')
    .action(async (_options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const { slots, records } = await withSession(slotSide(config.source), 'slot', (client) =>
        listOwned(client, config),
      );
      if (json) return context.print(toJson([...slots.map(toObject), ...records.map(recordObject)], 2));
      if (slots.length + records.length === 0) return context.print('the server has no logical slots');
      const titles = ['slot', 'made by', 'database', 'plugin', 'active', 'retains', 'WAL', 'state'];
      context.print(
        formatTable(
          titles.map((title) => ({ title, align: title === 'retains' ? 'right' : 'left' })),
          slots.map(toRow),
        ),
      );
      const paint = paintFor(context.io.stdout, context.io.env);
      for (const { slot, note, drop, orphan } of slots)
        if (note !== null)
          context.print(
            `${paint(orphan ? 'yellow' : 'dim', slot.name)}: ${printable(note)}${drop === null ? '' : `; to drop it: ${drop}`}`,
          );
      for (const name of records)
        context.print(
          `${paint('yellow', name)}: its slot is gone, and what was recorded of it is still there; to forget it: waltide slot drop ${name}`,
        );
    });
}

const MAKERS = { this: 'this configuration', waltide: 'waltide', tail: 'waltide tail', other: '' } as const;

function toRow({ slot, owner, state }: OwnedSlot): string[] {
  return [
    slot.name,
    MAKERS[owner],
    slot.database ?? '',
    slot.plugin ?? '',
    slot.active ? `pid ${slot.activePid}` : 'no',
    slot.retainedBytes === null ? '' : formatBytes(slot.retainedBytes),
    slot.invalidation ?? slot.walStatus ?? '',
    state ?? '',
  ];
}

function dropCommand(context: CliContext): Command {
  return new Command('drop')
    .description('Drop a slot, and what Waltide has recorded of it. Its sinks must then be copied anew.')
    .argument('<name>', 'the slot')
    .option('--force', 'also where it is in use (its connection is ended) or was not made by Waltide')
    .addHelpText('after', '\nExamples:\n  waltide slot drop waltide\n  waltide slot drop someone_elses --force')
    .action(async (name: string, { force }: { force?: boolean }, command: Command) => {
      const { config, json, log } = await context.load(command);
      const dropped = await withSession(config.source, 'slot', (control) =>
        withSession(slotSide(config.source), 'slot', async (client) => {
          const record = await readSlotRecord(control, name);
          const slot = await readSlot(client, name);
          if (!slot && !record) throw missing(name, await listSlots(client));
          if (slot && !force) refuse(slot, record, config.source.slot);
          if (slot?.active) await release(client, slot);
          const existed = await dropSlot(client, name);
          if (record) await forgetSlot(control, name);
          return { existed, hadRecord: record !== null };
        }),
      );
      log.debug({ slot: name, ...dropped }, 'dropped');
      if (json) return context.print(toJson({ ok: true, name, ...dropped }));
      context.print(
        dropped.existed
          ? `slot "${name}" is dropped`
          : `there was no slot "${name}" any more; what was recorded of it is removed`,
      );
      if (dropped.hadRecord)
        context.note('The next `waltide run` makes a new one and copies every table; the publication stays.');
    });
}

function toObject({ slot, ...rest }: OwnedSlot): unknown {
  const lsn = (value: bigint | null): string | null => (value === null ? null : formatLsn(value));
  return { ...slot, confirmedFlushLsn: lsn(slot.confirmedFlushLsn), restartLsn: lsn(slot.restartLsn), ...rest };
}

function recordObject(name: string): unknown {
  return {
    name,
    owner: 'waltide',
    plugin: null,
    orphan: true,
    note: 'the slot is gone',
    drop: `waltide slot drop ${name}`,
  };
}

function missing(name: string, slots: readonly SlotInfo[]): WaltideError {
  const names = slots.map((slot) => slot.name).join(', ') || 'none';
  return new WaltideError(
    'SLOT_MISSING',
    `there is no logical slot "${name}"`,
    `\`waltide slot list\` shows them; there are: ${names}.`,
  );
}

function refuse(slot: SlotInfo, record: SlotRecord | null, own: string): void {
  if (slot.active)
    throw new WaltideError(
      'SLOT_IN_USE',
      `slot "${slot.name}" is in use by the server process ${slot.activePid}`,
      'Stop the program that uses it first, or end its connection with --force.',
    );
  if (!record && slot.name !== own)
    throw new WaltideError(
      'SLOT_FOREIGN',
      `slot "${slot.name}" (plugin ${slot.plugin}, database "${slot.database}") was not made by Waltide in this database`,
      'If nothing needs it any more, drop it with --force.',
    );
}

async function release(client: pg.Client, slot: SlotInfo): Promise<void> {
  await client.query('SELECT pg_catalog.pg_terminate_backend($1)', [slot.activePid]);
  const deadline = Date.now() + RELEASE_WAIT_MS;
  while ((await readSlot(client, slot.name))?.active && Date.now() < deadline) await sleep(50);
}
