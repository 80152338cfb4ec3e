import type pg from 'pg';
import { comparePosition, type Position } from '../event/position.ts';
import { type Relation, relationName } from '../event/relation.ts';
import type { SchemaChange } from '../event/schema-change.ts';
import { typeName } from '../event/type-name.ts';
import type { Log } from '../log.ts';
import {
  type RecordedChange,
  type RecordedColumn,
  type RecordedTable,
  readLastChanges,
  recordChange,
} from '../postgres/schema-history.ts';

/** Where and when in the stream a table was described. */
export interface Moment {
  readonly position: Position;
  /** Commit time in microseconds since the Unix epoch. */
  readonly commitTimeUs: bigint;
}

/** True for a column whose values are masked when they leave the source: its default is one of them. */
export type Hides = (relation: Relation, column: number) => boolean;

export interface SchemaHistoryOptions {
  readonly client: pg.Client;
  readonly slot: string;
  readonly log: Log;
  readonly hides: Hides;
}

/**
 * Records each change of a followed table once, however often the stream comes by it. A change counts as seen only when it
 * is recorded, so it is awaited before anything after it is delivered: changes are rare.
 */
export class SchemaHistory {
  readonly #client: pg.Client;
  readonly #slot: string;
  readonly #log: Log;
  readonly #hides: Hides;
  readonly #last: Map<number, RecordedChange>;

  private constructor({ client, slot, log, hides }: SchemaHistoryOptions, last: readonly RecordedChange[]) {
    this.#client = client;
    this.#slot = slot;
    this.#log = log;
    this.#hides = hides;
    this.#last = new Map(last.map((change) => [change.oid, change]));
  }

  static async load(options: SchemaHistoryOptions): Promise<SchemaHistory> {
    return new SchemaHistory(options, await readLastChanges(options.client, options.slot));
  }

  /** The partitions of every table that has some, as last told. */
  partitions(): [number, readonly number[]][] {
    return [...this.#last.values()].flatMap((change) =>
      change.new?.partitions?.length ? [[change.oid, change.new.partitions] as [number, readonly number[]]] : [],
    );
  }

  /** Names of the table's columns as last told; null where nobody has. */
  columns(oid: number): string[] | null {
    return this.#last.get(oid)?.new?.columns.map(({ name }) => name) ?? null;
  }

  /** Names of the key's columns as the capture trigger told last; null where it was not the last to tell. */
  toldKey(oid: number): readonly string[] | null {
    const table = this.#last.get(oid)?.new;
    return table?.columns[0]?.attnum === undefined ? null : table.key;
  }

  /** pgoutput described a table: recorded where it is not what was recorded last. True where that is a change. */
  async described(relation: Relation, partitions: readonly number[] | undefined, at: Moment): Promise<boolean> {
    const last = this.#last.get(relation.oid);
    const now = recordOf(relation, null, partitions ?? last?.new?.partitions, this.#hides);
    // pgoutput knows neither numbers nor defaults: what the capture trigger told stays true where the rest is the same.
    if (last?.new && plain(last.new) === plain(now)) return false;
    await this.#record(relation, at, { command: null, new: now, rewritten: 'no' });
    return last !== undefined;
  }

  /** The capture trigger told of a change. `partitions`: of the table, as it told. */
  async changed(relation: Relation, change: SchemaChange, partitions: readonly number[], at: Moment): Promise<void> {
    const { command, rewritten, kind } = change;
    const now = kind === 'dropped' ? null : recordOf(relation, change, partitions, this.#hides);
    const last = this.#last.get(relation.oid)?.new;
    if (last && now && rewritten === 'no' && JSON.stringify(last) === JSON.stringify(now)) return;
    await this.#record(relation, at, { command, new: now, rewritten });
  }

  async #record(
    relation: Relation,
    at: Moment,
    what: Pick<RecordedChange, 'command' | 'new' | 'rewritten'>,
  ): Promise<void> {
    const { oid, schema, table } = relation;
    const last = this.#last.get(oid);
    // Before where the record ends: the stream comes by it again.
    if (last && comparePosition(at.position, last.position) <= 0) return;
    const change: RecordedChange = {
      oid,
      position: at.position,
      schema,
      table,
      old: last?.new ?? null,
      committedAt: new Date(Number(at.commitTimeUs / 1000n)),
      ...what,
    };
    await recordChange(this.#client, this.#slot, change);
    this.#last.set(oid, change);
    if (last)
      this.#log.info({ table: relationName(relation), command: what.command ?? undefined }, 'table changed its schema');
  }
}

function recordOf(
  relation: Relation,
  change: SchemaChange | null,
  partitions: readonly number[] | undefined,
  hides: Hides,
): RecordedTable {
  const { schema, table, replicaIdentity, key } = relation;
  const columns = relation.columns.map((column, i): RecordedColumn => {
    const told = change?.columns[i];
    const { labels, labelOids } = column.type;
    return {
      ...(column.attnum === undefined ? {} : { attnum: column.attnum }),
      name: column.name,
      type: typeName(column.type, column.modifier),
      ...(told ? { notNull: told.notNull, default: told.default && hides(relation, i) ? '***' : told.default } : {}),
      ...(labels.length > 0 ? { labels, ...(labelOids ? { labelOids } : {}) } : {}),
    };
  });
  const names = key.map((index) => relation.columns[index]!.name);
  return { schema, table, replicaIdentity, key: names, columns, ...(partitions ? { partitions } : {}) };
}

/** What pgoutput alone can tell of a table. */
function plain({ schema, table, replicaIdentity, key, columns }: RecordedTable): string {
  return JSON.stringify([schema, table, replicaIdentity, key, columns.map(({ name, type }) => [name, type])]);
}
