import type { TypeCase } from './every-type.ts';
import { literal } from './every-value.ts';
import type { Random } from './random.ts';

/** Kinds of identity that UPDATE and DELETE can name a row by. */
const IDENTITIES = ['primary key', 'full', 'index', 'full without a key'] as const;
type Identity = (typeof IDENTITIES)[number];
/** Those with a key. */
export const KEYED: readonly Identity[] = ['primary key', 'full', 'index'];

/** Values this long are stored out of line, so that updates leave them out of the WAL. */
const TOAST_CHARACTERS = 9000;

interface RandomColumn {
  readonly name: string;
  readonly type: TypeCase;
  readonly values: readonly string[];
}

/** A table of a random shape, and statements that change it at random. Names are awkward on purpose. */
export class RandomTable {
  readonly name: string;
  readonly identity: Identity;
  readonly #random: Random;
  readonly #columns: readonly RandomColumn[];
  readonly #toast: readonly ('text' | 'text[]' | 'jsonb')[];

  constructor(random: Random, name: string, types: readonly TypeCase[], identities: readonly Identity[] = IDENTITIES) {
    this.#random = random;
    this.name = name;
    this.identity = random.pick(identities);
    this.#columns = Array.from({ length: 1 + random.int(8) }, (_, i) => {
      const type = random.pick(types);
      return {
        name: `"${random.pick(['c', 'Col', 'sel"ect'].map((n) => n.replaceAll('"', '""')))} ${i}"`,
        type,
        values: [...type.values, ...(type.wide ?? [])],
      };
    });
    this.#toast = Array.from({ length: random.int(3) }, () => random.pick(['text', 'text[]', 'jsonb'] as const));
  }

  create(): string {
    const typed = this.#columns.map(({ name, type }) => `${name} ${type.type}`);
    const toasted = this.#toast.map((type, i) => `big${i} ${type}`);
    const key =
      this.identity === 'full without a key'
        ? 'id int not null'
        : this.identity === 'index'
          ? 'id int not null, unique (id)'
          : 'id int primary key';
    const alters = [
      ...toasted.map((_, i) => `alter table ${this.name} alter big${i} set storage external`),
      ...(this.identity.startsWith('full') ? [`alter table ${this.name} replica identity full`] : []),
      ...(this.identity === 'index'
        ? [`alter table ${this.name} replica identity using index ${this.name}_id_key`]
        : []),
    ];
    return [`create table ${this.name} (${[key, ...typed, ...toasted].join(', ')})`, ...alters].join('; ');
  }

  /** One statement; it may change nothing. */
  statement(): string {
    const random = this.#random;
    const id = 1 + random.int(30);
    switch (random.pick(['insert', 'insert', 'update', 'update', 'update', 'delete', 'key', 'many', 'truncate'])) {
      case 'insert':
        return `insert into ${this.name} select ${[id, ...this.#columns.map((column) => this.#value(column)), ...this.#bigs()].join(', ')} ${this.#unlessThere(id)}`;
      case 'update':
        return `update ${this.name} set ${this.#changes().join(', ')} where id = ${id}`;
      case 'key':
        return `update ${this.name} set ${[`id = ${id + 100}`, ...(random.int(2) ? this.#changes() : [])].join(', ')} where id = ${id} and not exists (select 1 from ${this.name} where id = ${id + 100})`;
      case 'delete':
        return `delete from ${this.name} where id = ${random.pick([id, id + 100])}`;
      case 'many':
        return `update ${this.name} set ${this.#changes().join(', ')} where id % 3 = ${random.int(3)}`;
      default:
        return random.int(10) === 0 ? `truncate ${this.name}` : `delete from ${this.name} where id = ${id}`;
    }
  }

  #unlessThere(id: number): string {
    return this.identity === 'full without a key'
      ? ''
      : `where not exists (select 1 from ${this.name} where id = ${id})`;
  }

  #changes(): string[] {
    const column = this.#random.pick(this.#columns);
    const changes = [`${column.name} = ${this.#value(column)}`];
    if (this.#toast.length > 0 && this.#random.int(5) === 0) changes.push(`big0 = ${this.#bigs()[0]}`);
    return changes;
  }

  #value({ type, values }: RandomColumn): string {
    const index = this.#random.int(values.length + 1) - 1;
    return index < 0 ? 'NULL' : `${literal(values[index]!)}::${type.type}`;
  }

  #bigs(): string[] {
    return this.#toast.map((type) => {
      const random = this.#random;
      const text = random.pick(['x', 'é', '7']).repeat(random.pick([3, TOAST_CHARACTERS])) + random.int(1000);
      if (random.int(6) === 0) return 'NULL';
      if (type === 'text') return literal(text);
      return type === 'jsonb' ? `'["${text}", 1.50]'` : `'{"${text}",NULL}'`;
    });
  }
}
