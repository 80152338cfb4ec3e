/*
 * The library's public face. Everything a program needs to run pipelines and to write its own sinks; what is not
 * exported here may change without notice.
 */
export { defineConfig, resolveConfig } from './config/load.ts';
export type { Config, ConfigInput } from './config/schema.ts';
export { type ErrorCode, RejectedError, WaltideError } from './errors.ts';
export type { Batch, Delivery } from './event/batch.ts';
export { ChangeEvent, type LogicalMessage, type Op, type Transaction } from './event/change-event.ts';
export { formatLsn, type Lsn, parseLsn } from './event/lsn.ts';
export type { Offset, SourceIdentity } from './event/offset.ts';
export { comparePosition, formatPosition, type Position } from './event/position.ts';
export { type Column, type ColumnType, type Relation, type ReplicaIdentity, relationName } from './event/relation.ts';
export { Row } from './event/row.ts';
export { createLog, type Log, type LogOptions } from './log.ts';
export { Pipeline, type PipelineOptions } from './pipeline/pipeline.ts';
export type { StoppedTableOf } from './pipeline/reporter.ts';
export type { CaptureStatus, PipelineState, PipelineStatus, Role, SinkStatus } from './pipeline/status.ts';
export type { QueryResult, Sink, SinkState, StoppedTable } from './sink/sink.ts';
export type { SnapshotProgress } from './snapshot/snapshot.ts';
