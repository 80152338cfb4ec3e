import { Command } from 'commander';
import type pg from 'pg';
import { findProcesses } from '../../api/control-client.ts';
import { toJson } from '../../api/json.ts';
import type { Config } from '../../config/schema.ts';
import { describeUrl } from '../../postgres/connection.ts';
import { connectSource, slotSide } from '../../postgres/session.ts';
import { type CliContext, EXIT } from '../context.ts';
import {
  type Check,
  type CheckResult,
  type DatabaseSubject,
  failureOf,
  ok,
  runCheck,
  type Subject,
  skip,
} from '../doctor/check.ts';
import { ENDPOINT_CHECKS } from '../doctor/endpoint.ts';
import { FAILOVER_CHECKS } from '../doctor/failover.ts';
import { localChecks } from '../doctor/local.ts';
import { SERVER_CHECKS } from '../doctor/server.ts';
import { SLOT_CHECKS } from '../doctor/slot.ts';
import { TABLE_CHECKS } from '../doctor/tables.ts';
import { paintFor, printable } from '../output.ts';

/** A catalog query takes milliseconds; one that waits for a lock must not hold up the rest. */
const STATEMENT_TIMEOUT_MS = 15_000;

const DATABASE_CHECKS = [...ENDPOINT_CHECKS, ...SERVER_CHECKS, ...TABLE_CHECKS, ...SLOT_CHECKS, ...FAILOVER_CHECKS];

/** `waltide doctor`: every precondition, whether it holds, and what to do where it does not. */
export function doctorCommand(context: CliContext): Command {
  return new Command('doctor')
    .description(
      'Check every precondition: server, rights, tables, publication, slot, brokers, sinks. Changes nothing.',
    )
    .addHelpText(
      'after',
      `
Exit code: 0 = nothing fails (warnings may remain), 1 = something fails, 2 = the configuration is invalid.

Examples:
  waltide doctor
  waltide doctor --json | jq '.checks[] | select(.status == "fail")'`,
    )
    .action(async (_options: unknown, command: Command) => {
      const { config, json } = await context.load(command);
      const checks = await examine(config);
      const failed = checks.filter((check) => check.status === 'fail').length;
      const warned = checks.filter((check) => check.status === 'warn').length;
      context.exitCode = failed > 0 ? EXIT.failed : EXIT.ok;
      if (json) return context.print(toJson({ ok: failed === 0, failed, warned, checks }, 2));
      printChecks(context, checks);
      const count = (n: number, word: string): string => `${n} ${word}${n === 1 ? '' : 's'}`;
      context.print(
        failed > 0
          ? `\n${count(failed, 'failure')}, ${count(warned, 'warning')}`
          : `\nready to run${warned > 0 ? `, with ${count(warned, 'warning')}` : ''}`,
      );
    });
}

/** All checks in a fixed order, each at least once, and then `more`. Never rejects. */
export async function examine(config: Config, more: readonly Check<DatabaseSubject>[] = []): Promise<CheckResult[]> {
  const subject: Subject = { config, found: await findProcesses(config.stateDir, config.source.slot) };
  const local = (await Promise.all(localChecks(config).map((check) => runCheck(check, subject)))).flat();
  const database = await examineDatabase(subject, [...DATABASE_CHECKS, ...more]);
  return [...database, ...local];
}

async function examineDatabase(subject: Subject, checks: readonly Check<DatabaseSubject>[]): Promise<CheckResult[]> {
  const { source } = subject.config;
  let client: pg.Client;
  try {
    client = await connectSource(source, 'doctor');
  } catch (error) {
    const rest = checks.map(({ name }) => ({ name, ...skip('needs a connection') }));
    return [{ name: 'connection', ...failureOf(error) }, ...rest];
  }
  const results: CheckResult[] = [];
  let slotClient: pg.Client | null = null;
  try {
    await client.query(`SET default_transaction_read_only = on; SET statement_timeout = ${STATEMENT_TIMEOUT_MS}`);
    const { rows } = await client.query<{ user: string }>('SELECT current_user::text AS user');
    results.push({ name: 'connection', ...ok(`${describeUrl(source.primaryUrl ?? source.url)} as ${rows[0]!.user}`) });
    slotClient = source.primaryUrl ? await connectSource(slotSide(source), 'doctor') : client;
    await slotClient.query(`SET default_transaction_read_only = on; SET statement_timeout = ${STATEMENT_TIMEOUT_MS}`);
    const database: DatabaseSubject = { ...subject, client, slotClient };
    for (const check of checks) results.push(...(await runCheck(check, database)));
  } catch (error) {
    results.push({ name: 'connection', ...failureOf(error) });
  } finally {
    if (slotClient !== client) await slotClient?.end().catch(() => {});
    await client.end().catch(() => {});
  }
  return results;
}

const STYLES = { ok: 'green', warn: 'yellow', fail: 'red', skip: 'dim' } as const;

function printChecks(context: CliContext, checks: readonly CheckResult[]): void {
  const paint = paintFor(context.io.stdout, context.io.env);
  const width = Math.max(...checks.map((check) => check.name.length));
  for (const { name, status, detail, remedy } of checks) {
    context.print(`${paint(STYLES[status], status.padEnd(4))}  ${name.padEnd(width)}  ${printable(detail)}`);
    if (remedy !== null) context.print(`${' '.repeat(width + 8)}what to do: ${printable(remedy)}`);
  }
}
