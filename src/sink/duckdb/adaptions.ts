import type { Relation } from '../../event/relation.ts';
import { excerptError } from './messages.ts';
import type { SinkColumn } from './schema.ts';
import type { MisfitError } from './table.ts';

/** What values ask of one column. */
interface Adaption {
  /** Enum labels seen in data that no relation has named yet. */
  readonly labels: readonly string[];
  readonly text: boolean;
}

const keyOf = (relation: Relation, column: string): string =>
  JSON.stringify([relation.schema, relation.table, relation.oid, column]);

/**
 * Changes of columns that values asked for, from the misfit until they are in the file. Kept over failed transactions:
 * a value may come again where its table can no longer be altered.
 */
export class Adaptions {
  readonly #columns = new Map<string, Adaption>();

  /** Throws a RejectedError for a value that not even a changed column can hold. */
  add(misfit: MisfitError): void {
    const { relation, column, label } = misfit;
    const key = keyOf(relation, column);
    const { labels, text } = this.#columns.get(key) ?? { labels: [], text: false };
    if (label === null && (text || !misfit.fitsText)) throw excerptError(relation, column, misfit);
    const more = label === null || labels.includes(label) ? labels : [...labels, label];
    this.#columns.set(key, { labels: more, text: text || label === null });
  }

  /** The column as it must be. */
  apply(relation: Relation, column: SinkColumn): SinkColumn {
    const wanted = column.live ? this.#columns.get(keyOf(relation, column.name)) : undefined;
    if (!wanted) return column;
    const { labels, text } = wanted;
    if (text) return column.text ? column : { ...column, text };
    return { ...column, extraLabels: [...new Set([...column.extraLabels, ...labels])] };
  }
}
