import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { messageOf } from '../errors.ts';
import { formatLsn, type Lsn, parseLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { type CapturedTable, CapturedTables } from '../postgres/captured.ts';
import { saveTables } from '../postgres/control.ts';
import { type EnsuredPublication, ensurePublication, type PublicationOptions } from '../postgres/publication.ts';
import { walPosition } from '../postgres/slot.ts';
import { listSnapshots, requestSnapshot, wishSnapshot } from '../postgres/snapshots.ts';
import type { Protection } from '../protect/protection.ts';
import type { TableName } from '../transport/transport.ts';

/** Rows that someone lacks, and a snapshot that could not be asked for yet: another one of the table is under way. */
interface Lack {
  readonly oid: number;
  /** Null for all sinks. */
  readonly sinks: readonly string[] | null;
  readonly reason: string;
  /** The one under way is void, and ends first. */
  readonly replaces: boolean;
}

/** What the configuration asks for. */
export type WantedTables = Pick<PublicationOptions, 'tables' | 'exclude'>;

export interface TableKeeperOptions {
  readonly config: Config;
  readonly log: Log;
  readonly control: <T>(work: (client: pg.Client) => Promise<T>) => Promise<T>;
  /** What rows go through on their way out. */
  readonly protection: () => Protection;
  /** Everything before this LSN has been published and is durable downstream. */
  readonly passed: () => Lsn;
  /** Why a table cannot be captured beside those; null where it can. */
  readonly refusal: (table: TableName, beside: Iterable<TableName>) => string | null;
}

/** Decides which tables are captured, now and as tables, publication and configuration change, and asks for the rows of new ones. */
export class TableKeeper {
  readonly captured = new CapturedTables();
  readonly #config: Config;
  readonly #log: Log;
  readonly #control: TableKeeperOptions['control'];
  readonly #passed: () => Lsn;
  readonly #protection: () => Protection;
  readonly #refusal: TableKeeperOptions['refusal'];
  #wanted: PublicationOptions;
  #lacks: Lack[] = [];
  readonly #told = new Set<string>();
  /** Version of `captured` that is recorded. */
  #saved = 0;

  constructor({ config, log, control, passed, protection, refusal }: TableKeeperOptions) {
    this.#config = config;
    this.#log = log;
    this.#control = control;
    this.#passed = passed;
    this.#protection = protection;
    this.#refusal = refusal;
    this.#wanted = config.source;
  }

  /** When a snapshot was last asked for, by `performance.now`. */
  requestedAt = 0;

  /** True where nothing waits to be asked for. */
  get settled(): boolean {
    return this.#lacks.length === 0;
  }

  /** The configuration was edited: from the next look on these patterns count. */
  want(options: WantedTables): void {
    this.#wanted = { ...this.#wanted, ...options };
  }

  /** Aligns the publication, and with it what is captured; `recorded` is what was captured when the last process ended. */
  async choose(client: pg.Client, recorded: readonly CapturedTable[] | null): Promise<EnsuredPublication> {
    const publication = await ensurePublication(
      client,
      this.#wanted,
      (fields, message) => this.#tell(fields, message),
      recorded !== null,
    );
    for (const table of recorded ?? []) this.captured.put(table);
    await this.#leave(client, publication);
    const known = new Set(this.captured.values().map(({ oid }) => oid));
    this.#follow(publication, recorded === null);
    await this.#protect(client, publication, known);
    for (const { name, why } of publication.left) this.#tell({ table: name }, `table is left out: ${why}`);
    for (const { schema, table } of publication.missing)
      this.#tell(
        { table: `${schema}.${table}` },
        'table matches, but the publication was not made by Waltide and does not carry it',
      );
    return publication;
  }

  /** Before the stream begins: records what is captured, and asks for rows that nobody is about to bring. */
  async begin(client: pg.Client): Promise<void> {
    const active = new Set((await listSnapshots(client, this.#slot, true)).map(({ tableOid }) => tableOid));
    const covered = (oid: number): boolean => this.captured.get(oid)?.filled === true || active.has(oid);
    // The first copy, or the process before, may have seen to it.
    this.#lacks = this.#lacks.filter(({ oid, sinks, replaces }) => replaces || sinks !== null || !covered(oid));
    for (const { oid, leftLsn } of this.captured.values())
      if (leftLsn === null && !covered(oid)) this.ask(oid, null, 'the first copy was not finished');
    await saveTables(client, this.#slot, this.captured.values());
    await this.#request(client);
  }

  /** No table has been filled yet: all of them are about to be. */
  empty(): void {
    for (const table of this.captured.values()) this.captured.put({ ...table, filled: false });
  }

  /** A snapshot of the table for these sinks, as soon as no other one is under way. */
  ask(oid: number, sinks: readonly string[] | null, reason: string, replaces = false): void {
    if (this.#lacks.some((lack) => lack.oid === oid && (lack.sinks === null || lack.sinks.join() === sinks?.join())))
      return;
    this.#lacks.push({ oid, sinks, reason, replaces });
  }

  /** Every row of the table is durable downstream, for all sinks. */
  async filled(oid: number): Promise<void> {
    const table = this.captured.get(oid);
    if (!table || table.filled) return;
    this.captured.put({ ...table, filled: true });
    await this.#control((client) => saveTables(client, this.#slot, this.captured.values()));
  }

  /** Looks again and again, until `signal` aborts. What fails is told, and tried at the next look. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(this.#config.snapshot.tablesIntervalMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      await this.look().catch((error: unknown) => {
        if (!signal.aborted) this.#log.warn(`looking for tables: ${messageOf(error)}`);
      });
    }
  }

  async look(): Promise<void> {
    await this.#control(async (client) => {
      await this.choose(client, []);
      // The stream renames tables, too.
      if (this.captured.version !== this.#saved) {
        this.#saved = this.captured.version;
        await saveTables(client, this.#slot, this.captured.values());
      }
      await this.#request(client);
    });
  }

  get #slot(): string {
    return this.#config.source.slot;
  }

  /** Tables that are not published any more go once what was committed before has passed. */
  async #leave(client: pg.Client, { tables, unasked }: EnsuredPublication): Promise<void> {
    const published = new Set(tables.map(({ oid }) => oid));
    for (const captured of this.captured.values()) {
      const { oid, schema, table, leftLsn } = captured;
      if (published.has(oid)) continue;
      this.#lacks = this.#lacks.filter((lack) => lack.oid !== oid);
      if (leftLsn === null)
        this.#log.warn(
          { table: `${schema}.${table}` },
          'table is not captured any more; sinks keep its rows as they are',
        );
      if (unasked.has(oid) || (leftLsn !== null && parseLsn(leftLsn) <= this.#passed())) this.captured.remove(oid);
      else if (leftLsn === null)
        this.captured.put({ ...captured, leftLsn: formatLsn((await walPosition(client)).inserted) });
    }
  }

  /** What is published of what was asked for is captured. */
  #follow({ tables }: EnsuredPublication, first: boolean): void {
    for (const { oid, schema, table, membership } of tables) {
      const name = `${schema}.${table}`;
      const before = this.captured.get(oid);
      if (before?.membership === membership && before.leftLsn === null) continue;
      // Of the first set-up the transport refuses all, before anything is made.
      const refusal = before || first ? null : this.#refusal({ schema, table }, this.captured.values());
      if (refusal !== null) {
        this.#tell({ table: name }, `table is left out: ${refusal}`);
        continue;
      }
      const taken = this.captured
        .values()
        .find((one) => one.oid !== oid && one.leftLsn === null && one.schema === schema && one.table === table);
      if (!before && taken) {
        this.#tell(
          { table: name },
          'table is left out: sinks know another table, which was renamed since, by this name',
        );
        continue;
      }
      if (before?.leftLsn === null && before.membership === null) this.captured.put({ ...before, membership });
      else if (before) {
        this.#log.warn(
          { table: name },
          'the table was taken out of the publication or published otherwise: it is filled again',
        );
        this.captured.put({ ...before, membership, leftLsn: null, filled: false });
        this.ask(oid, null, 'the publication was altered', true);
      } else {
        this.captured.put({ oid, schema, table, membership, leftLsn: null, filled: false });
        this.ask(oid, null, 'a new table');
      }
    }
  }

  /** How tables leave the source is recorded: rows that have left otherwise are void. `known`: tables of before. */
  async #protect(client: pg.Client, { tables }: EnsuredPublication, known: ReadonlySet<number>): Promise<void> {
    const protection = this.#protection();
    const published = tables.filter(({ oid }) => {
      const captured = this.captured.get(oid);
      return captured && (!protection.idle || captured.leaving);
    });
    if (published.length === 0) return;
    const columns = await protection.learn(client, published, (oid) => this.captured.get(oid));
    for (const { oid } of published) {
      const { leaving: before, ...rest } = this.captured.get(oid)!;
      const now = columns.get(oid)!;
      const leaving = protection.idle ? undefined : now.leaving;
      if (JSON.stringify(leaving) === JSON.stringify(before)) continue;
      const changed = known.has(oid) && now.changedSince(before);
      this.captured.put({ ...rest, ...(leaving ? { leaving } : {}), ...(changed ? { filled: false } : {}) });
      if (!changed) continue;
      this.#log.warn(
        { table: `${rest.schema}.${rest.table}` },
        'source.protect means another mask for the table: it is filled again',
      );
      this.ask(oid, null, 'source.protect was changed', true);
    }
  }

  /** Those that cannot be asked for yet stay for the next time. Snapshots of tables that are captured no more end. */
  async #request(client: pg.Client): Promise<void> {
    const active = await listSnapshots(client, this.#slot, true);
    const replaced = new Set(this.#lacks.filter(({ replaces }) => replaces).map(({ oid }) => oid));
    for (const { id, tableOid } of active)
      if (!this.captured.get(tableOid) || replaced.has(tableOid)) await wishSnapshot(client, id, 'cancel');
    const left: Lack[] = [];
    for (const lack of this.#lacks) {
      const table = this.captured.get(lack.oid);
      if (!table) continue;
      const { sinks, reason } = lack;
      const id = await requestSnapshot(client, { slot: this.#slot, table, sinks, reason });
      this.requestedAt = performance.now();
      if (id)
        this.#log.info(
          { table: `${table.schema}.${table.table}`, snapshot: id, sinks },
          `snapshot asked for: ${reason}`,
        );
      else left.push(lack);
    }
    this.#lacks = left;
  }

  /** A look every few seconds must not say the same every few seconds. */
  #tell(fields: object, message: string): void {
    const text = JSON.stringify([fields, message]);
    if (this.#told.has(text)) return;
    this.#told.add(text);
    this.#log.warn(fields, message);
  }
}
