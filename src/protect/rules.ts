import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { relationName } from '../event/relation.ts';
import type { MaskKeys } from './keys.ts';
import { INJECTIVE, type Mask, type MaskRule, makeMask } from './mask.ts';
import { isExact, meansTable, patternOf, type TableName } from './pattern.ts';

interface Pattern {
  readonly text: string;
  readonly table: RegExp;
  readonly column: RegExp;
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
  return { text, table: patternOf(text.slice(0, at)), column: patternOf(text.slice(at + 1)) };
}

/** The first rule that matches the column; null for none. */
export function ruleFor(rules: readonly Rule[], table: TableName, column: string): Rule | null {
  const matches = (pattern: Pattern): boolean => pattern.column.test(column) && meansTable(pattern.table, table);
  return rules.find(({ patterns }) => patterns.some(matches)) ?? null;
}

/** Throws PROTECTION where a rule names a column of the table that is neither there nor among `known`, names of before. */
export function checkNames(rules: readonly Rule[], table: TableName, known: readonly string[]): void {
  for (const { patterns } of rules) {
    const named = patterns.filter((pattern) => isExact(pattern.text) && meansTable(pattern.table, table));
    if (named.length > 0 && !named.some(({ column }) => known.some((name) => column.test(name))))
      throw new WaltideError(
        'PROTECTION',
        `source.protect: ${named.map(({ text }) => text).join(', ')} is no published column of table ${relationName(table)}`,
        'Correct the rule. Where the column was renamed while Waltide did not run, name it by both names in one rule.',
      );
  }
}

/**
 * True where a rule may mask the column of the table (of any table of that name, where it comes without a schema), by names alone
 * and without a key. Of no column: whether it may mask some column of it.
 */
export function mayMask(rules: readonly MaskRule[], table: string, column: string | null): boolean {
  return rules.some(({ mask, columns }) => mask !== 'none' && columns.some((text) => meansColumn(text, table, column)));
}

function meansColumn(text: string, table: string, column: string | null): boolean {
  const at = text.lastIndexOf('.');
  const [whole, bare] = [text.slice(0, at), text.slice(text.lastIndexOf('.', at - 1) + 1, at)];
  if (!patternOf(table.includes('.') ? whole : bare).test(table)) return false;
  return column === null || patternOf(text.slice(at + 1)).test(column);
}
