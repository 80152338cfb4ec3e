import { WaltideError } from '../errors.ts';
import type { Column } from '../event/relation.ts';
import { parseDate, parseTime, parseTimestamp } from '../event/temporal.ts';
import { baseType, builtinName } from '../event/value.ts';
import { type Comparison, columnsOf, type Expression, type Literal, type Operand } from './expression.ts';

/** The text of a column of a row; null for NULL, undefined for a value that is not known. */
export type TextOf = (column: number) => string | null | undefined;

/** What SQL says of the row: true, false, or null for unknown. A value that is not known counts as NULL. */
export type Filter = (text: TextOf) => boolean | null;

/** Values of one class compare with one another as PostgreSQL does it; text by bytes, as under COLLATE "C". */
interface ValueClass {
  readonly name: string;
  /** Which literals stand for values of it. */
  readonly literal: Literal['kind'];
  /** Throws where the text is none of its values. */
  read(text: string): unknown;
  compare(a: never, b: never): number;
}

const order = <T>(a: T, b: T): number => (a < b ? -1 : a > b ? 1 : 0);

/** Digits and how many of them are behind the point. */
interface Decimal {
  readonly digits: bigint;
  readonly scale: number;
}

function readDecimal(text: string): Decimal | number {
  if (/^(NaN|-?Infinity)$/.test(text)) return Number(text);
  const match = /^([+-]?)(\d*)\.?(\d*)(?:e([+-]?\d{1,4}))?$/i.exec(text);
  if (!match) throw new RangeError(`"${text}" is not a number`);
  const [, sign, whole, fraction = '', exponent = '0'] = match;
  const digits = BigInt(`${whole}${fraction}`) * (sign === '-' ? -1n : 1n);
  const scale = fraction.length - Number(exponent);
  return scale >= 0 ? { digits, scale } : { digits: digits * 10n ** BigInt(-scale), scale: 0 };
}

function compareDecimals(a: Decimal | number, b: Decimal | number): number {
  if (typeof a === 'number' || typeof b === 'number') return compareFloats(rank(a), rank(b));
  const scale = Math.max(a.scale, b.scale);
  const at = ({ digits, scale: own }: Decimal): bigint => digits * 10n ** BigInt(scale - own);
  return order(at(a), at(b));
}

/** Infinite ones and NaN among all others, which then are equal. */
const rank = (value: Decimal | number): number => (typeof value === 'number' ? value : 0);

/** NaN equals NaN and is more than everything else. */
function compareFloats(a: number, b: number): number {
  if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
  return order(a, b);
}

function readFloat(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || (Number.isNaN(value) && text !== 'NaN')) throw new RangeError(`"${text}" is not a number`);
  return value;
}

/** Of dates and times: the infinite ones stand before and after all others. */
function compareMoments(a: bigint | number | string, b: bigint | number | string): number {
  const infinite = (value: bigint | number | string): number =>
    typeof value === 'string' ? (value.startsWith('-') ? -1 : 1) : 0;
  const [ends, others] = [infinite(a) - infinite(b), infinite(a) !== 0 || infinite(b) !== 0];
  return others ? Math.sign(ends) : order(a, b);
}

const bytewise = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));
const withTime = (text: string): string => (/^\d{4,}-\d\d-\d\d$/.test(text) ? `${text} 00:00:00` : text);

const DECIMAL: ValueClass = { name: 'number', literal: 'number', read: readDecimal, compare: compareDecimals };
const FLOAT: ValueClass = { name: 'number', literal: 'number', read: readFloat, compare: compareFloats };
const FLOAT4: ValueClass = { ...FLOAT, read: (text) => Math.fround(readFloat(text)) };
const TEXT: ValueClass = { name: 'text', literal: 'text', read: (text) => text, compare: bytewise };
const UUID: ValueClass = { ...TEXT, name: 'uuid', read: (text) => text.toLowerCase() };
const CHAR: ValueClass = { ...TEXT, name: 'char', read: (text) => text.replace(/ +$/, '') };
const BOOLEAN: ValueClass = { name: 'boolean', literal: 'boolean', read: (text) => text, compare: order };
const moments = (name: string, read: (text: string) => unknown): ValueClass => ({
  name,
  literal: 'text',
  read,
  compare: compareMoments,
});
const TIMESTAMP = moments('timestamp', (text) => parseTimestamp(withTime(text)));

const CLASSES: Readonly<Record<string, ValueClass>> = {
  ...{ int2: DECIMAL, int4: DECIMAL, int8: DECIMAL, oid: DECIMAL, numeric: DECIMAL, float4: FLOAT4, float8: FLOAT },
  ...{ text: TEXT, varchar: TEXT, bpchar: CHAR, name: TEXT, uuid: UUID, bool: BOOLEAN },
  ...{ date: moments('date', parseDate), time: moments('time', parseTime), timestamp: TIMESTAMP },
  timestamptz: { ...TIMESTAMP, name: 'timestamptz' },
};

/**
 * The filter for rows with these columns, by the names that it uses. Throws CONFIG_INVALID where types do not go together,
 * and under `strict` where a column is not there, which otherwise is NULL.
 */
export function bindFilter(expression: Expression, columns: readonly Column[], table: string, strict = true): Filter {
  return new Binder(columns, table, strict).bind(expression);
}

const UNKNOWN: Filter = () => null;

class Binder {
  readonly #columns: readonly Column[];
  readonly #table: string;
  readonly #strict: boolean;

  constructor(columns: readonly Column[], table: string, strict: boolean) {
    this.#columns = columns;
    this.#table = table;
    this.#strict = strict;
  }

  bind(expression: Expression): Filter {
    const simple = expression.does !== 'and' && expression.does !== 'or' && expression.does !== 'not';
    if (simple && !this.#strict && columnsOf(expression).some((name) => !this.#has(name)))
      return expression.does === 'null' ? () => true : UNKNOWN;
    switch (expression.does) {
      case 'and':
      case 'or':
        return this.#list(expression.does === 'or', expression.parts);
      case 'not': {
        const part = this.bind(expression.part);
        return (text) => {
          const value = part(text);
          return value === null ? null : !value;
        };
      }
      case 'null': {
        const index = this.#index(expression.column.name);
        return (text) => text(index) === null;
      }
      case 'true': {
        const index = this.#of(expression.column.name, BOOLEAN);
        return (text) => known(text(index), (value) => value === 't');
      }
      case 'like': {
        const index = this.#of(expression.column.name, TEXT);
        const pattern = likePattern(expression.pattern);
        return (text) => known(text(index), (value) => pattern.test(value));
      }
      case 'compare':
        return this.#compare(expression.by, expression.left, expression.right);
    }
  }

  /** Three values: what decides comes first, then unknown. */
  #list(decides: boolean, expressions: readonly Expression[]): Filter {
    const parts = expressions.map((part) => this.bind(part));
    return (text) => {
      let result: boolean | null = !decides;
      for (const part of parts) {
        const value = part(text);
        if (value === decides) return decides;
        if (value === null) result = null;
      }
      return result;
    };
  }

  #compare(by: Comparison, left: Operand, right: Operand): Filter {
    const classes = [left, right].flatMap((operand) =>
      operand.kind === 'column' ? [this.#classOf(this.#index(operand.name))] : [],
    );
    const [first, second = first] = classes;
    if (!first) this.#fail('compares two values and no column');
    if (first.name !== second!.name) this.#fail(`compares ${first.name} with ${second!.name}`);
    const common = [first, second!].find(({ read }) => read !== readDecimal) ?? first;
    const [a, b] = [this.#read(left, first, common), this.#read(right, second!, common)];
    const holds = HOLDS[by];
    const compare = common.compare as (x: unknown, y: unknown) => number;
    return (text) => {
      const [x, y] = [a(text), b(text)];
      return x === null || y === null ? null : holds(compare(x, y));
    };
  }

  #read(operand: Operand, own: ValueClass, common: ValueClass): (text: TextOf) => unknown {
    if (operand.kind === 'column') {
      const index = this.#index(operand.name);
      // Exact numbers beside inexact ones are read as those are.
      const read = own.read === readDecimal && common !== own ? readFloat : own.read;
      return (text) => {
        const value = text(index);
        return value === null || value === undefined ? null : read(value);
      };
    }
    if (operand.kind !== common.literal) this.#fail(`compares ${common.name} with ${JSON.stringify(operand.text)}`);
    try {
      const value = common === FLOAT4 ? readFloat(operand.text) : common.read(operand.text);
      return () => value;
    } catch {
      return this.#fail(`takes ${JSON.stringify(operand.text)} for a ${common.name}`);
    }
  }

  #has(name: string): boolean {
    return this.#columns.some((column) => column.name === name);
  }

  #index(name: string): number {
    const index = this.#columns.findIndex((column) => column.name === name);
    return index >= 0 ? index : this.#fail(`names a column ${JSON.stringify(name)}, which is not there`);
  }

  #classOf(index: number): ValueClass {
    const { name, type } = this.#columns[index]!;
    const base = baseType(type);
    if (base.kind === 'enum') return { ...TEXT, name: 'enum' };
    const found = CLASSES[builtinName(base) ?? ''];
    return (
      found ?? this.#fail(`compares ${name}, of type ${base.name}; is null is all that such a column can be asked`)
    );
  }

  #of(name: string, wanted: ValueClass): number {
    const index = this.#index(name);
    const { name: found } = this.#classOf(index);
    return found === wanted.name ? index : this.#fail(`takes ${name}, a ${found}, for ${wanted.name}`);
  }

  #fail(what: string): never {
    throw new WaltideError(
      'CONFIG_INVALID',
      `source.transforms: the filter for table ${this.#table} ${what}`,
      "Write texts, dates and times as '…', numbers and true or false bare, and compare like with like.",
    );
  }
}

const HOLDS: Readonly<Record<Comparison, (order: number) => boolean>> = {
  '=': (value) => value === 0,
  '<>': (value) => value !== 0,
  '<': (value) => value < 0,
  '<=': (value) => value <= 0,
  '>': (value) => value > 0,
  '>=': (value) => value >= 0,
};

function known(text: string | null | undefined, test: (text: string) => boolean): boolean | null {
  return text === null || text === undefined ? null : test(text);
}

/** `%` any characters, `_` one, a backslash takes the next as it is. */
function likePattern(pattern: string): RegExp {
  const source = [...pattern.matchAll(/\\(.)|(.)/gsu)].map(([, escaped, plain]) => {
    if (escaped === undefined && plain === '%') return '.*';
    if (escaped === undefined && plain === '_') return '.';
    return (escaped ?? plain)!.replace(/[\\^$+.()|[\]{}*?/-]/g, '\\$&');
  });
  return new RegExp(`^${source.join('')}$`, 'su');
}
