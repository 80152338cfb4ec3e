import { type ErrorClass, WaltideError } from '../errors.ts';

/** Of Node, undici and resolvers. */
const NETWORK = /^(E(CONN\w+|TIMEDOUT|PIPE|HOST\w+|NET\w+|NOTFOUND|AI_\w+|SOCKET\w*)|UND_ERR_\w+)$/;
const STORAGE = /^E(NOSPC|ACCES|PERM|ROFS|IO|MFILE|NFILE|NOENT|NOTDIR|ISDIR|EXIST|DQUOT|FBIG|BUSY)$/;
/** SQLSTATE classes. A server that shuts down is a connection that breaks. */
const SQL_NETWORK = /^(08|57P)/;
const SQL_DATA = /^(21|22|23|44)/;
const SQL_STORAGE = /^(531|58)/;
const SQL_CONFIG = /^(28|3D)/;
/** Serialisation failures, deadlocks, locks not to be had, resources that are short, cancelled statements. */
const SQL_PASSES = /^(08|40|53|55|57|58)/;

interface Coded {
  readonly code?: unknown;
  readonly severity?: unknown;
  readonly cause?: unknown;
}

/** What kind of thing went wrong: by our own codes, SQLSTATE, or the operating system's; `internal` where nothing tells. */
export function classify(error: unknown): ErrorClass {
  return judge(error).class;
}

/** True where the same attempt may succeed later without anyone acting. */
export function passes(error: unknown): boolean {
  return judge(error).passes;
}

interface Judgement {
  readonly class: ErrorClass;
  readonly passes: boolean;
}

const INTERNAL: Judgement = { class: 'internal', passes: false };

function judge(error: unknown): Judgement {
  if (error instanceof WaltideError) return { class: error.class, passes: error.retry };
  if (typeof error !== 'object' || error === null) return INTERNAL;
  const { code, severity, cause } = error as Coded;
  if (typeof code === 'string') {
    const sql = typeof severity === 'string' && /^[0-9A-Z]{5}$/.test(code);
    if (sql) return { class: sqlClass(code), passes: SQL_PASSES.test(code) };
    if (NETWORK.test(code)) return { class: 'network', passes: true };
    // A disk may be given room; what may not be read or is not there stays so.
    if (STORAGE.test(code)) return { class: 'storage', passes: /^E(NOSPC|IO|MFILE|NFILE|DQUOT|BUSY)$/.test(code) };
  }
  if (error instanceof AggregateError && error.errors.length > 0) return judge(error.errors[0]);
  // As fetch and most clients do it: the reason lies beneath.
  const beneath = cause === undefined || cause === error ? INTERNAL : judge(cause);
  if (beneath.class !== 'internal') return beneath;
  if (error instanceof Error && error.name === 'TimeoutError') return { class: 'network', passes: true };
  // What JSON.parse and schemas throw: the text was not what it should be.
  if (error instanceof SyntaxError || (error instanceof Error && /^(\$?ZodError|ValidationError)$/.test(error.name)))
    return { class: 'data', passes: false };
  return INTERNAL;
}

function sqlClass(state: string): ErrorClass {
  if (SQL_NETWORK.test(state)) return 'network';
  if (SQL_DATA.test(state)) return 'data';
  if (SQL_STORAGE.test(state)) return 'storage';
  return SQL_CONFIG.test(state) ? 'config' : 'database';
}
