import type { Relation } from '../event/relation.ts';

/** A column that does not leave the source as it is there. */
export interface TreatedColumn {
  readonly attnum: number;
  /** The name by which the configuration meant it first: a rename in the source does not take it out of that. */
  readonly name: string;
  /** Tells apart what is done with it. */
  readonly treatment: string;
}

/** How rows of a table leave the source. Where this is another, rows that have left are not what they would be now. */
export interface Leaving {
  readonly columns: readonly TreatedColumn[];
  /** The highest number of a column so far: a higher one is of a column that came later. */
  readonly attnumMax: number;
  /** Tells apart what is done with rows as a whole. */
  readonly rows: string;
}

/** A table whose changes are captured. */
export interface CapturedTable {
  readonly oid: number;
  /** Its name where the stream is by now, which the source may have left behind. */
  readonly schema: string;
  readonly table: string;
  /** The name that it was first captured by, where that was another. */
  readonly home?: { readonly schema: string; readonly table: string };
  /** True once a snapshot of it was completed for all sinks; before, they do not have its rows. */
  readonly filled: boolean;
  /**
   * By what it is published, as PostgreSQL's own ids: another value means that it was taken out of the publication and put
   * back, or published otherwise, and that changes between may be missing. Null where that was not recorded.
   */
  readonly membership: string | null;
  /** Absent where it leaves as it is. */
  readonly leaving?: Leaving;
  /**
   * It is not published any more, and was not at this LSN: what was committed before still comes. Null for all others.
   */
  readonly leftLsn: string | null;
}

/** The tables captured by now: one set for who decides it and for who reads the stream by it. */
export class CapturedTables {
  readonly #tables = new Map<number, CapturedTable>();
  /** Grows with every change, so that who remembers something by it can tell. */
  version = 0;

  get(oid: number): CapturedTable | undefined {
    return this.#tables.get(oid);
  }

  values(): CapturedTable[] {
    return [...this.#tables.values()];
  }

  /** The stream has come to where the table is called so. */
  rename(oid: number, schema: string, table: string): void {
    const before = this.#tables.get(oid);
    if (!before || (before.schema === schema && before.table === table)) return;
    const { home: first, ...rest } = before;
    const home = first ?? { schema: before.schema, table: before.table };
    const back = home.schema === schema && home.table === table;
    this.put({ ...rest, schema, table, ...(back ? {} : { home }) });
  }

  /** The relation under the names by which the stream knows it. The same object where it has them. */
  named(relation: Relation): Relation {
    const known = this.#tables.get(relation.oid);
    if (
      !known ||
      (known.schema === relation.schema && known.table === relation.table && !known.home === !relation.home)
    )
      return relation;
    const { home: _, ...rest } = relation;
    const { schema, table, home } = known;
    return { ...rest, schema, table, ...(home ? { home } : {}) };
  }

  /** Adds it, or puts it in the place of the one with its OID. */
  put(table: CapturedTable): void {
    this.#tables.set(table.oid, table);
    this.version++;
  }

  remove(oid: number): void {
    if (this.#tables.delete(oid)) this.version++;
  }
}
