import type { Config } from '../config/schema.ts';
import { EVERY_SINK, type Letters, type NewLetter } from '../dead-letter/dead-letter.ts';
import { DeadLetterStore, type OpenLetters } from '../dead-letter/store.ts';
import { messageOf } from '../errors.ts';
import { formatPosition } from '../event/position.ts';
import { relationName } from '../event/relation.ts';
import type { Log } from '../log.ts';
import type { Sink, SinkState } from '../sink/sink.ts';
import type { Transport } from '../transport/transport.ts';
import type { Applier } from './applier.ts';
import { LetterRetries } from './letter-retries.ts';

/** A letter as the topic of dead letters has it. Its row may be as long as the record that it came from. */
function letterText(sink: string, { relation, position, op, row, before, after, code, reason }: NewLetter): string {
  const json = (text: string | null): unknown => (text === null ? null : JSON.parse(text));
  return JSON.stringify({
    ...{ sink, table: relationName(relation), position: formatPosition(position), op, row: JSON.parse(row) },
    ...{ before: json(before), after: json(after), code, error: reason },
  });
}

/** The dead letters of one session of a pipeline: where they are kept, and what of them is applied again. */
export class PipelineLetters {
  readonly store: DeadLetterStore;
  readonly #log: Log;
  readonly #retries: LetterRetries[] = [];

  constructor(config: Config, log: Log) {
    this.store = new DeadLetterStore(config, log);
    this.#log = log;
  }

  /** For changes that never come into the log. */
  get ofLog(): Letters {
    return this.store.of(EVERY_SINK);
  }

  /** For the apply loop of a sink that has just been opened; null where the sink sees to its letters itself. */
  async ofLoop(sink: Sink, { offsets }: SinkState): Promise<Letters | null> {
    if (sink.setsAside) return null;
    const letters = this.store.of(sink.name);
    await letters.takeBack(offsets);
    return letters;
  }

  /** Before the loops begin: what a process that died was to retry is retried before anything newer is applied. */
  async start(appliers: readonly Pick<Applier, 'sink' | 'loop'>[], transport: Transport): Promise<void> {
    this.store.onSaved = async (sink, letters) => {
      if (sink === EVERY_SINK) return;
      await Promise.all(letters.map((letter) => transport.putLetter?.(letterText(sink, letter))));
    };
    for (const { sink, loop } of appliers) this.#retries.push(new LetterRetries(this.store, sink, loop, this.#log));
    this.store.onLook = () => {
      for (const retries of this.#retries) retries.look();
    };
    for (const retries of this.#retries)
      await retries.start().catch((error: unknown) => this.#log.warn(`retrying dead letters: ${messageOf(error)}`));
    await this.store.start();
  }

  summary(sink: string): OpenLetters {
    return this.store.summary(sink);
  }

  async close(): Promise<void> {
    this.store.onLook = () => {};
    for (const retries of this.#retries) retries.stop();
    await this.store.close();
  }
}
