import type { Config } from '../config/schema.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { Applier } from './applier.ts';
import type { Capture } from './capture.ts';
import { LagClock } from './lag.ts';
import type { StageLag, TableStatus } from './status.ts';

/** A source, or a capture in another process, that has said nothing for so long may have committed what nobody here knows of. */
const SILENCE_MIN_MS = 30_000;

/** What a process without a capture knows of it: the records that say how far it is. */
interface Heard {
  readonly clock: LagClock;
  lsn: Lsn;
  atMs: number;
}

/** How far behind the source each stage is, as of now: one for each report. */
export class Lags {
  readonly #heartbeatMs: number;
  readonly #heard = new Map<string, Heard>();

  constructor(config: Config) {
    this.#heartbeatMs = config.source.heartbeatIntervalMs;
  }

  /** The sink may have come further, or more may have been published for it. */
  advanced({ sink: { name }, subscription }: Applier, capture: Capture | null): void {
    const now = Date.now();
    if (capture) {
      capture.beats.advanced(name, () => subscription.appliedLsn(), now);
      return;
    }
    const lsn = subscription.publishedLsn();
    const heard = this.#heard.get(name) ?? { clock: new LagClock(), lsn: 0n, atMs: now };
    this.#heard.set(name, heard);
    if (lsn === heard.lsn) return;
    heard.clock.note(lsn, now);
    Object.assign(heard, { lsn, atMs: now });
  }

  /** Of what the source has committed before `lsn`. */
  ofCapture(capture: Capture, lsn: Lsn, now: number): StageLag {
    const lastMessageAt = capture.source?.status.lastMessageAt ?? 0;
    const commits = capture.published.lag.lagSeconds(lsn, now);
    const known = Math.max(commits, capture.beats.lagSeconds(lsn, now));
    // Before anything was heard, what older processes have noted may tell that it is behind, and never that it is not.
    const lagSeconds = lastMessageAt > 0 ? this.#unlessSilent(known, lastMessageAt, now) : known > 0 ? known : null;
    return { lsn: formatLsn(lsn), lagBytes: distance(capture.serverLsn, lsn), lagSeconds };
  }

  ofSink(applier: Applier, capture: Capture | null, lsn: Lsn, now: number): StageLag {
    if (capture) return this.ofCapture(capture, lsn, now);
    const { sink, subscription, loop } = applier;
    const published = subscription.publishedLsn();
    const lagBytes = distance(published, lsn);
    const heard = this.#heard.get(sink.name);
    if (!heard) return { lsn: formatLsn(lsn), lagBytes, lagSeconds: null };
    let known = heard.clock.lagSeconds(lsn, now);
    // What lay in the log before this process began, nobody has seen come.
    if (lagBytes > 0)
      for (const { committedAtMs } of loop.measures.backlog.values())
        known = Math.max(known, (now - committedAtMs) / 1000);
    return { lsn: formatLsn(lsn), lagBytes, lagSeconds: this.#unlessSilent(known, heard.atMs, now) };
  }

  /** What has not even come may hold changes of every table. */
  ofTables(applier: Applier, delivered: StageLag, end: Lsn, now: number): TableStatus[] {
    const { followed, stopped } = applier.loop.status;
    const { tables, backlog } = applier.loop.measures;
    const counted = new Map(tables.map((table) => [table.name, table]));
    const aside = new Set(stopped.map(({ schema, table }) => `${schema}.${table}`));
    const names = new Set([...counted.keys(), ...backlog.keys()]);
    for (const { schema, table } of followed ?? []) names.add(`${schema}.${table}`);
    return [...names].map((name) => {
      const { events = 0, committedAtMs = null } = counted.get(name) ?? {};
      const oldest = backlog.get(name);
      const waiting = oldest ? Math.max(0, (now - oldest.committedAtMs) / 1000) : 0;
      const { lagBytes, lagSeconds } = delivered;
      return {
        name,
        events,
        lagBytes: aside.has(name) ? null : Math.max(lagBytes, oldest ? distance(end, oldest.commitLsn) : 0),
        lagSeconds: aside.has(name) || lagSeconds === null ? null : Math.max(lagSeconds, waiting),
        lastCommitAt: committedAtMs === null ? null : new Date(committedAtMs).toISOString(),
      };
    });
  }

  #unlessSilent(known: number, heardAtMs: number, now: number): number {
    const silentMs = now - heardAtMs;
    return silentMs > Math.max(this.#heartbeatMs * 2, SILENCE_MIN_MS) ? Math.max(known, silentMs / 1000) : known;
  }
}

export function distance(to: Lsn, from: Lsn): number {
  return to > from ? Number(to - from) : 0;
}
