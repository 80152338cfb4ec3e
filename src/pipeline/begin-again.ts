import type { WaltideError } from '../errors.ts';
import type { SourceIdentity } from '../event/offset.ts';
import type { Sink, SinkState } from '../sink/sink.ts';

/** Why a pipeline closes everything and opens it again, and what is different then. */
export interface BeginAgain {
  /** In words, for the log. */
  readonly reason: string;
  /** With a new slot, from which every table is filled again. */
  readonly recopy?: boolean;
  /** What to end with instead, once everything is closed. */
  readonly failure?: WaltideError;
  /** Called for each sink once it is open and before it goes on; resolves with its state as it is then. */
  readonly onOpen?: (sink: Sink, state: SinkState, identity: SourceIdentity) => Promise<SinkState>;
}
