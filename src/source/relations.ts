import type pg from 'pg';
import type { Relation } from '../event/relation.ts';
import type { Log } from '../log.ts';
import { keyColumns, type TypeCatalog } from '../postgres/catalog.ts';
import type { CopiedTable } from '../postgres/control.ts';
import type { RelationMessage } from './pgoutput.ts';

/**
 * The relation cache: from a Relation message to what it means. A table that is the same as before keeps its object,
 * since encoders and sinks remember what they worked out by it.
 */
export class RelationCache {
  readonly #catalog: pg.Client;
  readonly #types: TypeCatalog;
  readonly #copied: ReadonlyMap<number, CopiedTable> | null;
  readonly #log: Log;
  readonly #relations = new Map<number, Relation | null>();
  /** Names of tables left out that nobody was told of yet. */
  readonly #leftOut = new Map<number, string>();

  /** `copied`: the tables whose rows the first copy delivered; null takes every table that comes. */
  constructor(catalog: pg.Client, types: TypeCatalog, copied: readonly CopiedTable[] | null, log: Log) {
    this.#catalog = catalog;
    this.#types = types;
    this.#copied = copied && new Map(copied.map((table) => [table.oid, table]));
    this.#log = log;
  }

  /** Null for a table that this pipeline leaves out; undefined where the server has not described it. Asked per change. */
  get(oid: number): Relation | null | undefined {
    const relation = this.#relations.get(oid);
    if (relation === null) this.#warnLeftOut(oid);
    return relation;
  }

  /** Only once a change comes: partitions are described too, though their changes come under the root's name. */
  #warnLeftOut(oid: number): void {
    const table = this.#leftOut.get(oid);
    if (table === undefined) return;
    this.#leftOut.delete(oid);
    this.#log.warn(
      { table },
      'table is published but its rows were never copied: its changes are left out; `waltide run --recopy` takes it in',
    );
  }

  /** Takes in a Relation message. Resolves once types and key are known, which may need a look at the catalog. */
  async describe(message: RelationMessage): Promise<void> {
    const before = this.#relations.get(message.oid);
    const target = this.#target(message);
    if (!target) {
      this.#relations.set(message.oid, null);
      return;
    }
    await this.#types.resolve(message.columns.map((column) => column.typeOid));
    const columns = message.columns.map((column) => ({
      name: column.name,
      type: this.#types.type(column.typeOid),
      modifier: column.modifier,
    }));
    const relation: Relation = {
      oid: message.oid,
      schema: target.schema,
      table: target.table,
      replicaIdentity: message.replicaIdentity,
      columns,
      key: await this.#key(message),
    };
    this.#relations.set(message.oid, before && sameRelation(before, relation) ? before : relation);
  }

  /** Under FULL every column is flagged, and under NOTHING none: there the primary key is looked up. */
  async #key(message: RelationMessage): Promise<number[]> {
    if (message.replicaIdentity === 'd' || message.replicaIdentity === 'i')
      return message.columns.flatMap((column, index) => (column.isKey ? [index] : []));
    const names = await keyColumns(this.#catalog, message.oid, message.replicaIdentity);
    const key = names.map((name) => message.columns.findIndex((column) => column.name === name));
    return key.includes(-1) ? [] : key.sort((a, b) => a - b);
  }

  /**
   * A table that was renamed after its copy goes on under the name that its rows were copied to: under the new name a
   * sink would start with a part of the rows.
   */
  #target(message: RelationMessage): { schema: string; table: string } | null {
    const name = { schema: message.schema, table: message.table };
    if (!this.#copied) return name;
    const copied = this.#copied.get(message.oid);
    if (!copied) {
      if (!this.#relations.has(message.oid)) this.#leftOut.set(message.oid, `${name.schema}.${name.table}`);
      return null;
    }
    if (copied.schema !== name.schema || copied.table !== name.table)
      this.#log.warn(
        { table: `${copied.schema}.${copied.table}`, renamedTo: `${name.schema}.${name.table}` },
        'table was renamed in the source; sinks keep it under its old name until `waltide run --recopy`',
      );
    return copied;
  }
}

function sameRelation(a: Relation, b: Relation): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
