import type { Config } from '../config/schema.ts';
import type { Letters } from '../dead-letter/dead-letter.ts';
import { DeadLetterStore, type OpenLetters } from '../dead-letter/store.ts';
import { messageOf } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Sink, SinkState } from '../sink/sink.ts';
import type { Applier } from './applier.ts';
import { LetterRetries } from './letter-retries.ts';

/** The dead letters of one session of a pipeline: where they are kept, and what of them is applied again. */
export class PipelineLetters {
  readonly store: DeadLetterStore;
  readonly #log: Log;
  readonly #retries: LetterRetries[] = [];

  constructor(config: Config, log: Log) {
    this.store = new DeadLetterStore(config, log);
    this.#log = log;
  }

  /** For the apply loop of a sink that has just been opened; null where the sink sees to its letters itself. */
  async ofLoop(sink: Sink, { offsets }: SinkState): Promise<Letters | null> {
    if (sink.setsAside) return null;
    const letters = this.store.of(sink.name);
    await letters.takeBack(offsets);
    return letters;
  }

  /** Before the loops begin: what a process that died was to retry is retried before anything newer is applied. */
  async start(appliers: readonly Pick<Applier, 'sink' | 'loop'>[]): Promise<void> {
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
