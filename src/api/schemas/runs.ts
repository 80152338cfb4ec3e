import { z } from 'zod';
import type { RunRecord, SyncStatus } from '../../postgres/runs.ts';

/* Runs and sync types under the names that the tables have, which operators' scripts know. */

export const runSchema = z.object({
  id: z.string(),
  sync_type: z.string(),
  sync_timestamp: z.date().describe('when it began'),
  status: z.enum(['in_progress', 'success', 'error']),
  records_processed: z.number(),
  duration_seconds: z.number(),
  error_message: z.string().nullable(),
  error_class: z.enum(['network', 'database', 'storage', 'data', 'config', 'internal']).nullable(),
  sync_metadata: z.record(z.string(), z.unknown()),
  service_instance: z.string(),
});

export function shownRun(run: RunRecord) {
  return {
    id: run.id,
    sync_type: run.syncType,
    sync_timestamp: run.startedAt,
    status: run.status,
    records_processed: run.records,
    duration_seconds: run.durationSeconds,
    error_message: run.error,
    error_class: run.errorClass,
    sync_metadata: run.metadata,
    service_instance: run.instance,
  };
}

export const syncTypeSchema = z.object({
  sync_type: z.string(),
  last_sync_timestamp: z.date().nullable(),
  last_attempt_timestamp: z.date().nullable(),
  last_sync_status: z.enum(['pending', 'in_progress', 'success', 'error']),
  last_error_message: z.string().nullable(),
  successful_sync_count: z.number().int(),
  failed_sync_count: z.number().int(),
  last_records_processed: z.number(),
  created_at: z.date(),
  updated_at: z.date(),
});

export function shownSyncType(one: SyncStatus) {
  return {
    sync_type: one.syncType,
    last_sync_timestamp: one.lastSyncAt,
    last_attempt_timestamp: one.lastAttemptAt,
    last_sync_status: one.status,
    last_error_message: one.error,
    successful_sync_count: one.successes,
    failed_sync_count: one.failures,
    last_records_processed: one.records,
    created_at: one.createdAt,
    updated_at: one.updatedAt,
  };
}
