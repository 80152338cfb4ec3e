import type pg from 'pg';
import { instanceKey, trackingQuery as run } from './tracking-query.ts';

/** What an instance tells of itself. */
export interface InstanceInfo {
  readonly id: string;
  readonly slot: string;
  readonly role: string;
  readonly host: string;
  readonly pid: number;
  readonly version: string;
}

/** A row of `waltide.instances`, judged. */
export interface InstanceRecord extends InstanceInfo {
  /** silent: its heartbeats have expired, and nobody has closed it yet. */
  readonly state: 'alive' | 'silent' | 'stopped';
  readonly startedAt: Date;
  readonly heartbeatAt: Date;
  readonly stoppedAt: Date | null;
  /** Sync types that it runs now. */
  readonly running: readonly string[];
}

/** Takes the lock that says "my session lives", which others look at. False where an older session of ours still has it. */
export async function lockInstance(client: pg.Client, id: string): Promise<boolean> {
  const rows = await run<{ locked: boolean }>(
    client,
    `SELECT pg_catalog.pg_try_advisory_lock(${instanceKey('$1::text')}) AS locked`,
    [id],
  );
  return rows[0]!.locked;
}

/** Registers, or says after an interruption that it is there again. */
export async function registerInstance(client: pg.Client, info: InstanceInfo, timeoutMs: number): Promise<void> {
  await run(
    client,
    `INSERT INTO waltide.instances (id, slot_name, role, host, pid, version, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 ms')
     ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), expires_at = excluded.expires_at, stopped_at = NULL`,
    [info.id, info.slot, info.role, info.host, info.pid, info.version, timeoutMs],
  );
}

/** False where it was found dead meanwhile: it registers again. */
export async function heartbeat(client: pg.Client, id: string, timeoutMs: number): Promise<boolean> {
  const rows = await run(
    client,
    `UPDATE waltide.instances SET heartbeat_at = now(), expires_at = now() + $2 * interval '1 ms'
     WHERE id = $1 AND stopped_at IS NULL RETURNING id`,
    [id, timeoutMs],
  );
  return rows.length > 0;
}

/** It ends in order. */
export async function stopInstance(client: pg.Client, id: string): Promise<void> {
  await run(client, 'UPDATE waltide.instances SET heartbeat_at = now(), stopped_at = now() WHERE id = $1', [id]);
}

/** Those that live or are silent; with `all` also those that have stopped and are not forgotten yet. Newest first. */
export async function listInstances(client: pg.Client, all: boolean): Promise<InstanceRecord[]> {
  return run<InstanceRecord>(
    client,
    `SELECT i.id, i.slot_name AS slot, i.role, i.host, i.pid, i.version, i.started_at AS "startedAt", i.heartbeat_at AS "heartbeatAt",
       i.stopped_at AS "stoppedAt",
       CASE WHEN i.stopped_at IS NOT NULL THEN 'stopped' WHEN i.expires_at < now() THEN 'silent' ELSE 'alive' END AS state,
       ARRAY(SELECT a.sync_type FROM waltide.active_runs a WHERE a.instance_id = i.id ORDER BY 1) AS running
     FROM waltide.instances i WHERE $1 OR i.stopped_at IS NULL ORDER BY i.started_at DESC, i.id`,
    [all],
  );
}
