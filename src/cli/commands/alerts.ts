import { Command } from 'commander';
import { userName } from '../../api/auth/user-name.ts';
import { toJson } from '../../api/json.ts';
import { ALERT_STATES, type AlertRecord, acknowledgeAlert, listAlerts } from '../../postgres/alerts.ts';
import { migrate } from '../../postgres/control.ts';
import { withSession } from '../../postgres/session.ts';
import { positiveInteger } from '../arguments.ts';
import type { CliContext } from '../context.ts';
import { formatTable, type Paint, paintFor, printable } from '../output.ts';

/** `waltide alerts [ack]`: what somebody should know of. */
export function alertsCommand(context: CliContext): Command {
  return new Command('alerts')
    .description('What somebody should know of: open alerts, the gravest first.')
    .option('--all', 'also those that are pending or resolved, until the history forgets them')
    .option('--limit <n>', 'at most so many', positiveInteger, 100)
    .addHelpText(
      'after',
      `
A running process looks at the rules (\`alerts.rules\` in the configuration) and tells webhooks; alerts are in the source's
schema "waltide", for all processes alike. firing: nobody has acknowledged it. acknowledged: it stays until its condition is
clear, and fires again where it becomes graver. resolved: it was clear for alerts.resolveAfterMs.

Examples:
  waltide alerts
  waltide alerts --all --json
  waltide alerts ack 17 --note "the disk is being enlarged"`,
    )
    .action(async ({ all = false, limit }: { all?: boolean; limit: number }, command: Command) => {
      const { config, json } = await context.load(command);
      const filter = { limit, ...(all && { states: ALERT_STATES }) };
      const alerts = await withSession(config.source, 'alerts', (client) =>
        listAlerts(client, config.source.slot, filter),
      );
      if (json) return context.print(toJson(alerts, 2));
      if (alerts.length === 0) return context.print('no alerts');
      context.print(describe(alerts, paintFor(context.io.stdout, context.io.env)));
    })
    .addCommand(ackCommand(context));
}

function ackCommand(context: CliContext): Command {
  return new Command('ack')
    .description('Say that somebody takes care of an alert.')
    .argument('<id>', 'as `waltide alerts` gives it', positiveInteger)
    .option('--note <text>', 'what is being done; kept with the alert')
    .addHelpText('after', '\nExamples:\n  waltide alerts ack 17 --note "the disk is being enlarged"')
    .action(async (id: number, { note }: { note?: string }, command: Command) => {
      const { config, json } = await context.load(command);
      const alert = await withSession(config.source, 'alerts', async (client) => {
        await migrate(client);
        return acknowledgeAlert(client, config.source.slot, id, `local:${userName()}`, note ?? null);
      });
      if (json) return context.print(toJson(alert, 2));
      context.print(`alert ${id} is acknowledged: ${printable(alert.summary)}`);
    });
}

const PAINT = { critical: 'red', warning: 'yellow', info: 'cyan' } as const;

function describe(alerts: readonly AlertRecord[], paint: Paint): string {
  const titles = ['id', 'severity', 'state', 'since', 'rule', 'subject', 'summary', 'note'];
  const columns = titles.map((title) => ({ title, align: title === 'id' ? ('right' as const) : ('left' as const) }));
  const rows = alerts.map((alert) => [
    ...[String(alert.id), alert.severity, alert.state, alert.since.toISOString().replace(/\.\d+/, ''), alert.rule],
    ...[alert.subject, alert.summary, alert.note === null ? '' : `${alert.acknowledgedBy}: ${alert.note}`],
  ]);
  // Colours come after the table: it counts characters.
  return formatTable(columns, rows)
    .split('\n')
    .map((line, i) => {
      const severity = alerts[i - 2]?.severity;
      return severity ? line.replace(`  ${severity} `, `  ${paint(PAINT[severity], severity)} `) : line;
    })
    .join('\n');
}
