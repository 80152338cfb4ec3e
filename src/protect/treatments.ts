import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { relationName } from '../event/relation.ts';
import { columnsOf, type Expression, parseExpression } from './expression.ts';
import type { LoadedFunction } from './function.ts';
import type { MaskKeys } from './keys.ts';
import type { Mask, MaskRule } from './mask.ts';
import { isExact, meansTable, patternOf, type TableName } from './pattern.ts';
import { checkNames, compileRules, type Rule, ruleFor } from './rules.ts';

type TransformConfig = SourceConfig['transforms'][number];
export type CastType = TransformConfig['cast'][string];

/** What the configuration says of one column. */
export interface Treatment {
  /** Another name gives other values; may be recorded. */
  readonly name: string;
  readonly kind: MaskRule['mask'];
  readonly mask: Mask | null;
  readonly drop: boolean;
  readonly rename: string | null;
  readonly cast: CastType | null;
}

/** What it says of the rows of one table. */
export interface RowRules {
  /** All of them must hold. */
  readonly filters: readonly Expression[];
  /** One after another. */
  readonly functions: readonly LoadedFunction[];
  /** Another name lets other rows through; may be recorded. Empty where all pass as they are. */
  readonly name: string;
}

/** An entry of `source.transforms` that is ready for use. */
interface CompiledTransform {
  readonly config: TransformConfig;
  readonly tables: readonly RegExp[];
  readonly filter: Expression | null;
  readonly module: LoadedFunction | null;
  /** Every column that it names. */
  readonly columns: ReadonlySet<string>;
}

/** What `source.protect` and `source.transforms` say, by the names that tables and columns have in the source. */
export class Treatments {
  readonly #rules: readonly Rule[];
  readonly #transforms: readonly CompiledTransform[];

  /** `functions`: the loaded modules by their paths. Throws CONFIG_INVALID where a filter makes no sense. */
  constructor(
    { protect, transforms }: Pick<SourceConfig, 'protect' | 'transforms'>,
    keys: MaskKeys | null,
    functions: ReadonlyMap<string, LoadedFunction>,
  ) {
    this.#rules = compileRules(protect?.rules ?? [], keys);
    this.#transforms = transforms.map((config) => {
      const filter = config.filter === undefined ? null : parseExpression(config.filter);
      const { drop, rename, cast } = config;
      const columns = [...drop, ...Object.keys(rename), ...Object.keys(cast), ...(filter ? columnsOf(filter) : [])];
      const module = config.module === undefined ? null : functions.get(config.module)!;
      return { config, tables: config.tables.map(patternOf), filter, module, columns: new Set(columns) };
    });
  }

  /** True where nothing is said of anything. */
  get empty(): boolean {
    return this.#rules.length + this.#transforms.length === 0;
  }

  /** True where some column is masked or dropped. */
  get hidesSome(): boolean {
    return this.#rules.some(({ mask }) => mask) || this.#transforms.some(({ config }) => config.drop.length > 0);
  }

  /** Null where nothing is said of the column. */
  of(table: TableName, column: string): Treatment | null {
    const rule = ruleFor(this.#rules, table, column);
    const entries = this.#of(table).filter(({ columns }) => columns.has(column));
    if (!rule && entries.length === 0) return null;
    const first = <T>(get: (config: TransformConfig) => T | undefined): T | null =>
      entries.map(({ config }) => get(config)).find((value) => value !== undefined) ?? null;
    const drop = entries.some(({ config }) => config.drop.includes(column));
    const rename = first((config) => config.rename[column]);
    const cast = first((config) => config.cast[column]);
    const words = [
      ...(rule?.mask ? [rule.name] : []),
      ...(drop ? ['dropped'] : []),
      ...(rename ? [`as ${rename}`] : []),
      cast ?? '',
    ];
    return {
      name: words.join(' ').trim(),
      kind: rule?.config.mask ?? 'none',
      mask: rule?.mask ?? null,
      drop,
      rename,
      cast,
    };
  }

  rowsOf(table: TableName): RowRules {
    const entries = this.#of(table);
    const words = entries.flatMap(({ config, module }) => [
      ...(config.filter === undefined ? [] : [config.filter]),
      ...(module ? [module.digest] : []),
    ]);
    return {
      filters: entries.flatMap(({ filter }) => filter ?? []),
      functions: entries.flatMap(({ module }) => module ?? []),
      name: words.join('; '),
    };
  }

  /** Throws where a column is named of the table that is neither there nor among `known`, names of before. */
  check(table: TableName, known: readonly string[]): void {
    checkNames(this.#rules, table, known);
    for (const { config, tables, columns } of this.#transforms) {
      const named = config.tables.some((text, i) => isExact(text) && meansTable(tables[i]!, table));
      const missing = named ? [...columns].filter((column) => !known.includes(column)) : [];
      if (missing.length > 0)
        throw new WaltideError(
          'TRANSFORM',
          `source.transforms: table ${relationName(table)} has no published column ${missing.join(', ')}`,
          'Name columns as the source does; names in capital letters stand between double quotes in a filter.',
        );
    }
  }

  #of(table: TableName): CompiledTransform[] {
    return this.#transforms.filter(({ tables }) => tables.some((pattern) => meansTable(pattern, table)));
  }
}
