import type { Lsn } from '../event/lsn.ts';
import { LagClock } from './lag.ts';

/** Heartbeats that some sink has not applied; of more, the oldest are forgotten. An hour of them at the usual interval. */
const AWAITED_MAX = 360;

interface Beat {
  readonly lsn: Lsn;
  /** Unix milliseconds of this machine. */
  readonly sentAtMs: number;
}

interface Passed {
  /** Where the last heartbeat that the sink has applied ended. */
  lsn: Lsn;
  roundTripMs: number;
}

/**
 * Commits of our own at known times. What they tell is true where nothing else commits, and where the stream stands still:
 * they go into the WAL by one road, and are waited for at the end of the other.
 */
export class Beats {
  readonly #clock = new LagClock();
  readonly #awaited: Beat[] = [];
  readonly #passed = new Map<string, Passed>();
  #lastLsn: Lsn = 0n;

  /** The WAL of the server reaches at least up to here. */
  get lastLsn(): Lsn {
    return this.#lastLsn;
  }

  sent(lsn: Lsn, sentAtMs: number): void {
    // Two at once may be answered in either order.
    if (lsn <= this.#lastLsn) return;
    this.#lastLsn = lsn;
    this.#clock.note(lsn, sentAtMs);
    this.#awaited.push({ lsn, sentAtMs });
    if (this.#awaited.length > AWAITED_MAX) this.#awaited.shift();
  }

  /** Age in seconds of the oldest heartbeat beyond `lsn`; 0 where there is none. */
  lagSeconds(lsn: Lsn, nowMs: number): number {
    return this.#clock.lagSeconds(lsn, nowMs);
  }

  /** The sink may have come further. `applied` is asked only where a heartbeat is on its way to it. */
  advanced(sink: string, applied: () => Lsn, nowMs: number): void {
    const passed = this.#passed.get(sink) ?? { lsn: 0n, roundTripMs: -1 };
    if (passed.lsn >= this.#lastLsn) return;
    const reached = applied();
    let first: Beat | null = null;
    for (const beat of this.#awaited) {
      if (beat.lsn <= passed.lsn) continue;
      if (beat.lsn > reached) break;
      first ??= beat;
      passed.lsn = beat.lsn;
    }
    // Of several at once, the one that took longest: nothing was applied meanwhile.
    if (first) passed.roundTripMs = Math.max(0, nowMs - first.sentAtMs);
    this.#passed.set(sink, passed);
  }

  /** What the last heartbeat took, or the one on its way has taken until now, in seconds; null before the first. */
  roundTripSeconds(sink: string, nowMs: number): number | null {
    const passed = this.#passed.get(sink);
    const waiting = this.#awaited.find(({ lsn }) => lsn > (passed?.lsn ?? 0n));
    const ms = Math.max(passed?.roundTripMs ?? -1, waiting ? nowMs - waiting.sentAtMs : -1);
    return ms < 0 ? null : ms / 1000;
  }
}
