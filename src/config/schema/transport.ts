import { z } from 'zod';
import { about, bytes, ms, name, path, secret } from './common.ts';

const inProcess = z.strictObject({
  type: z.literal('in-process').meta(about('in-process (nothing but PostgreSQL is needed) or kafka.')),
  /** Bytes of WAL, decoded and not yet applied: one batch being applied and one that fills. The slot keeps the rest. */
  inFlightBytesMax: bytes
    .default(16 * 1024 * 1024)
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

export const transport = z.discriminatedUnion('type', [inProcess, kafka]);
