import { z } from 'zod';

/*
 * Every key, its default, and why that default. The same schema checks files, writes the JSON Schema for editors
 * and types the library's `defineConfig`. Units come last in names.
 */

const name = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/, 'may hold letters, digits, ".", "_" and "-" only');
const slotName = z.string().regex(/^[a-z0-9_]{1,63}$/, 'must be 1 to 63 of a-z, 0-9 and "_" (PostgreSQL allows no others in a slot name)');
const bytes = z.number().int().positive();
const ms = z.number().int().positive();

const source = z.strictObject({
  url: z.string().min(1).meta({ description: 'postgres:// URL of the database; sslmode, sslrootcert and other libpq parameters are honoured.' }),
  slot: slotName.default('waltide').meta({ description: 'Logical replication slot; created when absent.' }),
  publication: z.string().min(1).max(63).default('waltide').meta({ description: 'Publication; created, or altered to match `tables` when Waltide created it.' }),
  tables: z.array(z.string().min(1)).min(1).meta({ description: 'Patterns `schema.table`; `*` and `?` match within a name.' }),
  exclude: z.array(z.string().min(1)).default([]),
  /** Without a key PostgreSQL refuses UPDATE and DELETE on a published table, so such tables are left out unless asked for. */
  keylessTables: z.enum(['exclude', 'insert-only']).default('exclude').meta({ description: 'Tables without a primary key, replica index or REPLICA IDENTITY FULL.' }),
  /** Idle databases must not retain WAL; 10 s costs one small WAL record and keeps lag true. 0 turns it off. */
  heartbeatIntervalMs: z.number().int().nonnegative().default(10_000),
  /** A killed process keeps its slot active until wal_sender_timeout (60 s by default) or a failed send. */
  slotWaitMs: ms.default(60_000),
  /** Creating a slot waits for every older transaction to end. */
  slotCreateWaitMs: ms.default(300_000),
  /** Errors before the first connection are final after this long. */
  connectTimeoutMs: ms.default(20_000),
});

const inProcess = z.strictObject({
  type: z.literal('in-process'),
  /** Decoded but not yet applied: enough for two DuckDB batches, small against 400 MB of memory. */
  inFlightBytesMax: bytes.default(64 * 1024 * 1024),
});

const kafka = z.strictObject({
  type: z.literal('kafka'),
  brokers: z.array(z.string().regex(/^[^\s:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$/, 'must be host:port')).min(1),
  clientId: name.default('waltide'),
  topicPrefix: name.meta({ description: 'Topics are named <topicPrefix>.<schema>.<table>.' }),
  /** One partition keeps a table in total order. */
  partitions: z.number().int().min(1).max(1000).default(1),
  replicationFactor: z.number().int().min(-1).max(32767).default(-1).meta({ description: '-1 takes the broker\'s default.' }),
  cleanupPolicy: z.enum(['delete', 'compact', 'compact,delete']).default('delete'),
  tombstones: z.boolean().default(true).meta({ description: 'A null record after every delete, so that compacted topics forget the key.' }),
  format: z.enum(['json']).default('json'),
  oversize: z.enum(['fail', 'dead-letter']).default('fail').meta({ description: 'A record over maxRecordBytes: stop with an error, or put it aside in <topicPrefix>.dead-letter.' }),
  /** The broker's own default limit (message.max.bytes). */
  maxRecordBytes: bytes.default(1_048_576),
  /** One produce request per partition and batch; big batches are what makes Kafka cheap. */
  batchBytesMax: bytes.default(900_000),
  inFlightBytesMax: bytes.default(32 * 1024 * 1024),
  connectTimeoutMs: ms.default(10_000),
  requestTimeoutMs: ms.default(30_000),
  ssl: z.union([z.boolean(), z.strictObject({ ca: z.string().optional(), cert: z.string().optional(), key: z.string().optional(), rejectUnauthorized: z.boolean().default(true) })]).default(false).meta({ description: 'true, or { ca, cert, key } as paths of PEM files.' }),
  sasl: z.strictObject({ mechanism: z.enum(['plain', 'scram-sha-256', 'scram-sha-512']), username: z.string(), password: z.string() }).optional(),
});

const batch = z.strictObject({
  /** DuckDB loads 10,000 rows at a time at half, 50,000 at nearly its full speed. */
  rowsMax: z.number().int().positive().default(50_000),
  bytesMax: bytes.default(24 * 1024 * 1024),
  /** Waiting this long for more costs latency and saves transactions; an idle pipeline applies at once after it. */
  lingerMs: z.number().int().nonnegative().default(10),
});

const duckdb = z.strictObject({
  name,
  type: z.literal('duckdb'),
  path: z.string().min(1).meta({ description: 'The database file; created when absent.' }),
  memoryLimit: z.string().regex(/^\d+(\.\d+)?\s*([KMGT]i?B|B)$/i, 'must be a size such as 512MB').default('256MB'),
  threads: z.number().int().min(1).default(2),
  batch: batch.prefault({}),
});

const endpoint = z.strictObject({
  host: z.string().min(1).default('127.0.0.1'),
  port: z.number().int().min(0).max(65535).default(9464).meta({ description: '0 takes a free port. 9464 is the usual port of Prometheus exporters of this kind.' }),
  enabled: z.boolean().default(true),
});

export const configSchema = z.strictObject({
  source,
  transport: z.discriminatedUnion('type', [inProcess, kafka]).prefault({ type: 'in-process' }),
  sinks: z.array(z.discriminatedUnion('type', [duckdb])).default([]),
  stateDir: z.string().min(1).default('.waltide').meta({ description: 'Where a running process leaves its control address; relative to the config file.' }),
  metrics: endpoint.prefault({}),
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal']).default('info'), format: z.enum(['json', 'pretty']).optional() }).prefault({}),
  /** Draining in-flight batches on SIGTERM; Kubernetes kills after 30 s. */
  shutdownTimeoutMs: ms.default(20_000),
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
