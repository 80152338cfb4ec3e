import type pg from 'pg';
import type { Found } from '../../api/control-client.ts';
import type { Config } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';

export type CheckStatus = 'ok' | 'warn' | 'fail' | 'skip';

export interface Finding {
  readonly status: CheckStatus;
  readonly detail: string;
  /** What to do about it; null where nothing is to be done. */
  readonly remedy: string | null;
}

export interface CheckResult extends Finding {
  readonly name: string;
}

export interface Subject {
  readonly config: Config;
  readonly found: Found;
}

export interface DatabaseSubject extends Subject {
  /** Read-only for the whole session: looking must change nothing. */
  readonly client: pg.Client;
  /** The same, on the server that has the slot. */
  readonly slotClient: pg.Client;
}

/** One precondition. A check that throws has failed; the others still run. */
export interface Check<S extends Subject> {
  readonly name: string;
  run(subject: S): Promise<Finding | readonly Finding[]>;
}

export const ok = (detail: string): Finding => ({ status: 'ok', detail, remedy: null });
export const warn = (detail: string, remedy: string): Finding => ({ status: 'warn', detail, remedy });
export const fail = (detail: string, remedy: string): Finding => ({ status: 'fail', detail, remedy });
export const skip = (detail: string): Finding => ({ status: 'skip', detail, remedy: null });

export async function runCheck<S extends Subject>({ name, run }: Check<S>, subject: S): Promise<CheckResult[]> {
  try {
    const found = await run(subject);
    return (Array.isArray(found) ? (found as Finding[]) : [found as Finding]).map((finding) => ({ name, ...finding }));
  } catch (error) {
    return [{ name, ...failureOf(error) }];
  }
}

export function failureOf(error: unknown): Finding {
  return fail(
    messageOf(error),
    error instanceof WaltideError ? error.help : 'See the message; the other checks may say more.',
  );
}

/** The first few names, and how many more there are. */
export function few(names: readonly string[], most = 5): string {
  return names.length <= most ? names.join(', ') : `${names.slice(0, most).join(', ')} and ${names.length - most} more`;
}
