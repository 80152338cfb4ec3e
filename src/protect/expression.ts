import { WaltideError } from '../errors.ts';

/*
 * The language of `transforms[].filter`: conditions as SQL has them, over the columns of one row. It is parsed here and
 * evaluated in filter.ts; nothing of it is ever run as code or sent to a server.
 */

export interface ColumnOperand {
  readonly kind: 'column';
  readonly name: string;
}
export interface Literal {
  readonly kind: 'text' | 'number' | 'boolean';
  readonly text: string;
}
export type Operand = ColumnOperand | Literal;

export type Comparison = '=' | '<>' | '<' | '<=' | '>' | '>=';

export type Expression =
  | { readonly does: 'and' | 'or'; readonly parts: readonly Expression[] }
  | { readonly does: 'not'; readonly part: Expression }
  | { readonly does: 'compare'; readonly by: Comparison; readonly left: Operand; readonly right: Operand }
  | { readonly does: 'like'; readonly column: ColumnOperand; readonly pattern: string }
  | { readonly does: 'null'; readonly column: ColumnOperand }
  | { readonly does: 'true'; readonly column: ColumnOperand };

interface Token {
  readonly kind: 'word' | 'name' | 'text' | 'number' | 'sign' | 'end';
  readonly text: string;
  readonly at: number;
}

/** Parentheses and NOTs in one another. Bounds the recursion. */
const DEPTH_MAX = 100;
const TOKEN =
  /\s*(?:(?<word>[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)|"(?<name>(?:[^"]|"")+)"|'(?<text>(?:[^']|'')*)'|(?<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?<sign><>|!=|<=|>=|[=<>(),]))/y;

/** Reads a filter. Throws CONFIG_INVALID that says where it stops making sense. */
export function parseExpression(text: string): Expression {
  const parser = new Parser(text);
  const expression = parser.or(0);
  parser.end();
  return expression;
}

/** The columns that it looks at. */
export function columnsOf(expression: Expression): string[] {
  switch (expression.does) {
    case 'and':
    case 'or':
      return expression.parts.flatMap(columnsOf);
    case 'not':
      return columnsOf(expression.part);
    case 'compare':
      return [expression.left, expression.right].flatMap((operand) =>
        operand.kind === 'column' ? [operand.name] : [],
      );
    default:
      return [expression.column.name];
  }
}

class Parser {
  readonly #text: string;
  #token: Token;

  constructor(text: string) {
    this.#text = text;
    this.#token = { kind: 'end', text: '', at: 0 };
    this.#next(0);
  }

  or(depth: number): Expression {
    return this.#list('or', () => this.#list('and', () => this.#not(depth)));
  }

  end(): void {
    if (this.#token.kind !== 'end') this.#fail('and, or or the end');
  }

  #list(does: 'and' | 'or', part: () => Expression): Expression {
    const parts = [part()];
    while (this.#takes(does)) parts.push(part());
    return parts.length === 1 ? parts[0]! : { does, parts };
  }

  #not(depth: number): Expression {
    if (depth > DEPTH_MAX) this.#fail('fewer parentheses');
    if (this.#takes('not')) return { does: 'not', part: this.#not(depth + 1) };
    if (this.#takes('(')) {
      const inner = this.or(depth + 1);
      this.#must(')');
      return inner;
    }
    return this.#condition();
  }

  #condition(): Expression {
    const left = this.#operand();
    const by = this.#comparison();
    if (by) return { does: 'compare', by, left, right: this.#operand() };
    if (left.kind !== 'column') this.#fail('a comparison');
    if (this.#takes('is')) {
      const negated = this.#takes('not');
      this.#must('null');
      return negate(negated, { does: 'null', column: left });
    }
    const negated = this.#takes('not');
    if (this.#takes('in')) return negate(negated, this.#in(left));
    if (this.#takes('between')) return negate(negated, this.#between(left));
    if (this.#takes('like')) {
      const pattern = this.#operand();
      if (pattern.kind !== 'text') this.#fail("a pattern in '…'");
      return negate(negated, { does: 'like', column: left, pattern: pattern.text });
    }
    if (negated) this.#fail('in, between or like');
    return { does: 'true', column: left };
  }

  #in(left: Operand): Expression {
    const parts: Expression[] = [];
    this.#must('(');
    do parts.push({ does: 'compare', by: '=', left, right: this.#operand() });
    while (this.#takes(','));
    this.#must(')');
    return { does: 'or', parts };
  }

  #between(left: Operand): Expression {
    const low = this.#operand();
    this.#must('and');
    const parts: Expression[] = [
      { does: 'compare', by: '>=', left, right: low },
      { does: 'compare', by: '<=', left, right: this.#operand() },
    ];
    return { does: 'and', parts };
  }

  #comparison(): Comparison | null {
    if (this.#token.kind !== 'sign' || !/^(<>|!=|<=|>=|=|<|>)$/.test(this.#token.text)) return null;
    const { text } = this.#token;
    this.#advance();
    return text === '!=' ? '<>' : (text as Comparison);
  }

  #operand(): Operand {
    const { kind, text } = this.#token;
    if (kind === 'end' || kind === 'sign') this.#fail('a column or a value');
    this.#advance();
    if (kind === 'text' || kind === 'number') return { kind, text };
    if (kind === 'name') return { kind: 'column', name: text };
    // As in SQL, a name that is not between quotes is in small letters.
    const word = text.toLowerCase();
    if (word === 'true' || word === 'false') return { kind: 'boolean', text: word === 'true' ? 't' : 'f' };
    if (word === 'null') this.#fail('is null or is not null: nothing equals NULL');
    return { kind: 'column', name: word };
  }

  #takes(wanted: string): boolean {
    const { kind, text } = this.#token;
    if ((kind !== 'word' && kind !== 'sign') || text.toLowerCase() !== wanted) return false;
    this.#advance();
    return true;
  }

  #must(wanted: string): void {
    if (!this.#takes(wanted)) this.#fail(wanted);
  }

  #advance(): void {
    this.#next(TOKEN.lastIndex);
  }

  #next(from: number): void {
    TOKEN.lastIndex = from;
    const match = TOKEN.exec(this.#text);
    if (!match) {
      const rest = this.#text.slice(from);
      this.#token = { kind: 'end', text: '', at: from };
      if (rest.trim() !== '') this.#fail('a column, a value or a sign');
      TOKEN.lastIndex = this.#text.length;
      return;
    }
    const [kind, text] = Object.entries(match.groups!).find(([, one]) => one !== undefined) as [Token['kind'], string];
    const quote = kind === 'name' ? '"' : "'";
    const plain = kind === 'name' || kind === 'text' ? text.replaceAll(quote + quote, quote) : text;
    this.#token = { kind, text: plain, at: match.index };
  }

  #fail(wanted: string): never {
    throw new WaltideError(
      'CONFIG_INVALID',
      `source.transforms: filter ${JSON.stringify(this.#text)} needs ${wanted} at character ${this.#token.at + 1}`,
      "Conditions are as in SQL: status <> 'draft' and (amount >= 10 or vip), with in, between, like, is null and not.",
    );
  }
}

function negate(negated: boolean, part: Expression): Expression {
  return negated ? { does: 'not', part } : part;
}
