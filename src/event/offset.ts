import type { Position } from './position.ts';

/**
 * How far one sink is on one partition: everything up to and including `position` is durable in the sink.
 * `partition` is '' in-process and `topic:number` on Kafka, where `next` is the log offset to read next.
 */
export interface Offset {
  readonly partition: string;
  readonly position: Position;
  readonly next: bigint | null;
}

/** What an offset belongs to. An offset of another cluster or slot means nothing here, and is refused. */
export interface SourceIdentity {
  /** `system_identifier` of IDENTIFY_SYSTEM: unique per initdb, an unsigned 64-bit number as text. */
  readonly systemIdentifier: string;
  readonly timeline: number;
  readonly slot: string;
  readonly database: string;
}
