import type pg from 'pg';
import type { Lsn } from '../event/lsn.ts';
import type { Relation } from '../event/relation.ts';
import { type SchemaChange, sameDescription } from '../event/schema-change.ts';
import type { Log } from '../log.ts';
import type { CapturedTables } from '../postgres/captured.ts';
import { existingValues, type TypeCatalog } from '../postgres/catalog.ts';
import {
  type AlteredTable,
  changeOf,
  type DdlMessage,
  type DroppedTable,
  droppedChange,
  movedFrom,
  movedRowsChange,
  relationOf,
} from './ddl.ts';
import type { RelationMessage } from './pgoutput-messages.ts';
import type { SchemaHistory } from './schema-history.ts';
import { needsSettledKey, settledKey } from './settled-key.ts';

/** A table that changed its shape, at one point of the stream. */
export interface TableChange {
  readonly relation: Relation;
  readonly change: SchemaChange;
  /** OIDs of the partitions that hold its rows. */
  readonly partitions: readonly number[];
}

export interface RelationCacheOptions {
  readonly catalog: pg.Client;
  readonly types: TypeCatalog;
  readonly slot: string;
  readonly publications: readonly string[];
  /** The tables to let through, which may change at any time; null takes every table that comes. */
  readonly captured: CapturedTables | null;
  readonly log: Log;
  /** Null where nothing is to be recorded. */
  readonly history: SchemaHistory | null;
}

/** The same table with the key that counts for transactions that commit beyond `from`. */
interface Keyed {
  readonly key: readonly number[];
  readonly from: Lsn;
}

/**
 * The relation cache: from a Relation message to what it means. A table that is the same as before keeps its object,
 * since encoders and sinks remember what they worked out by it.
 */
export class RelationCache {
  readonly #catalog: pg.Client;
  readonly #types: TypeCatalog;
  readonly #slot: string;
  readonly #publications: readonly string[];
  readonly #captured: CapturedTables | null;
  readonly #history: SchemaHistory | null;
  readonly #log: Log;
  readonly #relations = new Map<number, Relation | null>();
  /** Of partitioned tables: who holds their rows, as far as the capture trigger has told. */
  readonly #partitions: Map<number, readonly number[]>;
  /** Names of tables left out that nobody was told of yet. */
  readonly #leftOut = new Map<number, string>();
  /** Tables that are left out, should they be captured later: the server does not describe them again for that. */
  readonly #spare = new Map<number, Relation>();
  /** Tables that have no key yet where the stream is. */
  readonly #keyed = new Map<number, Keyed>();
  #version = 0;

  constructor({ catalog, types, slot, publications, captured, log, history }: RelationCacheOptions) {
    this.#catalog = catalog;
    this.#types = types;
    this.#slot = slot;
    this.#publications = publications;
    this.#history = history;
    this.#partitions = new Map(history?.partitions());
    this.#captured = captured;
    this.#log = log;
  }

  /** Null for a table that this pipeline leaves out; undefined where the server has not described it. Asked per change. */
  get(oid: number, commitLsn: Lsn): Relation | null | undefined {
    if (this.#captured && this.#captured.version !== this.#version) this.#chooseAgain(this.#captured);
    if (this.#keyed.size > 0) this.#takeKey(oid, commitLsn);
    const relation = this.#relations.get(oid);
    if (relation === null) this.#warnLeftOut(oid);
    return relation;
  }

  #takeKey(oid: number, commitLsn: Lsn): void {
    const keyed = this.#keyed.get(oid);
    if (!keyed || commitLsn <= keyed.from) return;
    this.#keyed.delete(oid);
    for (const relations of [this.#relations, this.#spare]) {
      const relation = relations.get(oid);
      if (relation) relations.set(oid, { ...relation, key: keyed.key });
    }
  }

  /** Only once a change comes: partitions are described too, though their changes come under the root's name. */
  #warnLeftOut(oid: number): void {
    const table = this.#leftOut.get(oid);
    if (table === undefined) return;
    this.#leftOut.delete(oid);
    this.#log.warn({ table }, 'table is published, but source.tables does not ask for it: its changes are left out');
  }

  /**
   * Takes in a Relation message. Resolves once types and key are known, which may need a look at the catalog, with the
   * relation where it is followed and another than before; else null.
   */
  async describe(message: RelationMessage): Promise<Relation | null> {
    const before = this.#relations.get(message.oid);
    const followed = this.#follows(message);
    await this.#types.resolve(message.columns.map((column) => column.typeOid));
    const columns = message.columns.map((column) => ({
      name: column.name,
      type: this.#types.type(column.typeOid),
      modifier: column.modifier,
    }));
    const described: Relation = {
      oid: message.oid,
      schema: message.schema,
      table: message.table,
      replicaIdentity: message.replicaIdentity,
      columns,
      key: await this.#key(message),
    };
    if (!followed) return this.#leave(described);
    const relation = this.#named(described);
    if (before && sameDescription(before, relation)) return null;
    const complete = { ...relation, columns: await this.#existing(relation, before) };
    this.#relations.set(message.oid, complete);
    return complete;
  }

  #named(relation: Relation): Relation {
    return this.#captured?.named(relation) ?? relation;
  }

  /** The columns, new ones with what the table's rows hold in them; where the capture trigger has not told before. */
  async #existing(relation: Relation, before: Relation | null | undefined): Promise<Relation['columns']> {
    if (!this.#history) return relation.columns;
    const known = before?.columns.map(({ name }) => name) ?? this.#history.columns(relation.oid);
    const fresh = relation.columns.filter(({ name }) => !known?.includes(name));
    if (fresh.length === 0) return relation.columns;
    const found = await existingValues(this.#catalog, relation.oid, fresh);
    return relation.columns.map((column) => {
      const existing = found.get(column.name);
      return existing === undefined ? column : { ...column, existing };
    });
  }

  #leave(relation: Relation): null {
    this.#spare.set(relation.oid, relation);
    this.#relations.set(relation.oid, null);
    return null;
  }

  #chooseAgain(captured: CapturedTables): void {
    this.#version = captured.version;
    for (const [oid, relation] of this.#relations) if (relation && !captured.get(oid)) this.#leave(relation);
    for (const [oid, relation] of this.#spare) {
      if (!captured.get(oid)) continue;
      this.#spare.delete(oid);
      this.#relations.set(oid, captured.named(relation));
    }
  }

  /**
   * Takes in what the capture trigger tells of a command. Resolves with the change of a table that is followed; null
   * where there is nothing to tell the sinks.
   */
  async alter(message: DdlMessage): Promise<TableChange | null> {
    if (message.event === 'failed') {
      this.#log.error(
        { command: message.command, reason: message.error },
        'the capture trigger could not describe what a command changed; copy the tables that it changed again with `waltide snapshot start`',
      );
      return null;
    }
    const before = this.#relations.get(message.oid) ?? null;
    const from = this.#captured?.get(message.oid) ?? before;
    const followed = this.#follows(message);
    this.#keyed.delete(message.oid);
    if (message.event === 'drop') return followed ? this.#drop(message) : this.#dropPartition(message);
    // Also of tables that may be captured later.
    const rows = this.#movedRows(message);
    if (!followed) return this.#spare.has(message.oid) ? this.#leave(await this.#described(message)) : null;
    const relation = this.#named(await this.#described(message));
    if (before && !rows && sameDescription(before, relation) && sameNumbers(before, relation) && isQuiet(message))
      return null;
    this.#relations.set(message.oid, relation);
    const change = changeOf(message, relation, movedFrom(relation, from));
    return { relation, change: rows ? { ...change, rewritten: 'unknown' } : change, partitions: message.partitions };
  }

  #drop(message: DroppedTable): TableChange {
    const relation = this.#relations.get(message.oid) ?? this.#named(shapeless(message.oid, message));
    this.#relations.delete(message.oid);
    this.#partitions.delete(message.oid);
    return { relation, change: droppedChange(message), partitions: [] };
  }

  /** Rows of a partitioned table went with one of its partitions, and the WAL names none of them. */
  #dropPartition(message: DroppedTable): TableChange | null {
    for (const [oid, partitions] of this.#partitions) {
      if (!partitions.includes(message.oid)) continue;
      const left = partitions.filter((partition) => partition !== message.oid);
      this.#partitions.set(oid, left);
      const captured = this.#captured?.get(oid);
      if (!captured) return null;
      const relation = this.#relations.get(oid) ?? this.#named(shapeless(oid, captured));
      return { relation, change: movedRowsChange(message), partitions: left };
    }
    return null;
  }

  /** True where partitions with rows in them came or went. A new one is empty. */
  #movedRows({ oid, partitions, command }: AlteredTable): boolean {
    const before = this.#partitions.get(oid);
    if (partitions.length > 0 || before) this.#partitions.set(oid, partitions);
    if (command === 'CREATE TABLE' || command === 'SETUP' || command === 'ALTER PUBLICATION') return false;
    if (!before) return partitions.length > 0;
    return before.length !== partitions.length || before.some((partition) => !partitions.includes(partition));
  }

  /** Who holds the rows of a partitioned table, as far as anyone has told. */
  partitionsOf(oid: number): readonly number[] | undefined {
    return this.#partitions.get(oid);
  }

  async #described(message: AlteredTable): Promise<Relation> {
    this.#types.learn(message.types);
    const parents = message.types.flatMap(({ elem, base }) => [elem, base].filter((oid) => oid !== 0));
    await this.#types.resolve([...message.columns.map(({ typeOid }) => typeOid), ...parents]);
    return relationOf(message, this.#publications, this.#types);
  }

  /** Under FULL every column is flagged, and under NOTHING none: there the primary key is looked up. */
  async #key({ oid, replicaIdentity, columns }: RelationMessage): Promise<readonly number[]> {
    this.#keyed.delete(oid);
    if (!needsSettledKey(replicaIdentity)) return columns.flatMap((column, index) => (column.isKey ? [index] : []));
    const { names, from } = await settledKey(this.#catalog, oid, this.#slot, this.#toldKey(oid));
    const found = names.map((name) => columns.findIndex((column) => column.name === name));
    const key = found.includes(-1) ? [] : found.sort((a, b) => a - b);
    if (from === null || key.length === 0) return key;
    this.#keyed.set(oid, { key, from });
    return [];
  }

  /** As the capture trigger told last, in the order of the columns; null where it did not. Only it knows their numbers. */
  #toldKey(oid: number): readonly string[] | null {
    const before = this.#relations.get(oid);
    if (!before) return this.#history?.toldKey(oid) ?? null;
    return before.columns[0]?.attnum === undefined ? null : before.key.map((index) => before.columns[index]!.name);
  }

  /** True for a table to let through. It goes on under the name that it has at this point of the stream. */
  #follows({ oid, schema, table }: { readonly oid: number; readonly schema: string; readonly table: string }): boolean {
    if (!this.#captured) return true;
    if (this.#captured.get(oid)) {
      this.#captured.rename(oid, schema, table);
      return true;
    }
    if (!this.#relations.has(oid)) this.#leftOut.set(oid, `${schema}.${table}`);
    return false;
  }
}

/** Of a table that nothing has described in this session: its events tell of the table as a whole. */
function shapeless(oid: number, { schema, table }: { schema: string; table: string }): Relation {
  return { oid, schema, table, replicaIdentity: 'd', columns: [], key: [] };
}

function sameNumbers(a: Relation, b: Relation): boolean {
  return a.columns.every((column, i) => column.attnum === b.columns[i]!.attnum);
}

/** True for a command that left every value as it was. */
function isQuiet({ rewrite, indirect }: AlteredTable): boolean {
  return rewrite === 0 && indirect.length === 0;
}
