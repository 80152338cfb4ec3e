import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { queryError } from '../postgres/connection.ts';
import { connectSource } from '../postgres/session.ts';
import type { RuleResult } from './report.ts';
import type { ValidatedSink, ValidationRun } from './run.ts';

type Rule = Config['validation']['rules'][number];

const ROWS_SHOWN_MAX = 100;

/** Asks every rule where it is to be asked. One that the database refuses does not hold: it proves nothing. */
export async function checkRules(run: ValidationRun, sinks: readonly ValidatedSink[]): Promise<RuleResult[]> {
  const results: RuleResult[] = [];
  for (const rule of run.config.validation.rules) {
    if (rule.on !== 'sink') results.push(await inSource(run, rule));
    if (rule.on !== 'source') for (const sink of sinks) if (sink.query) results.push(await inSink(run, rule, sink));
  }
  return results;
}

async function inSource({ config, treatment, signal }: ValidationRun, rule: Rule): Promise<RuleResult> {
  signal.throwIfAborted();
  const client = await connectSource(config.source, 'validation rules');
  try {
    await client.query(`SET search_path = public, pg_catalog; SET default_transaction_read_only = on`);
    await client.query(`SELECT set_config('statement_timeout', $1, false)`, [String(config.validation.ruleTimeoutMs)]);
    // A parameter makes it the extended protocol, which takes one statement; a cursor would limit what may be asked.
    const text = `SELECT * FROM (${rule.sql}\n) AS broken WHERE $1 LIMIT ${ROWS_SHOWN_MAX + 1}`;
    return resultOf(rule, 'source', await treatment.query(client, { text, values: [true] }));
  } catch (error) {
    const known = queryError(error, `asking rule "${rule.name}"`);
    if (known.retry) throw known;
    return refused(rule, 'source', known === error ? known.message : treatment.refusalOf(error));
  } finally {
    await client.end().catch(() => {});
  }
}

async function inSink({ config, source, signal }: ValidationRun, rule: Rule, sink: ValidatedSink): Promise<RuleResult> {
  const ask = async (): Promise<RuleResult> => {
    const limits = { rowsMax: ROWS_SHOWN_MAX + 1, timeoutMs: config.validation.ruleTimeoutMs };
    const { rows } = await sink.query!(rule.sql, limits);
    return resultOf(rule, sink.name, rows);
  };
  try {
    const first = await ask();
    if (first.holds) return first;
    // What broke it may be in flight.
    await sink.passed(await source.now(), signal);
    return await ask();
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof WaltideError) || error.code !== 'SINK_QUERY') throw error;
    return refused(rule, sink.name, messageOf(error));
  }
}

function resultOf({ name }: Rule, side: string, rows: readonly (readonly unknown[])[]): RuleResult {
  const violations = rows.length;
  return { rule: name, side, holds: violations === 0, violations, rows: rows.slice(0, ROWS_SHOWN_MAX), error: null };
}

function refused({ name }: Rule, side: string, message: string): RuleResult {
  const error = `it cannot be asked: ${message}. Mend its sql in validation.rules: one SELECT that this side understands`;
  return { rule: name, side, holds: false, violations: 0, rows: [], error };
}
