import { z } from 'zod';
import { hostsFault } from './hosts.ts';

/*
 * Every key, its default, and why that default. The same schema checks files and the environment, names the
 * environment's variables, writes the JSON Schema for editors and types the library's `defineConfig`. Units come
 * last in names. `kind` marks file paths (resolved against the config file) and secrets (masked when printed).
 */

const about = (description: string) => ({ description });
const path = (description: string) => ({ description, kind: 'path' });
const secret = (description: string) => ({ description, kind: 'secret' });

const name = z
  .string()
  .regex(
    /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/,
    'may hold letters, digits, ".", "_" and "-" only, beginning with a letter, a digit or "_"',
  );
const slotName = z
  .string()
  .regex(/^[a-z0-9_]{1,63}$/, 'must be 1 to 63 of a-z, 0-9 and "_" (PostgreSQL allows no others in a slot name)');
const bytes = z.number().int().positive();
const ms = z.number().int().positive();
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

const source = z.strictObject({
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
  slotWaitMs: ms.default(60_000).meta(about('How long to wait for a slot that another process is using.')),
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
});

const snapshot = z.strictObject({
  /** Two keep both ends busy; more would take connections and memory, and the sinks take one batch at a time anyway. */
  workers: z
    .number()
    .int()
    .min(1)
    .max(32)
    .default(2)
    .meta(about('Parallel readers of the first copy, and tables that later snapshots read at once.')),
  /** Each chunk costs a transaction, a watermark and a saved cursor: a few milliseconds. */
  chunkRows: z.number().int().min(1).default(50_000).meta(about('Most rows of one chunk of an incremental snapshot.')),
  /** A few chunks are in memory at once: one that is read, one that waits for its place, one that is applied. */
  chunkBytesMax: bytes
    .default(4 * 1024 * 1024)
    .meta(about('Bytes that a chunk aims at; four times as much is never passed by more than one row.')),
  /** About 100 bytes each. */
  notedKeysMax: z
    .number()
    .int()
    .min(1)
    .default(200_000)
    .meta(about('Keys, changed while a table is read, that are remembered; past it chunks are read again.')),
  /** Nothing is held up unasked. */
  rowsPerSecondMax: z
    .number()
    .int()
    .min(1)
    .optional()
    .meta(about('Most rows a second that an incremental snapshot reads, per table; no limit when left out.')),
  /** One small query of the catalog. */
  tablesIntervalMs: ms
    .default(5000)
    .meta(about('How often to look for tables that came, went, or are published in another way.')),
});

const inProcess = z.strictObject({
  type: z.literal('in-process').meta(about('in-process (nothing but PostgreSQL is needed) or kafka.')),
  /** Bytes of WAL, decoded and not yet applied: one batch being applied and one that fills. The slot keeps the rest. */
  inFlightBytesMax: bytes
    .default(20 * 1024 * 1024)
    .meta(about('Memory for events that are read and not yet applied; reading waits beyond it.')),
});

const ssl = z.strictObject({
  ca: z.string().min(1).optional().meta(path('PEM file of the authorities to trust; default: those of Node.')),
  cert: z.string().min(1).optional().meta(path('PEM file of the client certificate.')),
  key: z.string().min(1).optional().meta(path('PEM file of the client key.')),
  rejectUnauthorized: z.boolean().default(true).meta(about('false accepts any certificate: for tests only.')),
});

const sasl = z.strictObject({
  mechanism: z.enum(['plain', 'scram-sha-256', 'scram-sha-512']).meta(about('How to log in.')),
  username: z.string().min(1).meta(about('Who logs in.')),
  password: z.string().min(1).meta(secret('Their password; best given as ${VARIABLE}.')),
});

const kafka = z.strictObject({
  type: z.literal('kafka').meta(about('in-process (nothing but PostgreSQL is needed) or kafka.')),
  brokers: z
    .array(z.string().regex(/^[^\s:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$/, 'must be host:port'))
    .min(1)
    .meta(about('host:port of some of the brokers; the others are found through them.')),
  clientId: name.default('waltide').meta(about('Name in the logs and quotas of the brokers.')),
  topicPrefix: name.meta(about('Topics are named <topicPrefix>.<schema>.<table>.')),
  /** One partition keeps a table in total order. */
  partitions: z
    .number()
    .int()
    .min(1)
    .max(1000)
    .default(1)
    .meta(about('Of a new topic; one keeps a table in total order.')),
  replicationFactor: z
    .number()
    .int()
    .min(-1)
    .max(32767)
    .default(-1)
    .meta(about("Of a new topic; -1 takes the broker's default.")),
  cleanupPolicy: z.enum(['delete', 'compact', 'compact,delete']).default('delete').meta(about('Of a new topic.')),
  /** For consumers that cannot skip by (lsn, seq). Each Kafka transaction costs round trips, and reading waits for its end. */
  exactlyOnce: z
    .boolean()
    .default(false)
    .meta(
      about('Write in Kafka transactions: a read_committed consumer sees every change exactly once, crashes included.'),
    ),
  /** Two more records per source transaction, which few consumers look at; off by default, as in Debezium. */
  transactions: z
    .strictObject({
      enabled: z
        .boolean()
        .default(false)
        .meta(about('Write where source transactions begin and end to <topicPrefix>.transaction, as Debezium does.')),
    })
    .prefault({})
    .meta(about('What `consistency: transaction` of a sink needs.')),
  tombstones: z
    .boolean()
    .default(true)
    .meta(about('A null record after every delete, so that compacted topics forget the key.')),
  format: z.enum(['json']).default('json').meta(about('How events are written: the Debezium envelope as JSON.')),
  oversize: z
    .enum(['fail', 'dead-letter'])
    .default('fail')
    .meta(about('A record over maxRecordBytes: stop with an error, or put it aside in <topicPrefix>.dead-letter.')),
  /** The broker's own default limit (message.max.bytes). */
  maxRecordBytes: bytes
    .default(1_048_576)
    .meta(about('Largest record to send; not more than message.max.bytes of the broker.')),
  /** One produce request per partition and batch; big batches are what makes Kafka cheap. */
  batchBytesMax: bytes.default(900_000).meta(about('Most bytes in one record batch.')),
  /** Bytes of WAL; records are about three times as long. Enough to fill a gigabit link at 50 ms. */
  inFlightBytesMax: bytes
    .default(12 * 1024 * 1024)
    .meta(about('Memory for events that are read and not yet acknowledged by Kafka; reading waits beyond it.')),
  connectTimeoutMs: ms.default(10_000).meta(about('How long one attempt to connect to a broker may take.')),
  requestTimeoutMs: ms.default(30_000).meta(about('How long a broker may take to answer.')),
  ssl: z.union([z.boolean(), ssl]).default(false).meta(about('true, or { ca, cert, key } as paths of PEM files.')),
  sasl: sasl.optional().meta(about('Log-in; none when left out.')),
});

const batch = z.strictObject({
  /** DuckDB loads 10,000 rows at a time at half, 50,000 at nearly its full speed. */
  rowsMax: z.number().int().positive().default(50_000).meta(about('Most rows applied in one transaction of the sink.')),
  bytesMax: bytes.default(10 * 1024 * 1024).meta(about('Most bytes applied in one transaction of the sink.')),
  /** Waiting this long for more costs latency and saves transactions; an idle pipeline applies at once after it. */
  lingerMs: z
    .number()
    .int()
    .nonnegative()
    .default(10)
    .meta(about('How long to wait for more before a small batch is applied.')),
});

const duckdb = z.strictObject({
  name: name.meta(about('Unique; offsets are saved under it.')),
  type: z.literal('duckdb').meta(about('duckdb: one DuckDB database file.')),
  path: z.string().min(1).meta(path('The database file; created when absent.')),
  /**
   * Keeps the whole process under 400 MB while millions of rows pass; beyond it DuckDB spills to disk. Large random
   * updates of large tables like several times as much.
   */
  memoryLimit: z
    .string()
    .regex(/^\d+(\.\d+)?\s*([KMGTkmgt][iI]?[bB]|[bB])$/, 'must be a size such as 512MB')
    .default('160MB')
    .meta(about('Memory for DuckDB: what it counts, and about as much that it does not.')),
  threads: z.number().int().min(1).default(2).meta(about("DuckDB's threads.")),
  /** Text keeps every value and every row; the type of one column is the smallest of the three losses. */
  onUnrepresentable: z
    .enum(['text', 'dead-letter', 'null'])
    .default('text')
    .meta(
      about(
        "A value that the column's DuckDB type cannot hold: text turns the column to VARCHAR, dead-letter sets the row aside, null stores NULL.",
      ),
    ),
  /** Storing a row takes about eight times its length; twice this is 2 GB. */
  rowBytesMax: bytes
    .max(536_870_912)
    .default(134_217_728)
    .meta(about('Longest row to store, in bytes of its text (two per byte of bytea); a longer one is set aside.')),
  /** Kafka deals with each table by itself, and so goes on with the others where one is slow. In-process they come in order anyway. */
  consistency: z
    .enum(['table', 'transaction'])
    .default('table')
    .meta(
      about(
        'Through Kafka, transaction puts whole source transactions together again: a reader never sees half of one.',
      ),
    ),
  /** A sink that follows is what people expect of a copy; whoever wants to look first has pause-table. */
  schemaChanges: z
    .enum(['evolve', 'pause-table', 'ignore-drops'])
    .default('evolve')
    .meta(
      about(
        'evolve follows the source; ignore-drops keeps columns and tables that it drops; pause-table stops the table.',
      ),
    ),
  /** A table dropped by mistake is worth more than a tidy file. */
  droppedTables: z
    .enum(['keep', 'drop'])
    .default('keep')
    .meta(about('What becomes of the rows of a table that the source drops, under schemaChanges: evolve.')),
  /** DuckDB keeps what is not committed in its file and on spill; deletes take memory, about 20 bytes per row. */
  transactionBytesMax: bytes
    .default(4 * 1024 ** 3)
    .meta(
      about('A source transaction is one transaction here; of one larger than this, readers see parts as they come.'),
    ),
  batch: batch.prefault({}).meta(about('How changes are gathered before they are applied.')),
});

const endpoint = z.strictObject({
  /** Others are let in on purpose, not by default. */
  host: z.string().min(1).default('127.0.0.1').meta(about('Address to listen on; 0.0.0.0 for all.')),
  port: z
    .number()
    .int()
    .min(0)
    .max(65535)
    .default(9464)
    .meta(about('0 takes a free port. 9464 is the usual port of Prometheus exporters of this kind.')),
  enabled: z.boolean().default(true).meta(about('/metrics, /healthz and /readyz.')),
});

const log = z.strictObject({
  level: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal'])
    .default('info')
    .meta(about('Least level that is logged.')),
  format: z.enum(['json', 'pretty']).optional().meta(about('Default: pretty on a terminal, json elsewhere.')),
});

export const configSchema = z.strictObject({
  source: source.meta(about('The PostgreSQL database whose changes are captured.')),
  snapshot: snapshot.prefault({}).meta(about('How existing rows are read, at first and later.')),
  transport: z
    .discriminatedUnion('type', [inProcess, kafka])
    .prefault({ type: 'in-process' })
    .meta(about('What carries events to the sinks.')),
  sinks: z
    .array(z.discriminatedUnion('type', [duckdb]))
    .default([])
    .meta(about('Where changes end up.')),
  stateDir: z.string().min(1).default('.waltide').meta(path('Where a running process leaves its control address.')),
  metrics: endpoint.prefault({}).meta(about('Prometheus metrics and health checks.')),
  log: log.prefault({}).meta(about('What is logged to stderr.')),
  /** Draining in-flight batches on SIGTERM; Kubernetes kills after 30 s. */
  shutdownTimeoutMs: ms.default(20_000).meta(about('How long draining may take after SIGTERM or Ctrl-C.')),
});

/** What a user writes: defaults left out. */
export type ConfigInput = z.input<typeof configSchema>;
/** What the program uses: every default filled in. */
export type Config = z.output<typeof configSchema>;
export type SourceConfig = Config['source'];
export type KafkaConfig = Extract<Config['transport'], { type: 'kafka' }>;
export type InProcessConfig = Extract<Config['transport'], { type: 'in-process' }>;
export type DuckdbSinkConfig = Extract<Config['sinks'][number], { type: 'duckdb' }>;
export type BatchConfig = DuckdbSinkConfig['batch'];
