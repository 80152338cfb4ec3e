import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { type Relation, relationName } from '../event/relation.ts';
import type { MaskKeys } from './keys.ts';
import { INJECTIVE, type Mask, type MaskRule, makeMask } from './mask.ts';

/** The names of a table, by which rules may mean it. */
export type TableName = Pick<Relation, 'schema' | 'table' | 'home'>;

interface Pattern {
  readonly text: string;
  readonly table: RegExp;
  readonly column: RegExp;
  /** It names one column of one table. */
  readonly exact: boolean;
}

/** A rule of `source.protect.rules` that is ready for use. */
export interface Rule {
  readonly config: MaskRule;
  /** Tells its results apart from those of another rule or key; may be recorded. */
  readonly name: string;
  readonly patterns: readonly Pattern[];
  readonly mask: Mask | null;
}

export function compileRules(rules: NonNullable<SourceConfig['protect']>['rules'], keys: MaskKeys | null): Rule[] {
  return rules.map((config) => ({
    config,
    name: nameOf(config, keys),
    patterns: config.columns.map(compilePattern),
    mask: makeMask(config, keys),
  }));
}

function nameOf({ mask, keepFirst, keepLast }: MaskRule, keys: MaskKeys | null): string {
  if (mask === 'partial') return `partial ${keepFirst} ${keepLast}`;
  return INJECTIVE.has(mask) ? `${mask} ${keys?.check}` : mask;
}

function compilePattern(text: string): Pattern {
  const at = text.lastIndexOf('.');
  return {
    text,
    table: regexp(text.slice(0, at)),
    column: regexp(text.slice(at + 1)),
    exact: !/[*?]/.test(text),
  };
}

function regexp(pattern: string): RegExp {
  const source = pattern
    .replace(/[\\^$+.()|[\]{}]/g, '\\$&')
    .replace(/\*/g, '.*')
    .replace(/\?/g, '.');
  return new RegExp(`^${source}$`, 'su');
}

/** Every name by which a rule may mean the table: a rename does not take it out of a rule. */
function namesOf(table: TableName): string[] {
  const { home } = table;
  return home ? [relationName(table), relationName(home)] : [relationName(table)];
}

const meansTable = ({ table }: Pattern, names: readonly string[]): boolean => names.some((name) => table.test(name));

/** The first rule that matches the column; null for none. */
export function ruleFor(rules: readonly Rule[], table: TableName, column: string): Rule | null {
  const names = namesOf(table);
  const matches = (pattern: Pattern): boolean => meansTable(pattern, names) && pattern.column.test(column);
  return rules.find(({ patterns }) => patterns.some(matches)) ?? null;
}

/** Throws PROTECTION where a rule names a column of the table that is neither there nor among `known`, names of before. */
export function checkNames(rules: readonly Rule[], table: TableName, known: readonly string[]): void {
  const names = namesOf(table);
  for (const { patterns } of rules) {
    const named = patterns.filter((pattern) => pattern.exact && meansTable(pattern, names));
    if (named.length > 0 && !named.some(({ column }) => known.some((name) => column.test(name))))
      throw new WaltideError(
        'PROTECTION',
        `source.protect: ${named.map(({ text }) => text).join(', ')} is no published column of table ${relationName(table)}`,
        'Correct the rule. Where the column was renamed while Waltide did not run, name it by both names in one rule.',
      );
  }
}

/** Throws PROTECTION where different rows would get the same key. */
export function checkKey(relation: Relation, chosen: readonly (Rule | null)[]): void {
  for (const index of relation.key) {
    const mask = chosen[index]?.config.mask ?? 'none';
    if (mask !== 'none' && !INJECTIVE.has(mask))
      throw new WaltideError(
        'PROTECTION',
        `source.protect: ${relationName(relation)}.${relation.columns[index]!.name} belongs to the key of its table, and ${mask} would make different rows the same`,
        'Mask columns of a key by hash or encrypt.',
      );
  }
}
