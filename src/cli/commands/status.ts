import { Command } from 'commander';
import { findProcesses } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { messageOf } from '../../errors.ts';
import { formatLsn } from '../../event/lsn.ts';
import { WalBudget } from '../../pipeline/budget.ts';
import type { BudgetStatus, CaptureStatus, PipelineStatus, SinkStatus } from '../../pipeline/status.ts';
import { slotSide, withSession } from '../../postgres/session.ts';
import { readSlot, readWalUse, type SlotInfo, slotLost } from '../../postgres/slot.ts';
import type { ProtocolStatus } from '../../source/source.ts';
import { type CliContext, EXIT } from '../context.ts';
import { formatBytes, formatCount, formatDuration, formatTable, type Paint, paintFor, printable } from '../output.ts';

/** What PostgreSQL itself says of the slot; `error` where it could not be asked. */
interface ServerView {
  readonly slot: SlotInfo | null;
  /** One look tells no rates; a running process knows them. */
  readonly budget: BudgetStatus | null;
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
      if (processes.length === 0 && found.silent.length === 0)
        parts.push(
          `${paint('yellow', 'not running')}: no process of slot "${config.source.slot}" is found through ${config.stateDir}; start one with \`waltide run\``,
        );
      for (const reason of found.silent) parts.push(`${paint('yellow', 'unreachable')}: ${printable(reason)}`);
      const running = processes.find((status) => status.source?.budget)?.source?.budget ?? null;
      parts.push(describeSlot(config.source.slot, server, running, paint));
      context.print(parts.join('\n\n'));
    });
}

function exitCodeOf(processes: readonly PipelineStatus[]): number {
  if (processes.length === 0 || processes.some((status) => status.stuck.length > 0)) return EXIT.failed;
  return processes.some((status) => status.sinks.some((sink) => sink.stopped.length > 0)) ? EXIT.tableStopped : EXIT.ok;
}

async function askServer({ source }: Config): Promise<ServerView> {
  try {
    const connectTimeoutMs = Math.min(source.connectTimeoutMs, 5000);
    return await withSession(slotSide({ ...source, connectTimeoutMs }), 'status', async (client) => {
      const slot = await readSlot(client, source.slot);
      const reading = slot && { atMs: Date.now(), slot, wal: await readWalUse(client) };
      return { slot, budget: reading && new WalBudget(source.walBudget).assess(reading), error: null };
    });
  } catch (error) {
    return { slot: null, budget: null, error: messageOf(error) };
  }
}

function slotJson({ slot, budget }: ServerView): unknown {
  if (!slot) return null;
  const lsn = (value: bigint | null): string | null => (value === null ? null : formatLsn(value));
  return { ...slot, confirmedFlushLsn: lsn(slot.confirmedFlushLsn), restartLsn: lsn(slot.restartLsn), budget };
}

function describeSlot(
  name: string,
  { slot, budget, error }: ServerView,
  running: BudgetStatus | null,
  paint: Paint,
): string {
  if (error !== null) return `slot ${name}: ${paint('red', 'PostgreSQL cannot be asked')}: ${printable(error)}`;
  if (!slot)
    return `slot ${name}: ${paint('yellow', 'does not exist')}; \`waltide run\` or \`waltide setup\` creates it and copies existing rows`;
  const use = slot.active ? `in use by server process ${slot.activePid}` : 'not in use';
  const at = `acknowledged ${slot.confirmedFlushLsn === null ? 'nothing' : formatLsn(slot.confirmedFlushLsn)}`;
  if (slot.invalidation !== null) {
    const { message, help } = slotLost(name, slot.invalidation);
    return `slot ${name}: ${paint('red', 'lost')}: ${message}\n  ${help}`;
  }
  return `slot ${name}: ${use}, ${at}, WAL ${slot.walStatus ?? 'unknown'}\n${describeBudget(running ?? budget!, paint)}`;
}

const LEVEL_COLOURS = { ok: 'green', notice: 'cyan', warning: 'yellow', critical: 'red', lost: 'red' } as const;

function describeBudget(budget: BudgetStatus, paint: Paint): string {
  const { level, retainedBytes, budgetBytes, safeBytes, walBytesPerSecond, secondsLeft } = budget;
  const parts = [`retains ${formatBytes(retainedBytes)}`];
  if (budgetBytes === null)
    parts.push('of as much as the disk holds (neither max_slot_wal_keep_size nor walBudget.bytes is set)');
  else parts.push(`of ${formatBytes(budgetBytes)}, ${formatBytes(safeBytes ?? 0)} more until it is used up`);
  if (walBytesPerSecond > 0) parts.push(`; WAL grows by ${formatBytes(walBytesPerSecond)}/s`);
  if (secondsLeft !== null)
    parts.push(`; ${paint('yellow', `used up in ${formatDuration(secondsLeft)}`)} at this rate`);
  return `WAL budget ${paint(LEVEL_COLOURS[level], level)}: ${parts.join(' ').replaceAll(' ;', ';')}`;
}

function describeProcess(status: PipelineStatus, paint: Paint): string {
  const { source, sinks, copy, transport, memory } = status;
  const uptime = formatDuration((Date.now() - Date.parse(status.startedAt)) / 1000);
  const health =
    status.stuck.length > 0 || status.failure
      ? paint('red', status.failure ? 'failed' : 'stuck')
      : status.ready
        ? paint('green', status.state)
        : paint('yellow', status.state);
  const lines = [
    `${health}  pid ${status.pid}, role ${status.role}, up ${uptime}, waltide ${status.version}, ${formatBytes(memory.rssBytes)} of memory`,
  ];
  if (status.failure) lines.push(`  ${printable(status.failure)}`);
  for (const reason of status.stuck) lines.push(`  ${paint('red', 'stuck')}: ${printable(reason)}`);
  if (source) {
    const connected = source.connected ? 'connected' : paint('yellow', 'not connected');
    const held = source.heldBytes > 0 ? `; ${formatBytes(source.heldBytes)} held back on purpose` : '';
    lines.push(
      `source     ${printable(source.database)} by slot ${source.slot}, ${connected}; ${formatCount(source.events)} events, ${formatCount(source.eventsPerSecond)}/s; lag ${formatBytes(source.lagBytes)} (${source.durableLsn} of ${source.serverLsn})${held}; ${source.reconnects} reconnects`,
    );
    if (source.decoding) lines.push(`decoding   ${describeDecoding(source.decoding)}`);
    if (source.protocol) lines.push(`protocol   ${describeProtocol(source.protocol, paint)}`);
  }
  lines.push(`transport  ${transport.type}, ${formatBytes(transport.bytesInFlight)} in flight`);
  const copying = copy.filter((table) => !table.done);
  for (const table of copying)
    lines.push(
      `copying    ${printable(table.table)}: ${formatCount(table.rows)} rows${table.estimatedRows > 0 ? ` of about ${formatCount(table.estimatedRows)}` : ''}, ${formatBytes(table.bytes)}${table.secondsLeft === null ? '' : `, ${formatDuration(table.secondsLeft)} left`}`,
    );
  if (sinks.length > 0) lines.push('', sinkTable(sinks));
  for (const sink of sinks) {
    if (sink.lastError !== null)
      lines.push(`${paint('red', 'last error')} of ${sink.name}: ${printable(sink.lastError)}`);
    for (const table of sink.stopped)
      lines.push(`${paint('red', 'stopped')} in ${sink.name}: ${printable(table.name)}: ${printable(table.reason)}`);
    lines.push(...lossLines(sink, paint), ...letterLines(sink, paint));
  }
  const tables = sinks.flatMap((sink) =>
    sink.tables.map((table) => [sink.name, table.name, formatCount(table.events)]),
  );
  if (tables.length > 0)
    lines.push('', formatTable([{ title: 'sink' }, { title: 'table' }, { title: 'events', align: 'right' }], tables));
  return lines.join('\n');
}

/** What a stream that looks as if it stood still waits for. */
export function describeDecoding({ lsn, until }: NonNullable<CaptureStatus['decoding']>): string {
  return `the server decodes retained WAL once more before it sends anything: at ${lsn} of ${until}`;
}

function letterLines({ name, breaker, deadLetters: { open, oldestAt } }: SinkStatus, paint: Paint): string[] {
  const lines: string[] = [];
  if (breaker !== 'closed') lines.push(`${paint('red', 'circuit breaker')} of ${name}: ${breaker}`);
  if (open > 0)
    lines.push(
      `${paint('red', 'dead letters')} of ${name}: ${formatCount(open)}, the oldest of ${oldestAt}: see \`waltide dead-letter list\``,
    );
  return lines;
}

function lossLines({ name, losses }: SinkStatus, paint: Paint): string[] {
  const lines: string[] = [];
  const { textColumns = [], deadLetters = 0, nulled = 0 } = losses ?? {};
  if (textColumns.length > 0) lines.push(`as text in ${name}: ${textColumns.map(printable).join(', ')}`);
  if (deadLetters > 0) lines.push(`${paint('red', 'set aside')} in ${name}: ${formatCount(deadLetters)} rows`);
  if (nulled > 0) lines.push(`${paint('yellow', 'stored as NULL')} in ${name}: ${formatCount(nulled)} values`);
  return lines;
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

function describeProtocol(protocol: ProtocolStatus, paint: Paint): string {
  const { version, streaming, twoPhase, openTransactions, memoryBytes, spilledBytes, degraded } = protocol;
  const parts = [`version ${version}`, `streaming ${streaming}${twoPhase ? ', two-phase' : ''}`];
  if (openTransactions > 0)
    parts.push(
      `${formatCount(openTransactions)} open transactions, ${formatBytes(memoryBytes)} in memory, ${formatBytes(spilledBytes)} spilled`,
    );
  if (degraded !== null)
    parts.push(paint('yellow', `streaming is off until the next connection: ${printable(degraded)}`));
  return parts.join('; ');
}
