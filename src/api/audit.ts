import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import { type AuditCall, beginAudit, endAudit, purgeAudit } from '../postgres/audit-log.ts';
import type { Sessions } from '../postgres/sessions.ts';
import { problemOf } from './problem.ts';
import { Accepted } from './route.ts';

/** Who changed what, and what became of it. */
export interface Audit {
  /**
   * Runs `work`, which changes something, with a record of it that is durable before it begins. Rejects as `work` does;
   * where the record cannot be written, nothing is done.
   */
  record<T>(call: AuditCall, work: () => Promise<T>): Promise<T>;
}

/** The audit log of the control schema. */
export class AuditLog implements Audit {
  readonly #sessions: Sessions;
  readonly #log: Log;

  constructor(sessions: Sessions, log: Log) {
    this.#sessions = sessions;
    this.#log = log;
  }

  async record<T>(call: AuditCall, work: () => Promise<T>): Promise<T> {
    const id = await this.#sessions.use((client) => beginAudit(client, call));
    const began = performance.now();
    const end = async (
      outcome: 'success' | 'accepted' | 'refused' | 'error',
      status: number,
      code: string | null,
      made: object = {},
    ) => {
      const durationMs = performance.now() - began;
      const ended = { outcome, status, errorCode: code, durationMs, made };
      try {
        await this.#sessions.use((client) => endAudit(client, id, ended));
      } catch (error) {
        // It has happened by now; that it began is recorded.
        this.#log.warn({ err: error, requestId: call.requestId }, 'the end of a call is not in the audit log');
      }
    };
    try {
      const answer = await work();
      const accepted = answer instanceof Accepted;
      await end(accepted ? 'accepted' : 'success', accepted ? 202 : 200, null, idsOf(accepted ? answer.body : answer));
      return answer;
    } catch (error) {
      const { status, code } = problemOf(error, call.requestId);
      const fault = status >= 500 && !(error instanceof WaltideError && error.code === 'NOT_RUNNING');
      await end(fault ? 'error' : 'refused', status, code);
      throw error;
    }
  }

  /** Removes what is older than `days`. Never rejects. */
  async purge(days: number): Promise<void> {
    try {
      const removed = await this.#sessions.use((client) => purgeAudit(client, days));
      if (removed > 0) this.#log.info({ removed, days }, 'old records of the audit log are removed');
    } catch (error) {
      this.#log.warn({ err: error }, 'old records of the audit log could not be removed');
    }
  }
}

/** What was made, by the names that answers have for it. */
const IDS = ['run_id', 'operation_id', 'snapshots', 'asked'] as const;

function idsOf(answer: unknown): object {
  const held: Record<string, unknown> = typeof answer === 'object' && answer !== null ? { ...answer } : {};
  return Object.fromEntries(IDS.flatMap((name) => (held[name] === undefined ? [] : [[name, held[name]]])));
}
