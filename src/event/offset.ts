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
  /** Counts the promotions of standbys: each begins a timeline of its own, which shares the WAL up to where it branches off. */
  readonly timeline: number;
  /** Where the timelines before it ended, as LSNs in text; left out on the first one. */
  readonly ancestors?: readonly { readonly timeline: number; readonly end: string }[];
  readonly slot: string;
  readonly database: string;
}
