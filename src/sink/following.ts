import { type ChangeEvent, isAfter, SCHEMA_MESSAGE, snapshotPhase } from '../event/change-event.ts';
import { type Position, START } from '../event/position.ts';
import { type Relation, tableKey } from '../event/relation.ts';
import { readSchemaChange } from '../event/schema-change.ts';
import type { FollowedTable, SinkState, StoppedTable } from './sink.ts';

interface Table {
  readonly schema: string;
  readonly table: string;
  /** 0 where it is not known. */
  readonly oid: number;
  readonly live: boolean;
  readonly filling: string | null;
  /** Why it is not followed; a snapshot that is filling it goes on all the same. */
  readonly stopped: string | null;
}

/** A table that is not followed any more: stopped for a reason, or without one until a snapshot brings it back. */
interface SetAside {
  readonly schema: string;
  readonly table: string;
  readonly oid?: number;
  readonly reason: string | null;
}

function isDrop(event: ChangeEvent): boolean {
  return readSchemaChange(event.message!.content)?.kind === 'dropped';
}

/**
 * Which events are for a sink: those of tables that it holds or is being filled with, and of snapshots addressed to it.
 * A sink that does not remember tables gets everything but stopped tables and what is for others. Pure.
 */
export class Following {
  readonly #sink: string;
  readonly #remembers: boolean;
  #tables = new Map<string, Table>();
  /** As they will be once what was selected is applied; null where nothing changes. */
  #next: Map<string, Table> | null = null;
  /**
   * Snapshots in which a table was set aside: delivered again, their beginning does not take it up. Null: at no position;
   * else up to this one, since a snapshot that begins again after it is what the table waits for.
   */
  readonly #refused = new Map<string, Position | null>();
  /** OIDs of tables that what was selected drops. */
  #dropped: number[] = [];

  constructor(sink: string, state: Pick<SinkState, 'stopped' | 'tables'>) {
    this.#sink = sink;
    this.#remembers = state.tables !== null;
    for (const table of state.tables ?? []) this.#tables.set(tableKey(table), { oid: 0, ...table, stopped: null });
    for (const { schema, table, reason } of state.stopped) {
      const known = this.#tables.get(tableKey({ schema, table }));
      this.#tables.set(tableKey({ schema, table }), {
        schema,
        table,
        oid: known?.oid ?? 0,
        live: false,
        filling: known?.filling ?? null,
        stopped: reason,
      });
    }
  }

  /** Tables that are set aside and that no snapshot is about to bring back. */
  get stopped(): StoppedTable[] {
    return [...this.#tables.values()].flatMap(({ schema, table, stopped, filling }) =>
      stopped === null || filling !== null ? [] : [{ schema, table, reason: stopped }],
    );
  }

  /** What the sink holds by now; null where it does not remember. */
  get tables(): FollowedTable[] | null {
    if (!this.#remembers) return null;
    return [...this.#tables.values()].map(({ stopped: _, ...table }) => table);
  }

  /** The events for the sink, in order. What they change here counts after `applied`. */
  select(events: readonly ChangeEvent[]): readonly ChangeEvent[] {
    this.#next = null;
    this.#dropped = [];
    let selected: ChangeEvent[] | null = null;
    let relation: Relation | null = null;
    let table: Table | undefined;
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!;
      if (event.relation !== relation) {
        relation = event.relation;
        table = relation ? this.#find(relation) : undefined;
      }
      let takes: boolean;
      if (relation === null) takes = true;
      else if (event.op === 'm' && event.message!.prefix === SCHEMA_MESSAGE) {
        takes = this.#remembers ? table !== undefined : table?.stopped == null;
        if (isDrop(event)) {
          table = this.#forget(table);
          this.#dropped.push(relation.oid);
        }
      } else if (event.transaction.snapshot === null) takes = this.#followsChanges(table);
      else {
        takes = this.#followsSnapshot(event, table);
        if (takes && event.op !== 'r') table = this.#turn(event, table);
      }
      if (takes) selected?.push(event);
      else selected ??= events.slice(0, i);
    }
    return selected ?? events;
  }

  /** By OID: a table that was renamed is taken up under its new name at once. Another one of a name is not the one known. */
  #find(relation: Relation): Table | undefined {
    const tables = this.#next ?? this.#tables;
    const { schema, table, oid } = relation;
    const named = tables.get(tableKey(relation));
    if (named && (named.oid === oid || named.oid === 0)) return named;
    const same = oid === 0 ? undefined : [...tables.values()].find((other) => other.oid === oid);
    if (!same) return named;
    const renamed = { ...same, schema, table };
    this.#next ??= new Map(this.#tables);
    this.#next.delete(tableKey(same));
    this.#next.set(tableKey(renamed), renamed);
    return renamed;
  }

  #forget(table: Table | undefined): undefined {
    if (!table) return;
    this.#next ??= new Map(this.#tables);
    this.#next.delete(tableKey(table));
  }

  /** What `select` returned last is in the sink, or in its open transaction. Returns the OIDs of tables that it dropped. */
  applied(): readonly number[] {
    if (this.#next) this.#tables = this.#next;
    this.#next = null;
    return this.#dropped;
  }

  /** The table is set aside. Unless it goes on, the snapshot under way, in `events` or before, does not take it up again. */
  stop(table: SetAside, events: readonly ChangeEvent[], snapshotGoesOn: boolean): void {
    const { schema, table: bare, oid = 0, reason } = table;
    const key = tableKey(table);
    this.#next = null;
    const known = [this.#tables.get(key), ...this.#tables.values()].find(
      (one) => one && (one.oid === oid || tableKey(one) === key),
    );
    const filling = known?.filling ?? null;
    if (known) this.#tables.delete(tableKey(known));
    const stopped = {
      schema,
      table: bare,
      oid,
      live: false,
      filling: snapshotGoesOn ? filling : null,
      stopped: reason,
    };
    this.#tables.set(key, stopped);
    if (snapshotGoesOn) return;
    const until = reason === null ? (events.at(-1)?.position ?? START) : null;
    if (filling !== null) this.#refused.set(`${filling} ${key}`, until);
    for (const { op, relation, transaction } of events) {
      if (op !== 't' || !transaction.snapshot || !relation || tableKey(relation) !== key) continue;
      // Another table may have taken its name, with a snapshot of its own.
      if (oid === 0 || relation.oid === 0 || relation.oid === oid)
        this.#refused.set(`${transaction.snapshot.id} ${key}`, until);
    }
  }

  #followsChanges(table: Table | undefined): boolean {
    if (table?.filling != null) return true;
    if (table?.stopped != null) return false;
    return this.#remembers ? table?.live === true : true;
  }

  #followsSnapshot(event: ChangeEvent, table: Table | undefined): boolean {
    const { id, kind, sinks } = event.transaction.snapshot!;
    if (sinks !== null && !sinks.includes(this.#sink)) return false;
    if (kind === 'partial') return this.#followsChanges(table);
    if (event.op === 't') {
      const refused = this.#refused.get(`${id} ${tableKey(event.relation!)}`);
      return refused === undefined || (refused !== null && isAfter(event, refused));
    }
    if (table?.filling === id) return true;
    return !this.#remembers && table?.stopped == null;
  }

  /** The table after the beginning or end of a snapshot. */
  #turn(event: ChangeEvent, before: Table | undefined): Table | undefined {
    const { schema, table, oid } = event.relation!;
    const { id, kind } = event.transaction.snapshot!;
    const none = { schema, table, oid, live: false, filling: null, stopped: null };
    const base = before && (before.oid === oid || before.oid === 0) ? { ...before, oid } : none;
    const phase = snapshotPhase(event);
    let after: Table | null = null;
    if (event.op === 't' && kind !== 'partial') after = { ...base, filling: id };
    else if (phase === 'completed') after = { ...base, live: true, filling: null, stopped: null };
    else if (phase === 'cancelled') after = { ...base, filling: null };
    if (!after) return before;
    this.#next ??= new Map(this.#tables);
    this.#next.set(tableKey(base), after);
    return after;
  }
}
