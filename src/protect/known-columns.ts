import { WaltideError } from '../errors.ts';
import { type Relation, relationName } from '../event/relation.ts';
import type { Leaving, MaskedColumn } from '../postgres/captured.ts';
import type { CatalogColumn } from '../postgres/catalog.ts';
import { type Rule, ruleFor, type TableName } from './rules.ts';

/** Types whose values look alike as text: a change from one to another changes no value. */
const SAME_TEXT: Readonly<Record<number, string>> = { 20: 'int', 21: 'int', 23: 'int', 25: 'text', 1043: 'text' };

/** What is known of one table's columns by their numbers, which a rename keeps. */
export class KnownColumns {
  readonly #columns: readonly CatalogColumn[];
  readonly #rules: ReadonlyMap<number, Rule>;
  /** To be recorded. */
  readonly leaving: Leaving;

  /** `columns` as the catalog has them now; `recorded`: how the table left the source until now. */
  constructor(
    table: TableName,
    columns: readonly CatalogColumn[],
    rules: readonly Rule[],
    recorded: Leaving | undefined,
  ) {
    this.#columns = columns;
    const found = new Map<number, Rule>();
    const masked: MaskedColumn[] = [];
    for (const { attnum, name, typeOid, modifier } of columns) {
      const before = recorded?.masked.find((column) => column.attnum === attnum);
      const own = ruleFor(rules, table, name);
      const rule = own ?? (before ? ruleFor(rules, table, before.name) : null);
      if (!rule) continue;
      found.set(attnum, rule);
      const form = SAME_TEXT[typeOid] ?? `${typeOid}/${modifier}`;
      if (rule.mask) masked.push({ attnum, name: own ? name : before!.name, mask: `${rule.name} of ${form}` });
    }
    this.#rules = found;
    const attnumMax = Math.max(recorded?.attnumMax ?? 0, ...columns.map(({ attnum }) => attnum));
    this.leaving = { masked, attnumMax };
  }

  /** True where rows that left as recorded are not what they would be now; columns that came since do not count. */
  changedSince(recorded: Leaving | undefined): boolean {
    const max = recorded?.attnumMax ?? Number.MAX_SAFE_INTEGER;
    const maskOf = (leaving: Leaving | undefined, attnum: number): string | undefined =>
      leaving?.masked.find((column) => column.attnum === attnum)?.mask;
    return this.#columns.some(
      ({ attnum }) => attnum <= max && maskOf(recorded, attnum) !== maskOf(this.leaving, attnum),
    );
  }

  /** The rule of each column of the relation, which may be of another time. Throws PROTECTION where nobody can tell. */
  rulesOf(relation: Relation, rules: readonly Rule[]): (Rule | null)[] {
    const numbers = this.#numbersOf(relation);
    return relation.columns.map(({ name }, i) => {
      const number = numbers[i];
      return ruleFor(rules, relation, name) ?? (number === undefined ? null : (this.#rules.get(number) ?? null));
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
    if (!missing.some((number) => this.#rules.get(number)?.mask)) return numbers;
    throw new WaltideError(
      'PROTECTION',
      `source.protect: columns of ${relationName(relation)} have other names in the stream than in the catalog, and ${lost.map(({ name }) => name).join(', ')} may be masked ones`,
      'Name them in a rule, by mask: none where they are not. `waltide setup` installs the capture trigger, which tells renamed columns by number.',
    );
  }
}
