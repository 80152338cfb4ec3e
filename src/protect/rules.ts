import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { type Relation, relationName } from '../event/relation.ts';
import type { MaskKeys } from './keys.ts';
import { INJECTIVE, type Mask, type MaskRule, makeMask } from './mask.ts';

/** A name of a table, or one that it had. */
export interface TableName {
  readonly schema: string;
  readonly table: string;
}

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
  readonly patterns: readonly Pattern[];
  readonly mask: Mask | null;
}

export function compileRules(rules: NonNullable<SourceConfig['protect']>['rules'], keys: MaskKeys | null): Rule[] {
  return rules.map((config) => ({
    config,
    patterns: config.columns.map(compilePattern),
    mask: makeMask(config, keys),
  }));
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
function namesOf(relation: Pick<Relation, 'schema' | 'table' | 'home'>): string[] {
  const { home } = relation;
  return home ? [relationName(relation), relationName(home)] : [relationName(relation)];
}

const meansTable = ({ table }: Pattern, names: readonly string[]): boolean => names.some((name) => table.test(name));

/** The first rule that matches the column; null for none. */
export function ruleFor(rules: readonly Rule[], table: TableName, column: string): Rule | null {
  const names = namesOf(table);
  const matches = (pattern: Pattern): boolean => meansTable(pattern, names) && pattern.column.test(column);
  return rules.find(({ patterns }) => patterns.some(matches)) ?? null;
}

/**
 * Throws PROTECTION where rules cannot be kept for the table: a column that one names is not there, though it may be under
 * another name; or different rows would get the same key.
 */
export function checkRules(rules: readonly Rule[], relation: Relation, chosen: readonly (Rule | null)[]): void {
  const names = namesOf(relation);
  const table = relationName(relation);
  for (const { patterns } of rules) {
    const named = patterns.filter((pattern) => pattern.exact && meansTable(pattern, names));
    if (named.length > 0 && !named.some(({ column }) => relation.columns.some(({ name }) => column.test(name))))
      throw new WaltideError(
        'PROTECTION',
        `source.protect: ${named.map(({ text }) => text).join(', ')} is no column of table ${table}`,
        'Correct the rule. Where the column was renamed, add its new name beside the old one: what was captured before still has that.',
      );
  }
  for (const index of relation.key) {
    const mask = chosen[index]?.config.mask ?? 'none';
    if (mask !== 'none' && !INJECTIVE.has(mask))
      throw new WaltideError(
        'PROTECTION',
        `source.protect: ${table}.${relation.columns[index]!.name} belongs to the key of its table, and ${mask} would make different rows the same`,
        'Mask columns of a key by hash or encrypt.',
      );
  }
}
