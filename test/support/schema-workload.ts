import pg from 'pg';
import { Random } from './random.ts';

interface ColumnInfo {
  readonly name: string;
  readonly type: string;
  readonly key: boolean;
}

interface TableState {
  readonly name: string;
  readonly columns: readonly ColumnInfo[];
}

/** Types, a literal of each for a seed, and another type that PostgreSQL casts it to by itself. */
const TYPES: readonly { readonly type: string; readonly value: (n: number) => string; readonly to?: string }[] = [
  { type: 'integer', value: (n) => `${n - 500}`, to: 'bigint' },
  { type: 'bigint', value: (n) => `${n}`, to: 'integer' },
  { type: 'smallint', value: (n) => `${n}`, to: 'numeric(10,2)' },
  { type: 'text', value: (n) => `'t${n} ü'`, to: 'character varying(200)' },
  { type: 'character varying(200)', value: (n) => `'v${n}'`, to: 'text' },
  { type: 'numeric(10,2)', value: (n) => `${n}.25`, to: 'numeric(14,4)' },
  { type: 'timestamp with time zone', value: (n) => `'2026-01-01 00:00+00'::timestamptz + ${n} * interval '1 s'` },
  { type: 'boolean', value: (n) => (n % 2 ? 'true' : 'false') },
  { type: 'date', value: (n) => `date '2026-01-01' + ${n}`, to: 'timestamp without time zone' },
  { type: 'jsonb', value: (n) => `'{"n": ${n}}'` },
  { type: 'bytea', value: (n) => `'\\x${(n % 256).toString(16).padStart(2, '0')}'` },
  {
    type: 'mood',
    value: (n) => `(select (enum_range(null::mood))[1 + ${n} % array_length(enum_range(null::mood), 1)])`,
  },
];

const quote = pg.escapeIdentifier;

/** A random series of schema changes and rows, all from one seed. */
export class SchemaWorkload {
  readonly #client: pg.Client;
  readonly #random: Random;
  /** False leaves out what nobody can see without the capture trigger. */
  readonly #trigger: boolean;
  #names = 0;
  readonly statements: string[] = [];

  private constructor(client: pg.Client, seed: number, trigger: boolean) {
    this.#client = client;
    this.#random = new Random(seed);
    this.#trigger = trigger;
  }

  static async start(url: string, seed: number, trigger: boolean): Promise<SchemaWorkload> {
    const client = new pg.Client(url);
    client.on('error', () => {}); // The next query tells.
    await client.connect();
    const workload = new SchemaWorkload(client, seed, trigger);
    await workload.#run("create type mood as enum ('sad', 'ok', 'happy')");
    await workload.#run('create schema other');
    for (let i = 0; i < 3; i++) await workload.#create();
    return workload;
  }

  async end(): Promise<void> {
    await this.#client.end();
  }

  /** `steps` steps, some of them in a transaction, some of these rolled back. */
  async run(steps: number): Promise<void> {
    for (let i = 0; i < steps; i++) {
      const random = this.#random.int(10);
      if (random < 6) await this.#step();
      else await this.#transaction(random);
    }
  }

  /** One row into every table, so that without the trigger everyone has heard of its columns. */
  async touch(): Promise<void> {
    for (const table of await this.tables()) await this.#insert(table);
  }

  async tables(): Promise<TableState[]> {
    const { rows } = await this.#client.query<{ name: string; columns: ColumnInfo[] }>(
      `select format('%I.%I', n.nspname, c.relname) as name,
         json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
           'key', exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and a.attnum = any (i.indkey))) order by a.attnum) as columns
       from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
       where c.relkind = 'r' and n.nspname in ('public', 'other') and a.attnum > 0 and not a.attisdropped
       group by c.oid, n.nspname, c.relname order by c.oid`,
    );
    return rows;
  }

  async #transaction(kind: number): Promise<void> {
    await this.#run('begin');
    const steps = 1 + this.#random.int(4);
    for (let i = 0; i < steps; i++) {
      const savepoint = this.#random.int(3) === 0;
      if (savepoint) await this.#run('savepoint s');
      await this.#step();
      if (savepoint) await this.#run(this.#random.int(2) === 0 ? 'rollback to s' : 'release s');
    }
    await this.#run(kind === 9 ? 'rollback' : 'commit');
  }

  async #step(): Promise<void> {
    const tables = await this.tables();
    if (tables.length < 2) return this.#create();
    const table = this.#random.pick(tables);
    if (this.#random.int(10) < 6) await this.#change(table);
    else await this.#alter(table);
  }

  /** The statement may fail, as people's do; inside a transaction it is undone alone. */
  async #run(sql: string): Promise<void> {
    const inside = !/^(begin|commit|rollback|savepoint|release)/.test(sql) && this.statements.length > 0;
    this.statements.push(sql);
    if (!inside) {
      await this.#client.query(sql);
      return;
    }
    const open = this.#open();
    if (open) await this.#client.query('savepoint statement');
    try {
      await this.#client.query(sql);
      if (open) await this.#client.query('release statement');
    } catch (error) {
      this.statements[this.statements.length - 1] = `-- ${(error as Error).message}: ${sql}`;
      if (open) await this.#client.query('rollback to statement');
    }
  }

  #open(): boolean {
    const last = this.statements.findLast((sql) => /^(begin|commit|rollback$)/.test(sql));
    return last === 'begin';
  }

  #name(prefix: string): string {
    return `${prefix}${++this.#names}`;
  }

  async #create(name = this.#name('t')): Promise<void> {
    await this.#run(`create table public.${quote(name)} (id int primary key, a integer, b text)`);
    for (let i = 0; i < 5; i++) await this.#run(`insert into public.${quote(name)} values (${i}, ${i}, 'row ${i}')`);
  }

  async #insert({ name, columns }: TableState): Promise<void> {
    const values = columns.map((column) =>
      column.key && column.name === 'id' ? `${this.#random.int(100_000)}` : this.#value(column),
    );
    await this.#run(
      `insert into ${name} (${columns.map((column) => quote(column.name)).join(', ')}) values (${values.join(', ')}) on conflict do nothing`,
    );
  }

  #value({ type, key }: ColumnInfo): string {
    const n = this.#random.int(1000);
    const known = TYPES.find((one) => one.type === type || (one.type === 'mood' && type.endsWith('mood')));
    if (!known || (!key && this.#random.int(6) === 0)) return 'null';
    return known.value(n);
  }

  async #change(table: TableState): Promise<void> {
    const random = this.#random;
    const plain = table.columns.filter((column) => !column.key);
    switch (random.int(8)) {
      case 0:
      case 1:
      case 2:
        for (let i = 0; i < 3; i++) await this.#insert(table);
        return;
      case 3:
      case 4:
      case 5: {
        if (plain.length === 0) return;
        const column = random.pick(plain);
        await this.#run(
          `update ${table.name} set ${quote(column.name)} = ${this.#value(column)} where id % 3 = ${random.int(3)}`,
        );
        return;
      }
      case 6:
        await this.#run(`delete from ${table.name} where id % 7 = ${random.int(7)}`);
        return;
      default:
        await this.#run(
          random.int(4) === 0
            ? `truncate ${table.name}`
            : `update ${table.name} set id = id + 200000 where id = ${random.int(6)}`,
        );
    }
  }

  async #alter(table: TableState): Promise<void> {
    const random = this.#random;
    const plain = table.columns.filter((column) => !column.key);
    const column = plain.length > 0 ? random.pick(plain) : null;
    const type = random.pick(TYPES);
    const alter = `alter table ${table.name}`;
    const fresh = quote(random.int(3) === 0 ? random.pick(['c', 'C x', 'd"q']) : this.#name('c'));
    const kind = random.int(this.#trigger ? 17 : 8);
    const known = TYPES.find((one) => one.type === column?.type);
    // What everyone can follow comes first, what needs the trigger after.
    if (kind === 0) return this.#run(`${alter} add ${fresh} ${type.type}`);
    if (kind === 1)
      return this.#run(
        `${alter} add ${fresh} ${type.type} default ${type.value(random.int(1000)).replace(/^\(select.*/, "'ok'")}`,
      );
    if (kind === 2) return this.#run(`${alter} add ${fresh} uuid default gen_random_uuid()`);
    if (kind === 3 && column) return this.#run(`${alter} drop ${quote(column.name)}`);
    if (kind === 4 && column) return this.#run(`${alter} rename ${quote(column.name)} to ${fresh}`);
    if (kind === 5) return this.#run(`${alter} rename to ${this.#name('t')}`);
    if (kind === 6 && column && known?.to) return this.#run(`${alter} alter ${quote(column.name)} type ${known.to}`);
    if (kind === 7) return this.#run(`${alter} replica identity ${random.pick(['full', 'default'])}`);
    if (kind === 8 && column) return this.#run(`${alter} alter ${quote(column.name)} type ${column.type} using null`);
    if (kind === 9 && column)
      return this.#run(`${alter} alter ${quote(column.name)} type text using 'was ' || ${quote(column.name)}::text`);
    if (kind === 10 && column)
      return this.#run(`${alter} drop ${quote(column.name)}, add ${quote(column.name)} ${type.type}`);
    if (kind === 11) {
      await this.#run(`drop table ${table.name}`);
      if (random.int(2) === 0 && table.name.startsWith('public.'))
        await this.#create(table.name.slice('public.'.length));
      return;
    }
    if (kind === 12)
      return this.#run(
        `alter type mood rename value ${pg.escapeLiteral(await this.#label())} to ${pg.escapeLiteral(this.#name('m'))}`,
      );
    if (kind === 13)
      return this.#run(
        `alter type mood add value ${pg.escapeLiteral(this.#name('m'))} before ${pg.escapeLiteral(await this.#label())}`,
      );
    if (kind === 14) return this.#run(`${alter} set schema ${table.name.startsWith('public.') ? 'other' : 'public'}`);
    if (kind === 15 && column)
      return this.#run(
        `${alter} alter ${quote(column.name)} set default ${known?.value(3).replace(/^\(select.*/, 'null') ?? 'null'}, add ${fresh} integer default 5`,
      );
    if (kind === 16) return this.#swap(table);
  }

  /** A new table takes the name of the old one, as people do to rebuild it. */
  async #swap({ name }: TableState): Promise<void> {
    if (!name.startsWith('public.')) return;
    const fresh = this.#name('t');
    await this.#run(`create table public.${fresh} (like ${name} including all)`);
    await this.#run(`insert into public.${fresh} select * from ${name}`);
    await this.#run(`drop table ${name}`);
    await this.#run(`alter table public.${fresh} rename to ${name.slice('public.'.length)}`);
  }

  async #label(): Promise<string> {
    const { rows } = await this.#client.query<{ label: string }>(
      "select enumlabel as label from pg_enum e join pg_type t on t.oid = e.enumtypid where typname = 'mood' order by enumsortorder",
    );
    return this.#random.pick(rows).label;
  }
}
