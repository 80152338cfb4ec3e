import { Command } from 'commander';
import { findProcesses } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { messageOf } from '../../errors.ts';
import { formatLsn } from '../../event/lsn.ts';
import type { PipelineStatus, SinkStatus } from '../../pipeline/status.ts';
import { connect } from '../../postgres/connection.ts';
import { readSlot, type SlotInfo } from '../../postgres/slot.ts';
import { type CliContext, EXIT } from '../context.ts';
import { formatBytes, formatCount, formatDuration, formatTable, type Paint, paintFor, printable } from '../output.ts';

/** What PostgreSQL itself says of the slot; `error` where it could not be asked. */
interface ServerView {
  readonly slot: SlotInfo | null;
  readonly error: string | null;
}

/** `waltide status`: what the running processes say, and what PostgreSQL says of the slot. */
export function statusCommand(context: CliContext): Command {
  return new Command('status')
    .description('Show slot, lag of each sink in bytes and seconds, throughput, tables, copy progress, stopped tables.')
    .addHelpText(
      'after',
      `
Asks the running processes of this configuration (found through stateDir), and PostgreSQL for the slot.
Exit code: 0 = running; 1 = no process runs, or one is stuck; 3 = running, but a table is stopped.

Examples:
  waltide status
  waltide status --json | jq '.processes[].sinks[] | {name, lagSeconds}'`,
    )
    .action(async (_options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const [found, server] = await Promise.all([
        findProcesses(config.stateDir, config.source.slot),
        askServer(config),
      ]);
      const processes = found.running.map((one) => one.status);
      context.exitCode = exitCodeOf(processes);
      if (json)
        return context.print(
          toJson(
            {
              running: processes.length > 0,
              processes,
              unreachable: found.silent,
              slot: slotJson(server),
              slotError: server.error,
            },
            2,
          ),
        );
      const paint = paintFor(context.io.stdout, context.io.env);
      const parts = processes.map((status) => describeProcess(status, paint));
      if (processes.length === 0)
        parts.push(
          `${paint('yellow', 'not running')}: no process of slot "${config.source.slot}" is found through ${config.stateDir}; start one with \`waltide run\``,
        );
      for (const reason of found.silent) parts.push(`${paint('yellow', 'unreachable')}: ${printable(reason)}`);
      parts.push(describeSlot(config.source.slot, server, paint));
      context.print(parts.join('\n\n'));
    });
}

function exitCodeOf(processes: readonly PipelineStatus[]): number {
  if (processes.length === 0 || processes.some((status) => status.stuck.length > 0)) return EXIT.failed;
  return processes.some((status) => status.sinks.some((sink) => sink.stopped.length > 0)) ? EXIT.tableStopped : EXIT.ok;
}

async function askServer({ source }: Config): Promise<ServerView> {
  try {
    const client = await connect(source.url, {
      applicationName: `waltide ${source.slot} status`,
      timeoutMs: Math.min(source.connectTimeoutMs, 5000),
    });
    try {
      return { slot: await readSlot(client, source.slot), error: null };
    } finally {
      await client.end().catch(() => {});
    }
  } catch (error) {
    return { slot: null, error: messageOf(error) };
  }
}

function slotJson({ slot }: ServerView): unknown {
  if (!slot) return null;
  const lsn = (value: bigint | null): string | null => (value === null ? null : formatLsn(value));
  return { ...slot, confirmedFlushLsn: lsn(slot.confirmedFlushLsn), restartLsn: lsn(slot.restartLsn) };
}

function describeSlot(name: string, { slot, error }: ServerView, paint: Paint): string {
  if (error !== null) return `slot ${name}: ${paint('red', 'PostgreSQL cannot be asked')}: ${printable(error)}`;
  if (!slot)
    return `slot ${name}: ${paint('yellow', 'does not exist')}; \`waltide run\` or \`waltide setup\` creates it and copies existing rows`;
  const use = slot.active ? `in use by server process ${slot.activePid}` : 'not in use';
  const lag = slot.retainedBytes === null ? '' : `, retains ${formatBytes(slot.retainedBytes)} of WAL`;
  const safe = slot.safeWalBytes === null ? '' : `, ${formatBytes(slot.safeWalBytes)} more until it is lost`;
  const state =
    slot.walStatus === 'lost' || slot.walStatus === 'unreserved'
      ? paint('red', slot.walStatus)
      : (slot.walStatus ?? 'unknown');
  return `slot ${name}: ${use}, acknowledged ${slot.confirmedFlushLsn === null ? 'nothing' : formatLsn(slot.confirmedFlushLsn)}${lag}${safe}, WAL ${state}`;
}

function describeProcess(status: PipelineStatus, paint: Paint): string {
  const { source, sinks, copy, transport, memory } = status;
  const uptime = formatDuration((Date.now() - Date.parse(status.startedAt)) / 1000);
  const health =
    status.stuck.length > 0
      ? paint('red', 'stuck')
      : status.ready
        ? paint('green', status.state)
        : paint('yellow', status.state);
  const lines = [
    `${health}  pid ${status.pid}, role ${status.role}, up ${uptime}, waltide ${status.version}, ${formatBytes(memory.rssBytes)} of memory`,
  ];
  for (const reason of status.stuck) lines.push(`  ${paint('red', 'stuck')}: ${printable(reason)}`);
  if (source) {
    const connected = source.connected ? 'connected' : paint('yellow', 'not connected');
    lines.push(
      `source     ${printable(source.database)} by slot ${source.slot}, ${connected}; ${formatCount(source.events)} events, ${formatCount(source.eventsPerSecond)}/s; lag ${formatBytes(source.lagBytes)} (${source.acknowledgedLsn} of ${source.serverLsn}); ${source.reconnects} reconnects`,
    );
  }
  lines.push(`transport  ${transport.type}, ${formatBytes(transport.bytesInFlight)} in flight`);
  const copying = copy.filter((table) => !table.done);
  for (const table of copying)
    lines.push(
      `copying    ${printable(table.table)}: ${formatCount(table.rows)} rows${table.estimatedRows > 0 ? ` of about ${formatCount(table.estimatedRows)}` : ''}`,
    );
  if (sinks.length > 0) lines.push('', sinkTable(sinks));
  for (const sink of sinks) {
    if (sink.lastError !== null)
      lines.push(`${paint('red', 'last error')} of ${sink.name}: ${printable(sink.lastError)}`);
    for (const table of sink.stopped)
      lines.push(`${paint('red', 'stopped')} in ${sink.name}: ${printable(table.name)}: ${printable(table.reason)}`);
  }
  const tables = sinks.flatMap((sink) =>
    sink.tables.map((table) => [sink.name, table.name, formatCount(table.events)]),
  );
  if (tables.length > 0)
    lines.push('', formatTable([{ title: 'sink' }, { title: 'table' }, { title: 'events', align: 'right' }], tables));
  return lines.join('\n');
}

function sinkTable(sinks: readonly SinkStatus[]): string {
  const right = (title: string) => ({ title, align: 'right' as const });
  return formatTable(
    [
      { title: 'sink' },
      { title: 'type' },
      right('lag'),
      right('seconds'),
      right('events'),
      right('per second'),
      right('pending'),
      right('retries'),
      { title: 'saved up to' },
    ],
    sinks.map((sink) => [
      sink.name,
      sink.type,
      formatBytes(sink.lagBytes),
      sink.lagSeconds === null ? '?' : sink.lagSeconds.toFixed(1),
      formatCount(sink.events),
      formatCount(sink.eventsPerSecond),
      formatCount(sink.pendingEvents),
      formatCount(sink.retries),
      sink.appliedLsn,
    ]),
  );
}
