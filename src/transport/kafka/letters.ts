import { type Letters as LetterStore, letterOf } from '../../dead-letter/dead-letter.ts';
import { WaltideError } from '../../errors.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import type { EventCodec } from '../../event/codec.ts';
import { formatPosition } from '../../event/position.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import { rowName } from '../../event/row-text.ts';
import type { Cluster } from './cluster.ts';
import { HeaderDecoder } from './consumer/record-decoder.ts';
import type { PartitionLog, SealedBatch } from './partition-log.ts';
import { RecordCursor, readBatches } from './record-reader.ts';

/** What a record that has no place in its topic was to be. */
interface Oversize {
  readonly event: ChangeEvent;
  readonly topic: string;
  readonly key: string | null;
  readonly bytes: number;
}

export interface LettersOptions {
  /** Null where nobody keeps letters but the topic. */
  readonly store: LetterStore | null;
  /**
   * Makes the Kafka transaction of the batch, or else the one being written, wait for a letter, which what it returns
   * appends: resolves once its text is durable in the topic of dead letters.
   */
  readonly reserve: (batch: SealedBatch | null) => (text: string) => Promise<void>;
  readonly codec: Pick<EventCodec, 'readEvent'>;
  /** Descriptions of tables by id. */
  readonly relations: ReadonlyMap<string, Relation>;
}

/** Records that are too large for Kafka: put aside, whole, for every sink to lack them; or the end, as configured. */
export class Letters {
  readonly #cluster: Cluster;
  readonly #options: LettersOptions;
  readonly #headers: HeaderDecoder;
  total = 0;

  constructor(cluster: Cluster, options: LettersOptions) {
    this.#cluster = cluster;
    this.#options = options;
    this.#headers = new HeaderDecoder(options.relations);
  }

  /** A record over our own limit. Resolves once the letter is durable; throws at once where it is to stop us. */
  oversize(event: ChangeEvent, topic: string, key: string | null, bytes: number): Promise<void> {
    return this.#letter({ event, topic, key, bytes }, null);
  }

  /** As `oversize`, where the broker's limit is below ours: the change is read back from the record. */
  refused(log: PartitionLog, batch: SealedBatch): Promise<void> {
    const cursor = new RecordCursor();
    cursor.open(readBatches(batch.bytes.subarray(0, batch.length))[0]!);
    cursor.next();
    const key = cursor.keyEnd < 0 ? null : cursor.bytes.toString('utf8', cursor.keyAt, cursor.keyEnd);
    this.#headers.read(cursor);
    const value = cursor.bytes.subarray(cursor.valueAt, cursor.valueEnd);
    const event = this.#options.codec.readEvent(value, this.#headers.meta());
    return this.#letter({ event, topic: log.topic, key, bytes: batch.length }, batch);
  }

  #letter({ event, topic, key, bytes }: Oversize, batch: SealedBatch | null): Promise<void> {
    const { config, log } = this.#cluster;
    const { relation, op } = event;
    const limit = config.maxRecordBytes;
    const table = relation ? relationName(relation) : 'a logical message';
    const what = `A record of ${table} with key ${key} takes ${bytes} bytes (topic ${topic}, limit ${limit})`;
    const error = new WaltideError(
      'RECORD_TOO_LARGE',
      what,
      "Raise transport.maxRecordBytes and the topic's max.message.bytes, or set transport.oversize to dead-letter.",
    );
    if (config.oversize === 'fail') throw error;
    this.total++;
    const letter = { table, topic, bytes, position: formatPosition(event.position), op };
    log.error({ ...letter, code: error.code }, 'Kafka: record too large, put aside as a dead letter');
    const text = JSON.stringify({ ...letter, key, error: error.message, code: error.code });
    const append = this.#options.reserve(batch);
    return this.#save(event, error).then(() => append(text));
  }

  async #save(event: ChangeEvent, { message, code }: WaltideError): Promise<void> {
    const { relation, before, after } = event;
    const row = after ?? before;
    // Messages are about no row: the topic alone has them.
    if (relation && row) await this.#options.store?.save([letterOf(event, rowName(relation, row), message, code)], []);
  }
}
