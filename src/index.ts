/*
 * The library's public face. Everything a program needs to run pipelines and to write its own sinks; what is not
 * exported here may change without notice.
 */
export { defineConfig, resolveConfig } from './config/load.ts';
export type { Config, ConfigInput } from './config/schema.ts';
export type { ModuleDeps } from './control/jobs/module.ts';
export { type ErrorClass, type ErrorCode, RejectedBatchError, RejectedError, WaltideError } from './errors.ts';
export type { Batch, Delivery } from './event/batch.ts';
export { ChangeEvent, type LogicalMessage, type Op, type Transaction } from './event/change-event.ts';
export { formatLsn, type Lsn, parseLsn } from './event/lsn.ts';
export type { Offset, SourceIdentity } from './event/offset.ts';
export { comparePosition, formatPosition, type Position } from './event/position.ts';
export { type Column, type ColumnType, type Relation, type ReplicaIdentity, relationName } from './event/relation.ts';
export { Row } from './event/row.ts';
export { createLog, type Log, type LogOptions } from './log.ts';
export type { StoppedTableOf } from './pipeline/applier.ts';
export type { Arrival, WaitOptions } from './pipeline/arrivals.ts';
export { Pipeline, type PipelineOptions } from './pipeline/pipeline.ts';
export type { CaptureStatus, PipelineState, PipelineStatus, Role, SinkStatus } from './pipeline/status.ts';
export { classify } from './postgres/error-class.ts';
export type { RunStatistics } from './postgres/run-statistics.ts';
export type { LastSync, RunFilter, RunRecord, RunStatus, SyncStatus } from './postgres/runs.ts';
export {
  type Run,
  type RunProgressNote,
  type Tracked,
  type TrackedOptions,
  Tracker,
  type TrackerOptions,
} from './postgres/tracked.ts';
export type { Transform, TransformRow, TransformValue } from './protect/function.ts';
export { unmask } from './protect/mask.ts';
export type { Pull, PullContext, PullPage, PullRow } from './pull/pull.ts';
export type { QueryResult, Sink, SinkState, StoppedTable } from './sink/sink.ts';
export type { SnapshotProgress } from './snapshot/snapshot.ts';
export { openTracer } from './tracing/open.ts';
export type { OpenSpan, Tracer } from './tracing/tracer.ts';
export type {
  Check,
  Difference,
  TableResult,
  ValidationProgress,
  ValidationReport,
  ValidationRequest,
} from './validation/report.ts';
export type { Digest, Digestible, DigestTable, KeyRange, RowDigest } from './validation/validation.ts';
export type { ValidationWatch } from './validation/validator.ts';
export type {
  ConsistencyLevel,
  JsonRow,
  JsonValue,
  Operation,
  OperationState,
  OperationType,
  SinkReached,
  SinkSide,
  WriteRequest,
} from './write/operation.ts';
export { WriteWorker, type WriteWorkerOptions } from './write/worker.ts';
export { Writer, type WriterOptions } from './write/writer.ts';
