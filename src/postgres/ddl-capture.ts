import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { queryError, sqlState } from './connection.ts';

/** sql/ lies beside both src/ and dist/. */
const read = (file: string): string => readFileSync(new URL(`../../sql/${file}`, import.meta.url), 'utf8');

const FUNCTION = 'waltide.ddl_capture()';
const TRIGGERS = ['waltide_ddl_end', 'waltide_ddl_drop', 'waltide_ddl_rewrite'];

const LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('waltide capture trigger'))";

/** absent: none there. outdated: another Waltide's. disabled: there, but it does not fire for every session. */
export type DdlCaptureState = 'absent' | 'outdated' | 'disabled' | 'current';

/**
 * Installs the capture trigger, or brings it up to date; needs schema "waltide" (`migrate`). In one transaction with
 * itself. Rejects with SOURCE_RIGHTS where the role may not create event triggers.
 */
export async function installDdlCapture(client: pg.Client): Promise<void> {
  const sql = read('ddl-capture.sql');
  // Two at once would replace the same functions, which PostgreSQL refuses.
  await inTransaction(client, `${LOCK};\n${sql};\nCOMMENT ON FUNCTION ${FUNCTION} IS 'waltide ${fingerprint(sql)}'`);
}

/** Lets the trigger's functions describe every published table in the WAL, as its installation does. */
export async function describePublished(client: pg.Client): Promise<void> {
  try {
    await client.query(
      `SELECT waltide.ddl_emit(waltide.ddl_describe(t.relid) || '{"event": "alter", "command": "SETUP", "rewrite": 0, "plain": true, "indirect": []}'::jsonb)
       FROM (SELECT DISTINCT format('%I.%I', schemaname, tablename)::regclass::oid AS relid FROM pg_catalog.pg_publication_tables) t`,
    );
  } catch (error) {
    throw queryError(error, 'describing the published tables');
  }
}

/** Takes it away. Resolves also where there is none. */
export async function removeDdlCapture(client: pg.Client): Promise<void> {
  if ((await ddlCaptureState(client)) === 'absent') return;
  await inTransaction(client, `${LOCK};\n${read('ddl-remove.sql')}`);
}

export async function ddlCaptureState(client: pg.Client): Promise<DdlCaptureState> {
  try {
    const { rows } = await client.query<{ enabled: string; comment: string | null }>(
      `SELECT e.evtenabled::text AS enabled, pg_catalog.obj_description(p.oid, 'pg_proc') AS comment
       FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
       JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       WHERE e.evtname = ANY($1) AND n.nspname = 'waltide'`,
      [TRIGGERS],
    );
    if (rows.length === 0) return 'absent';
    const wanted = `waltide ${fingerprint(read('ddl-capture.sql'))}`;
    if (rows.length < TRIGGERS.length || rows.some(({ comment }) => comment !== wanted)) return 'outdated';
    return rows.every(({ enabled }) => enabled === 'A') ? 'current' : 'disabled';
  } catch (error) {
    throw queryError(error, 'looking for the capture trigger');
  }
}

function fingerprint(sql: string): string {
  return createHash('sha256').update(sql).digest('hex').slice(0, 16);
}

async function inTransaction(client: pg.Client, sql: string): Promise<void> {
  try {
    await client.query(`BEGIN;\n${sql};\nCOMMIT`);
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    if (sqlState(error) === '42501')
      throw new WaltideError(
        'SOURCE_RIGHTS',
        `the capture trigger needs rights that this role does not have: ${(error as Error).message}`,
        'Only a superuser may create event triggers (on managed services its stand-in: rds_superuser, postgres on Supabase, …). Let one run `waltide setup --ddl` with its own source.url, once; Waltide itself needs no more rights than before.',
        { cause: error },
      );
    throw queryError(error, 'changing the capture trigger');
  }
}
