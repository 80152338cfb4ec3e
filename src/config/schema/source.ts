import { z } from 'zod';
import { hostsFault } from '../hosts.ts';
import { about, bytes, ms, slotName } from './common.ts';
import { protect } from './protect.ts';
import { transforms } from './transforms.ts';

const postgresUrl = z
  .string()
  .min(1)
  .regex(/^postgres(ql)?:\/\//, 'must be a URL such as postgres://user:password@host:5432/database')
  .superRefine((url, context) => {
    // Without the scheme this is another schema's fault; said twice it would only confuse.
    const fault = /^postgres(ql)?:\/\//.test(url) ? hostsFault(url) : null;
    if (fault !== null) context.addIssue({ code: 'custom', message: fault });
  });

const share = z.number().gt(0).max(1);
const walBudget = z.strictObject({
  /** A slot that nobody reads fills the disk of the source. What that disk can spare, only its owner knows. */
  bytes: bytes
    .optional()
    .meta(about('Most WAL the source may keep for the slot; max_slot_wal_keep_size counts too, the smaller wins.')),
  warnAt: share.default(0.6).meta(about('Share of the budget from which the level is warning; notice at half of it.')),
  criticalAt: share.default(0.85).meta(about('Share of the budget from which the level is critical.')),
  /** Nothing but a warning happens unasked: both other ways cost someone something. */
  onBudget: z
    .enum(['alert', 'pause-snapshot', 'drop-and-resnapshot'])
    .default('alert')
    .meta(
      about(
        'alert: log, status, metrics. pause-snapshot: from warning on, running snapshots wait. drop-and-resnapshot: when critical, the slot is dropped and every table filled anew.',
      ),
    ),
  /** WAL grows by gigabytes in minutes, not in seconds. */
  intervalMs: ms.default(5000).meta(about('How often the slot is looked at.')),
});

const retain = z.strictObject({
  bytes: bytes.meta(about('Most WAL that is held back; bounded too by what leaves the WAL budget at ease.')),
  hours: z.number().positive().optional().meta(about('Longest that WAL is held back.')),
});

const protocol = z.strictObject({
  version: z
    .number()
    .int()
    .min(1)
    .max(4)
    .optional()
    .meta(about('Version of the replication protocol; default: the newest that the server speaks.')),
  /** See bench/large-transaction.ts for what it gains and costs. */
  streaming: z
    .enum(['auto', 'off', 'on', 'parallel'])
    .default('auto')
    .meta(about('Take large transactions while they are in progress; they are delivered when they commit.')),
  /** It saves time after COMMIT PREPARED, and costs WAL that is read again after a restart. Few applications prepare. */
  twoPhase: z
    .boolean()
    .default(false)
    .meta(about('Take prepared transactions at PREPARE TRANSACTION (15+); they are delivered at COMMIT PREPARED.')),
  /** Reading back from disk costs little, so memory is better left to others. */
  memoryBytesMax: bytes
    .default(32 * 1024 * 1024)
    .meta(about('Memory for transactions in progress; the rest goes to files in stateDir.')),
});

export const source = z.strictObject({
  url: postgresUrl.meta(
    about(
      'postgres:// URL of the database; sslmode, sslrootcert and other libpq parameters are honoured. Several hosts, a:5432,b:5432, are tried in turn; target_session_attrs=read-write takes the one that is the primary.',
    ),
  ),
  primaryUrl: postgresUrl
    .optional()
    .meta(
      about(
        'URL of the primary, where `url` is a standby of it (PostgreSQL 16 and later): the slot, the stream and the first copy are the standby’s; the control schema, the publication, heartbeats and later snapshots go to the primary.',
      ),
    ),
  /** It needs settings on primary and standby that only their owner can make; `waltide doctor` says which. */
  failover: z
    .boolean()
    .default(false)
    .meta(
      about(
        'Make the slot a failover slot (PostgreSQL 17 and later), which standbys keep in step, so that it survives a promotion.',
      ),
    ),
  slot: slotName.default('waltide').meta(about('Logical replication slot; created when absent.')),
  publication: z
    .string()
    .min(1)
    .max(63)
    .default('waltide')
    .meta(about('Publication; created, or altered to match `tables` when Waltide created it.')),
  tables: z.array(z.string().min(1)).min(1).meta(about('Patterns `schema.table`; `*` and `?` match within a name.')),
  exclude: z.array(z.string().min(1)).default([]).meta(about('Patterns of tables to leave out of `tables`.')),
  /** Whoever configures a slot wants what it keeps. */
  follow: z
    .boolean()
    .default(true)
    .meta(
      about(
        'false: `waltide run` copies existing rows, and leaves changes in the slot, as it does snapshots; `waltide run --until-caught-up` still takes them in.',
      ),
    ),
  /** Without a key PostgreSQL refuses UPDATE and DELETE on a published table, so such tables are left out unless asked for. */
  keylessTables: z
    .enum(['exclude', 'insert-only'])
    .default('exclude')
    .meta(about('Tables without a primary key, replica index or REPLICA IDENTITY FULL.')),
  protocol: protocol.prefault({}).meta(about('How transactions come from the server.')),
  /** Idle databases must not retain WAL; 10 s costs one small WAL record and keeps lag true. */
  heartbeatIntervalMs: z
    .number()
    .int()
    .nonnegative()
    .default(10_000)
    .meta(
      about('How often a small logical message is written to the WAL, so that an idle slot moves on; 0 turns it off.'),
    ),
  /** A killed process keeps its slot active until wal_sender_timeout (60 s by default) or a failed send. */
  slotWaitMs: ms
    .default(60_000)
    .meta(about('How long to wait for a slot that another process is using, or copies existing rows for.')),
  /** One long report can hold it up for minutes; longer than this, someone should know. */
  slotCreateWaitMs: ms
    .default(300_000)
    .meta(about('How long creating the slot may wait for older transactions to end.')),
  /** Long enough for a cold start of a hosted database, short enough that a first error is final within 30 s. */
  connectTimeoutMs: ms
    .default(20_000)
    .meta(about('How long one attempt to connect may take; errors before the first connection are final.')),
  walBudget: walBudget.prefault({}).meta(about('How much WAL the source may keep for the slot, and what then.')),
  /** Nothing is held back unasked: it costs the source disk. */
  retain: retain
    .optional()
    .meta(about('In-process: WAL that the slot keeps although it is applied, so that `waltide replay` can go back.')),
  /** What is confidential, only its owner knows. */
  protect: protect.optional().meta(about('Columns that are masked before anything leaves the source.')),
  transforms,
});
