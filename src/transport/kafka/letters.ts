import { WaltideError } from '../../errors.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import { formatPosition } from '../../event/position.ts';
import { relationName } from '../../event/relation.ts';
import type { Cluster } from './cluster.ts';
import { HEADER } from './header.ts';
import type { PartitionLog, SealedBatch } from './partition-log.ts';
import { RecordCursor, readBatches } from './record-reader.ts';

interface Letter {
  readonly table: string;
  readonly topic: string;
  readonly key: string | null;
  readonly bytes: number;
  readonly position: string;
  readonly op: string;
}

/** Records that are too large for Kafka: put aside in a topic of their own, or the end, as configured. */
export class Letters {
  readonly #cluster: Cluster;
  readonly #append: (text: string) => Promise<void>;
  total = 0;

  /** `append` resolves once the text is durable in the topic of dead letters. */
  constructor(cluster: Cluster, append: (text: string) => Promise<void>) {
    this.#cluster = cluster;
    this.#append = append;
  }

  /** A record over our own limit. Resolves once the letter is durable; throws at once where it is to stop us. */
  oversize(event: ChangeEvent, topic: string, key: string | null, bytes: number): Promise<void> {
    const table = event.relation ? relationName(event.relation) : 'a logical message';
    return this.#letter({ table, topic, key, bytes, position: formatPosition(event.position), op: event.op });
  }

  /** As `oversize`, where the broker's limit is below ours: all that is known is in the record itself. */
  refused(log: PartitionLog, batch: SealedBatch): Promise<void> {
    const cursor = new RecordCursor();
    cursor.open(readBatches(batch.bytes.subarray(0, batch.length))[0]!);
    cursor.next();
    const text = (at: number, end: number) => (end < 0 ? null : cursor.bytes.toString('utf8', at, end));
    const headers = new Map<string, string>();
    cursor.eachHeader((nameAt, nameEnd, valueAt, valueEnd) =>
      headers.set(text(nameAt, nameEnd)!, text(valueAt, valueEnd)!),
    );
    return this.#letter({
      table: log.topic,
      topic: log.topic,
      key: text(cursor.keyAt, cursor.keyEnd),
      bytes: batch.length,
      position: `${headers.get(HEADER.lsn)}#${headers.get(HEADER.seq)}`,
      op: '',
    });
  }

  #letter(letter: Letter): Promise<void> {
    const { config, log } = this.#cluster;
    const { table, key, bytes, topic } = letter;
    const limit = config.maxRecordBytes;
    const what = `A record of ${table} with key ${key} takes ${bytes} bytes (topic ${topic}, limit ${limit})`;
    const error = new WaltideError(
      'RECORD_TOO_LARGE',
      what,
      "Raise transport.maxRecordBytes and the topic's max.message.bytes, or set transport.oversize to dead-letter.",
    );
    if (config.oversize === 'fail') throw error;
    this.total++;
    log.error({ ...letter, key: undefined, code: error.code }, 'Kafka: record too large, put aside as a dead letter');
    return this.#append(JSON.stringify({ ...letter, error: error.message, code: error.code }));
  }
}
