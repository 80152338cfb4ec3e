import { WaltideError } from '../errors.ts';
import { type Relation, relationName } from '../event/relation.ts';
import type { Leaving, TreatedColumn } from '../postgres/captured.ts';
import type { CatalogColumn } from '../postgres/catalog.ts';
import type { TableName } from './pattern.ts';
import type { Treatment, Treatments } from './treatments.ts';

/** Types whose values look alike as text: a change from one to another changes no value. */
const SAME_TEXT: Readonly<Record<number, string>> = { 20: 'int', 21: 'int', 23: 'int', 25: 'text', 1043: 'text' };

/** A column of a relation, by the name that the configuration has for it, and what it says of it. */
export interface ResolvedColumn {
  readonly name: string;
  readonly treatment: Treatment | null;
}

/** What is known of one table's columns by their numbers, which a rename keeps. */
export class KnownColumns {
  readonly #columns: readonly CatalogColumn[];
  readonly #resolved = new Map<number, ResolvedColumn>();
  /** To be recorded. */
  readonly leaving: Leaving;

  /** `columns` as the catalog has them now; `recorded`: how the table left the source until now. */
  constructor(
    table: TableName,
    columns: readonly CatalogColumn[],
    treatments: Treatments,
    recorded: Leaving | undefined,
  ) {
    this.#columns = columns;
    const treated: TreatedColumn[] = [];
    for (const { attnum, name: own, typeOid, modifier } of columns) {
      const before = recorded?.columns.find((column) => column.attnum === attnum)?.name;
      const name = before !== undefined && !treatments.of(table, own) ? before : own;
      const treatment = treatments.of(table, name);
      if (!treatment) continue;
      this.#resolved.set(attnum, { name, treatment });
      // A mask is one of the text, which other types write otherwise.
      const form = treatment.mask ? ` of ${SAME_TEXT[typeOid] ?? `${typeOid}/${modifier}`}` : '';
      if (treatment.name !== '') treated.push({ attnum, name, treatment: `${treatment.name}${form}` });
    }
    const attnumMax = Math.max(recorded?.attnumMax ?? 0, ...columns.map(({ attnum }) => attnum));
    this.leaving = { columns: treated, attnumMax, rows: treatments.rowsOf(table).name };
  }

  /** By the number that a rename keeps; null where nothing is said of the column. */
  treatmentOf(attnum: number): Treatment | null {
    return this.#resolved.get(attnum)?.treatment ?? null;
  }

  /** True where rows that left as recorded are not what they would be now; columns that came since do not count. */
  changedSince(recorded: Leaving | undefined): boolean {
    if ((recorded?.rows ?? '') !== this.leaving.rows) return true;
    const max = recorded?.attnumMax ?? Number.MAX_SAFE_INTEGER;
    const treatmentOf = (leaving: Leaving | undefined, attnum: number): string | undefined =>
      leaving?.columns.find((column) => column.attnum === attnum)?.treatment;
    return this.#columns.some(
      ({ attnum }) => attnum <= max && treatmentOf(recorded, attnum) !== treatmentOf(this.leaving, attnum),
    );
  }

  /** The columns of the relation, which may be of another time. Throws PROTECTION where nobody can tell which they are. */
  resolve(relation: Relation, treatments: Treatments): ResolvedColumn[] {
    const numbers = this.#numbersOf(relation);
    return relation.columns.map(({ name }, i) => {
      const treatment = treatments.of(relation, name);
      const number = numbers[i];
      const known = number === undefined ? undefined : this.#resolved.get(number);
      return treatment || !known ? { name, treatment } : known;
    });
  }

  /** pgoutput tells names only, in the order of the numbers: what has another name now lies between the same neighbours. */
  #numbersOf(relation: Relation): (number | undefined)[] {
    const byName = new Map(this.#columns.map(({ name, attnum }) => [name, attnum]));
    const numbers = relation.columns.map(({ name, attnum }) => attnum ?? byName.get(name));
    const lost = relation.columns.filter((_, i) => numbers[i] === undefined);
    if (lost.length === 0) return numbers;
    const missing = this.#columns.filter(({ attnum }) => !numbers.includes(attnum)).map(({ attnum }) => attnum);
    let next = 0;
    const filled = numbers.map((number) => number ?? missing[next++]);
    const fits = lost.length === missing.length && filled.every((number, i) => i === 0 || number! > filled[i - 1]!);
    if (fits) return filled;
    if (!missing.some((number) => this.#resolved.has(number))) return numbers;
    throw new WaltideError(
      'PROTECTION',
      `source.protect: columns of ${relationName(relation)} have other names in the stream than in the catalog, and ${lost.map(({ name }) => name).join(', ')} may be masked ones`,
      'Name them in a rule, by mask: none where they are not. `waltide setup` installs the capture trigger, which tells renamed columns by number.',
    );
  }
}
