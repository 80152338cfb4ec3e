import { reviveLetter } from '../dead-letter/revive.ts';
import type { DeadLetterStore } from '../dead-letter/store.ts';
import { type DeadLetter, endRetries, retryingLetters, supersededLetters } from '../dead-letter/table.ts';
import { messageOf, WaltideError } from '../errors.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import { type Position, START } from '../event/position.ts';
import type { Log } from '../log.ts';
import type { ApplyLoop } from '../sink/apply-loop.ts';
import type { Sink } from '../sink/sink.ts';

/** Letters in one transaction of the sink. The loop goes on between two of them. */
const LETTERS_MAX = 200;

interface Revived {
  readonly letter: DeadLetter;
  readonly event: ChangeEvent;
}

/** Applies letters again that somebody asked for, in the order of their changes, between two batches of the apply loop. */
export class LetterRetries {
  readonly #store: DeadLetterStore;
  readonly #sink: Sink;
  readonly #loop: ApplyLoop;
  readonly #log: Log;
  #busy = false;
  #again = false;
  #stopped = false;

  constructor(store: DeadLetterStore, sink: Sink, loop: ApplyLoop, log: Log) {
    this.#store = store;
    this.#sink = sink;
    this.#loop = loop;
    this.#log = log;
  }

  /** Before the loop begins: what was left to be retried comes first. */
  async start(): Promise<void> {
    if ((await this.#waiting(START)).length > 0) this.#look(true);
  }

  /** There may be something to do. */
  look(): void {
    this.#look(false);
  }

  #look(sure: boolean): void {
    this.#again = true;
    if (this.#busy || this.#stopped) return;
    this.#busy = true;
    void this.#all(sure).finally(() => {
      this.#busy = false;
    });
  }

  stop(): void {
    this.#stopped = true;
  }

  async #all(sure: boolean): Promise<void> {
    let certain = sure;
    while (this.#again && !this.#stopped) {
      this.#again = false;
      try {
        for (let after: Position | null = START; after && !this.#stopped; certain = false)
          after = await this.#some(after, certain);
      } catch (error) {
        // They stay as they are, and are looked at again in a while.
        this.#log.warn({ sink: this.#sink.name }, `retrying dead letters: ${messageOf(error)}`);
      }
    }
  }

  /** Resolves with how far it came; null where there are no more. `certain`: there are some. */
  async #some(after: Position, certain: boolean): Promise<Position | null> {
    if (!certain && (await this.#waiting(after)).length === 0) return null;
    return this.#loop.between(async () => {
      // Only now: a change that came meanwhile may have closed some.
      const letters = this.#stopped ? [] : await this.#waiting(after);
      const revived = await this.#revive(letters);
      if (revived.length > 0) await this.#apply(revived);
      return letters.at(-1)?.position ?? null;
    });
  }

  #waiting(after: Position): Promise<DeadLetter[]> {
    const { source } = this.#store;
    return this.#store.run((client) => retryingLetters(client, source.slot, this.#sink.name, after, LETTERS_MAX));
  }

  async #revive(letters: readonly DeadLetter[]): Promise<Revived[]> {
    const revived: Revived[] = [];
    for (const letter of letters) {
      try {
        const earlier = await this.#store.run((client) => supersededLetters(client, letter.id));
        const event = reviveLetter(letter, earlier, this.#loop.relationOf(letter.tableOid));
        revived.push({ letter, event });
      } catch (error) {
        if (!(error instanceof WaltideError) || error.code !== 'SINK_REJECTED') throw error;
        await this.#refused(letter, error);
      }
    }
    return revived;
  }

  /** All at once; one by one where something of it is refused. */
  async #apply(revived: readonly Revived[]): Promise<void> {
    try {
      await this.#sink.apply({ events: revived.map(({ event }) => event), bytes: 0, offsets: [], complete: true });
    } catch (error) {
      if (!(error instanceof WaltideError) || error.code !== 'SINK_REJECTED') throw error;
      if (revived.length === 1) return this.#refused(revived[0]!.letter, error);
      for (const one of revived) await this.#apply([one]);
      return;
    }
    for (const { letter } of revived) this.#loop.refused?.retried(letter.tableOid, letter.row);
    const applied = await this.#store.run((client) =>
      endRetries(
        client,
        revived.map(({ letter }) => letter.id),
        null,
      ),
    );
    const { name: sink } = this.#sink;
    if (applied > 0) this.#log.info({ sink, letters: applied }, 'dead letters were applied');
    const refused = revived.length - applied;
    if (refused > 0) this.#log.warn({ sink, letters: refused }, 'dead letters were refused again');
  }

  async #refused({ id }: DeadLetter, { code, message, help }: WaltideError): Promise<void> {
    this.#log.warn({ sink: this.#sink.name, letter: id }, `a dead letter was refused again: ${message}`);
    await this.#store.run((client) => endRetries(client, [id], { code, message: `${message}. ${help}` }));
  }
}
