import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import { tableKey } from '../event/relation.ts';
import type { Log } from '../log.ts';
import type { CapturedTable } from '../postgres/captured.ts';
import { readSlotRecord } from '../postgres/control.ts';
import { withSession } from '../postgres/session.ts';
import { listSnapshots, requestSnapshot } from '../postgres/snapshots.ts';
import type { FollowedTable } from '../sink/sink.ts';
import type { Applier } from './applier.ts';
import type { TableKeeper } from './captured-tables.ts';

/** What cannot be asked for yet, since another snapshot of the table is under way, is asked for again. */
const LOOK_INTERVAL_MS = 1000;
const REASON = 'its schema changed in a way that only a new copy can follow';

export interface RefillsOptions {
  readonly config: Config;
  /** Null where no capture runs in this process. */
  readonly keeper: TableKeeper | null;
  readonly appliers: readonly Pick<Applier, 'sink' | 'loop'>[];
  readonly log: Log;
}

/** Asks for snapshots of tables that a sink has set aside until one mends them: once for each time. */
export class Refills {
  readonly #options: RefillsOptions;
  /** Sink and OID of what was asked for and has not begun. */
  readonly #asked = new Set<string>();
  #timer: NodeJS.Timeout | null = null;
  #looking = false;

  private constructor(options: RefillsOptions) {
    this.#options = options;
  }

  /** `filled`: sinks that snapshots have been asked for since they were opened. */
  static start(options: RefillsOptions, filled: readonly { readonly name: string }[]): Refills {
    const refills = new Refills(options);
    for (const [sink, { oid }] of refills.#waiting())
      if (filled.some(({ name }) => name === sink)) refills.#asked.add(`${sink} ${oid}`);
    refills.#timer = setInterval(() => refills.#look(), LOOK_INTERVAL_MS);
    refills.#look();
    return refills;
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }

  /** A sink has just set the table aside. Whatever was asked for before came before that. */
  setAside(sink: string, oid: number): void {
    this.#asked.delete(`${sink} ${oid}`);
    this.#look();
  }

  #look(): void {
    const waiting = this.#waiting();
    const keys = new Set(waiting.map(([sink, { oid }]) => `${sink} ${oid}`));
    for (const key of this.#asked) if (!keys.has(key)) this.#asked.delete(key);
    const fresh = waiting.filter(([sink, { oid }]) => !this.#asked.has(`${sink} ${oid}`));
    if (fresh.length === 0 || this.#timer === null) return;
    const { keeper, log } = this.#options;
    if (keeper) {
      const found = fresh.filter(([, { oid }]) => oid !== undefined && keeper.captured.get(oid));
      if (found.length === 0) return;
      for (const [sink, { oid }] of found) {
        keeper.ask(oid!, [sink], REASON);
        this.#asked.add(`${sink} ${oid}`);
      }
      keeper.look().catch((error: unknown) => log.warn(`asking for a snapshot: ${messageOf(error)}`));
    } else if (!this.#looking) {
      this.#looking = true;
      this.#request(fresh)
        .catch((error: unknown) => log.warn(`asking for a snapshot: ${messageOf(error)}`))
        .finally(() => {
          this.#looking = false;
        });
    }
  }

  #waiting(): [string, FollowedTable][] {
    return this.#options.appliers.flatMap(({ sink, loop }) => {
      const { followed, stopped } = loop.status;
      // These wait for a person.
      const names = new Set(stopped.map(tableKey));
      return (followed ?? []).flatMap((table): [string, FollowedTable][] =>
        table.live || table.filling !== null || names.has(tableKey(table)) ? [] : [[sink.name, table]],
      );
    });
  }

  /** Whoever captures takes the requests up. */
  #request(waiting: readonly [string, FollowedTable][]): Promise<void> {
    const { source } = this.#options.config;
    const { slot } = source;
    return withSession(source, 'control', async (client) => {
      const captured = (await readSlotRecord(client, slot))?.tables ?? [];
      const active = await listSnapshots(client, slot, true);
      for (const [sink, table] of waiting) {
        const known = captured.find(({ oid }) => oid === table.oid);
        const covered = active.some(
          ({ tableOid, sinks, begun }) => tableOid === table.oid && !begun && (sinks?.includes(sink) ?? true),
        );
        if (covered || (known && (await this.#ask(client, slot, known, sink)))) this.#asked.add(`${sink} ${table.oid}`);
      }
    });
  }

  async #ask(client: pg.Client, slot: string, table: CapturedTable, sink: string): Promise<boolean> {
    return (await requestSnapshot(client, { slot, table, sinks: [sink], reason: REASON })) !== null;
  }
}
