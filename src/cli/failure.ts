import { CommanderError } from 'commander';
import { ConfigError } from '../config/faults.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { EXIT } from './context.ts';

/** What anything thrown means to the user: what is printed, and the exit code. */
export interface Failure {
  readonly exitCode: number;
  /** For stderr, without a final newline; empty where it has been said already. */
  readonly text: string;
  /** For `--json`; null where there is nothing to tell. */
  readonly json: unknown;
}

export function describeFailure(error: unknown, showStack: boolean): Failure {
  // Commander has printed its own message, or the help that was asked for.
  if (error instanceof CommanderError) {
    const exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    // `waltide slot` and the like print help, which says what is missing.
    const said = exitCode === EXIT.ok || error.code === 'commander.help';
    const message = error.message.replace(/^error: /, '');
    const json = said ? null : errorJson('USAGE', message, 'See `waltide --help`.');
    return { exitCode, text: '', json };
  }
  const known = error instanceof WaltideError ? error : internal(error);
  const exitCode = known.code === 'CONFIG_INVALID' || known.code === 'USAGE' ? EXIT.usage : EXIT.failed;
  const lines = [`error: ${known.message}`, `what to do: ${known.help}`];
  // Where in our code a wrong password was noticed helps nobody; what the server said may.
  const mistake = known.side === 'config' || known.side === 'source';
  if (showStack)
    for (let cause: unknown = mistake ? known.cause : error; cause instanceof Error; cause = cause.cause)
      lines.push(mistake ? `cause: ${messageOf(cause)}` : (cause.stack ?? messageOf(cause)));
  const json = errorJson(
    known.code,
    known.message,
    known.help,
    error instanceof ConfigError ? error.faults : undefined,
  );
  return { exitCode, text: lines.join('\n'), json };
}

function errorJson(code: string, message: string, help: string, faults?: unknown): unknown {
  return { ok: false, error: { code, message, help, ...(faults ? { faults } : {}) } };
}

function internal(error: unknown): WaltideError {
  const help = 'This is a fault of Waltide itself; run again with --log-level debug and report what it prints.';
  return new WaltideError('INTERNAL', messageOf(error) || 'unknown error', help, { cause: error });
}
