import { setTimeout as sleep } from 'node:timers/promises';
import { WaltideError } from '../../../errors.ts';
import type { EventCodec } from '../../../event/codec.ts';
import type { Relation } from '../../../event/relation.ts';
import { decodeSchema } from '../schema.ts';
import type { Tail } from '../tail.ts';
import type { Collected, PartitionReader, Stop } from './partition-reader.ts';
import { HeaderDecoder } from './record-decoder.ts';

/** The schema topic is written before the first record that refers to it, but by another broker perhaps. */
const RELATION_WAIT_MS = 10_000;

/** Decodes what readers have fetched, and knows the tables that their records refer to. */
export class Decoding {
  readonly #schemas: Tail;
  readonly #relations = new Map<string, Relation>();
  readonly #headers = new HeaderDecoder(this.#relations);
  readonly #onTopic: (topic: string) => void;
  readonly #codecOf: (topic: string) => Pick<EventCodec, 'readEvent'>;

  constructor(
    schemas: Tail,
    onTopic: (topic: string) => void,
    codecOf: (topic: string) => Pick<EventCodec, 'readEvent'>,
  ) {
    this.#schemas = schemas;
    this.#onTopic = onTopic;
    this.#codecOf = codecOf;
  }

  /** Reads on in the schema topic. */
  async learn(): Promise<void> {
    for (const { value } of await this.#schemas.readToEnd()) {
      const record = decodeSchema(value);
      if (!record) continue;
      this.#relations.set(record.id, record.relation);
      this.#onTopic(record.topic);
    }
  }

  /** As PartitionReader.decode, with tables looked up where they are not known yet. Throws PROTOCOL where they stay so. */
  async decode(reader: PartitionReader, into: Collected): Promise<Exclude<Stop, 'relation'>> {
    const deadline = performance.now() + RELATION_WAIT_MS;
    for (;;) {
      const stop = reader.decode(into, this.#headers, this.#codecOf(reader.topic));
      if (stop !== 'relation') return stop;
      await this.learn();
      const { relationId } = this.#headers;
      if (this.#relations.has(relationId)) continue;
      if (performance.now() > deadline) throw unknownRelation(reader.key, relationId);
      await sleep(100);
    }
  }
}

function unknownRelation(partition: string, id: string): WaltideError {
  return new WaltideError(
    'PROTOCOL',
    `${partition} refers to the table description ${id}, which is not in the schema topic`,
    'The schema topic was deleted, or its cleanup.policy is not compact; copy everything again with `waltide run --recopy`.',
  );
}
