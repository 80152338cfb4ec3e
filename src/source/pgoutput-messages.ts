/*
 * Logical Replication Message Formats, protocol versions 1 to 4 (PostgreSQL manual, chapter "Frontend/Backend
 * Protocol"): what the decoder makes of them. Times are microseconds since 2000-01-01 UTC, offsets point into the
 * bytes that were decoded.
 */

export interface BeginMessage {
  readonly type: 'begin';
  /** LSN of the commit record: what orders transactions. */
  readonly finalLsn: bigint;
  /** Microseconds since 2000-01-01 UTC. */
  readonly commitTime: bigint;
  readonly xid: number;
}
export interface CommitMessage {
  readonly type: 'commit';
  readonly commitLsn: bigint;
  /** First byte after the commit record: what a slot is acknowledged up to. */
  readonly endLsn: bigint;
  readonly commitTime: bigint;
}
export interface OriginMessage {
  readonly type: 'origin';
  readonly commitLsn: bigint;
  readonly name: string;
}
export interface RelationMessage {
  readonly type: 'relation';
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  readonly replicaIdentity: 'd' | 'n' | 'f' | 'i';
  readonly columns: readonly RelationColumn[];
}
export interface RelationColumn {
  readonly name: string;
  /** Part of the replica identity (all columns are, under FULL). */
  readonly isKey: boolean;
  readonly typeOid: number;
  readonly modifier: number;
}
export interface TypeMessage {
  readonly type: 'type';
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
}
export interface InsertMessage {
  readonly type: 'insert';
  readonly relationOid: number;
  /** Offset of the new tuple. */
  readonly newAt: number;
}
export interface UpdateMessage {
  readonly type: 'update';
  readonly relationOid: number;
  /** K = key columns only, O = the whole old row, null = the key did not change. */
  readonly oldKind: 'K' | 'O' | null;
  /** Offset of the old tuple; -1 without one. */
  readonly oldAt: number;
  readonly newAt: number;
}
export interface DeleteMessage {
  readonly type: 'delete';
  readonly relationOid: number;
  readonly oldKind: 'K' | 'O';
  readonly oldAt: number;
}
export interface TruncateMessage {
  readonly type: 'truncate';
  readonly relationOids: readonly number[];
  readonly cascade: boolean;
  readonly restartIdentity: boolean;
}
export interface LogicalDecodingMessage {
  readonly type: 'message';
  readonly transactional: boolean;
  readonly lsn: bigint;
  readonly prefix: string;
  readonly content: Buffer;
}

/** From 2 on. What follows up to Stream Stop belongs to a transaction still in progress, and carries xids. */
export interface StreamStartMessage {
  readonly type: 'streamStart';
  readonly xid: number;
  /** True for the first of the transaction. */
  readonly first: boolean;
}
export interface StreamStopMessage {
  readonly type: 'streamStop';
}
export interface StreamCommitMessage {
  readonly type: 'streamCommit';
  readonly xid: number;
  readonly commitLsn: bigint;
  readonly endLsn: bigint;
  readonly commitTime: bigint;
}
export interface StreamAbortMessage {
  readonly type: 'streamAbort';
  readonly xid: number;
  /** The subtransaction that is void; `xid` itself where the whole is. */
  readonly subxid: number;
  /** From 4 on, under parallel streaming only; null without. */
  readonly abortLsn: bigint | null;
  readonly abortTime: bigint | null;
}

/** From 3 on. What follows up to Prepare is a prepared transaction, whole. */
export interface BeginPrepareMessage {
  readonly type: 'beginPrepare';
  readonly prepareLsn: bigint;
  readonly endLsn: bigint;
  readonly prepareTime: bigint;
  readonly xid: number;
  readonly gid: string;
}
export interface PrepareMessage {
  /** streamPrepare: the end of one that came in streams. */
  readonly type: 'prepare' | 'streamPrepare';
  /** LSN of the PREPARE TRANSACTION record. */
  readonly prepareLsn: bigint;
  readonly endLsn: bigint;
  readonly prepareTime: bigint;
  readonly xid: number;
  readonly gid: string;
}
export interface CommitPreparedMessage {
  readonly type: 'commitPrepared';
  readonly commitLsn: bigint;
  readonly endLsn: bigint;
  readonly commitTime: bigint;
  readonly xid: number;
  readonly gid: string;
}
export interface RollbackPreparedMessage {
  readonly type: 'rollbackPrepared';
  readonly prepareEndLsn: bigint;
  readonly endLsn: bigint;
  readonly prepareTime: bigint;
  readonly rollbackTime: bigint;
  readonly xid: number;
  readonly gid: string;
}

/** Where transactions in progress and prepared ones begin, go on and end: they are put together before they are delivered. */
export type OpenMessage =
  | StreamStartMessage
  | StreamStopMessage
  | StreamCommitMessage
  | StreamAbortMessage
  | BeginPrepareMessage
  | PrepareMessage
  | CommitPreparedMessage
  | RollbackPreparedMessage;

export type PgoutputMessage =
  | BeginMessage
  | CommitMessage
  | OriginMessage
  | RelationMessage
  | TypeMessage
  | InsertMessage
  | UpdateMessage
  | DeleteMessage
  | TruncateMessage
  | LogicalDecodingMessage
  | OpenMessage;
