import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { ColumnType, Relation } from '../src/event/relation.ts';
import { encodeTuple, Row } from '../src/event/row.ts';
import { targetOf } from '../src/sink/duckdb/mapping.ts';
import { RowCheck } from '../src/sink/duckdb/row-check.ts';
import { columnType } from '../test/support/column-type.ts';

/*
 * Writes docs/duckdb-types.md from the mapping itself. Every value named in it is tried: what the page says fits does,
 * and what it says does not fit does not. `npm run docs` writes it; a test fails where it is stale.
 */

const FILE = fileURLToPath(new URL('duckdb-types.md', import.meta.url));

interface Line {
  readonly type: string;
  readonly column: ColumnType;
  readonly modifier?: number;
  /** Values at the edges that are held exactly. */
  readonly fits?: readonly string[];
  readonly misfits?: readonly string[];
}

const user = (name: string, extra: Partial<ColumnType>): ColumnType => columnType(name, { schema: 'public', ...extra });
const arrayOf = (of: ColumnType): ColumnType =>
  columnType(`_${of.name}`, { kind: 'array', of, delimiter: of.delimiter });
const numeric = (precision: number, scale: number): number => ((precision << 16) | (scale & 0x7ff)) + 4;

const INFINITIES = ['infinity', '-infinity'];
const LINES: readonly Line[] = [
  { type: 'boolean', column: columnType('bool'), fits: ['t', 'f'] },
  { type: 'smallint', column: columnType('int2'), fits: ['-32768', '32767'] },
  { type: 'integer', column: columnType('int4'), fits: ['-2147483648', '2147483647'] },
  { type: 'bigint', column: columnType('int8'), fits: ['-9223372036854775808', '9223372036854775807'] },
  { type: 'oid', column: columnType('oid'), fits: ['4294967295'] },
  { type: 'real', column: columnType('float4'), fits: ['-0', 'NaN', 'Infinity', '1e-45'] },
  { type: 'double precision', column: columnType('float8'), fits: ['-0', 'NaN', '-Infinity', '5e-324'] },
  {
    type: 'numeric(p,s), p ≤ 38, 0 ≤ s ≤ p',
    column: columnType('numeric'),
    modifier: numeric(10, 2),
    fits: ['-99999999.99'],
    misfits: ['NaN'],
  },
  { type: 'numeric, and with any other p and s', column: columnType('numeric'), fits: ['NaN', 'Infinity', '1e131071'] },
  { type: 'text, varchar, char(n)', column: columnType('text'), fits: ['any text, char(n) with its blanks'] },
  { type: 'bytea', column: columnType('bytea'), fits: ['\\x', '\\x00ff'] },
  { type: 'date', column: columnType('date'), fits: ['4714-11-24 BC', '5874897-12-31', ...INFINITIES] },
  { type: 'time', column: columnType('time'), fits: ['23:59:59.999999', '24:00:00'] },
  {
    type: 'timestamp',
    column: columnType('timestamp'),
    fits: ['4714-11-24 00:00:00 BC', '294247-01-10 04:00:54.775806', ...INFINITIES],
    misfits: ['294247-01-10 04:00:54.775807', '294276-12-31 23:59:59.999999'],
  },
  {
    type: 'timestamptz',
    column: columnType('timestamptz'),
    fits: ['4714-11-24 00:00:00+00 BC', '294247-01-10 04:00:54.775806+00', ...INFINITIES],
    misfits: ['294247-01-10 04:00:54.775807+00', '294276-12-31 23:59:59.999999+00'],
  },
  { type: 'uuid', column: columnType('uuid'), fits: ['ffffffff-ffff-ffff-ffff-ffffffffffff'] },
  { type: 'json, jsonb', column: columnType('jsonb'), fits: ['{"a": 1.50}', '[1e400]', '"\\\\ud800"'] },
  { type: 'an enum', column: user('mood', { kind: 'enum', labels: ['sad', "it's"] }), fits: ['sad', "it's"] },
  {
    type: 'an array, of one dimension from 1',
    column: arrayOf(columnType('int4')),
    fits: ['{1,NULL}', '{}'],
    misfits: ['{{1,2},{3,4}}', '[0:1]={1,2}'],
  },
  {
    type: 'numeric(p,s)[]',
    column: arrayOf(columnType('numeric')),
    modifier: numeric(10, 2),
    fits: ['{1.50,NULL}'],
    misfits: ['{NaN}', '{{1.50}}'],
  },
  {
    type: 'an array of an enum',
    column: arrayOf(user('mood', { kind: 'enum', labels: ['sad'] })),
    fits: ['{sad,NULL}'],
    misfits: ['{{sad}}'],
  },
  {
    type: 'an array of a type that is VARCHAR',
    column: arrayOf(columnType('interval')),
    fits: ['{"1 day",infinity}'],
    misfits: ['[0:0]={00:00:00}'],
  },
  { type: 'box[]', column: arrayOf(columnType('box', { delimiter: ';' })), fits: ['{(1,1),(0,0);(2,2),(0,0)}'] },
];

/** Types without an exact counterpart. */
const AS_TEXT: readonly string[] = [
  'interval, timetz',
  'money',
  'bit, varbit',
  'inet, cidr, macaddr, macaddr8',
  'point, line, lseg, box, path, polygon, circle',
  'tsvector, tsquery',
  'xml, jsonpath',
  'ranges and multiranges',
  'composite types',
  'name, "char", citext',
  'regclass, regtype and the like',
  'xid, xid8, cid, tid, pg_lsn, pg_snapshot',
  'aclitem, refcursor, int2vector, oidvector',
  'hstore, ltree, lquery, ltxtquery',
  'vector, halfvec, sparsevec (pgvector)',
  "any other extension's type",
];

/** Throws where the mapping does not do what a line says. */
function tried({ type, column, modifier = -1, fits = [], misfits = [] }: Line): string {
  const target = targetOf(column, modifier);
  const relation: Relation = {
    oid: 1,
    schema: 'public',
    table: 't',
    replicaIdentity: 'd',
    columns: [{ name: 'v', type: column, modifier }],
    key: [],
  };
  const check = new RowCheck([target], 134_217_728);
  const held = (text: string): boolean => check.misfits(new Row(relation, encodeTuple([text]), 0)).length === 0;
  for (const text of fits) if (!held(text)) throw new Error(`${type} does not hold ${text}`);
  for (const text of misfits) if (held(text)) throw new Error(`${type} holds ${text}`);
  const code = (texts: readonly string[]): string => texts.map((text) => `\`${text}\``).join(', ');
  const sql = column.kind === 'enum' ? 'ENUM' : target.sql.replace('(10,2)', '(p,s)');
  return `| ${type} | ${type.startsWith('an array, of') ? 'a LIST: `INTEGER[]`' : `\`${sql}\``} | ${code(fits)} | ${code(misfits) || 'nothing'} |`;
}

export function page(): string {
  return `# PostgreSQL types in DuckDB

<!-- Written by docs/duckdb-types.ts (npm run docs) from the code, with each value tried. Do not edit. -->

| PostgreSQL | DuckDB | Held exactly, for example | Does not fit, for example |
|---|---|---|---|
${LINES.map(tried).join('\n')}
${AS_TEXT.map((types) => `| ${types} | \`VARCHAR\` | PostgreSQL's text | nothing |`).join('\n')}

A domain is held as its base type is, a domain over a domain likewise.
Times with time zone are held as points in time; DuckDB shows them in its own session's time zone.
To DuckDB 0 and -0 are equal, as they are to PostgreSQL. Where it stores a run of equal floats once (its Constant and RLE
compression), a run of both comes back with one sign. No setting of DuckDB's changes that.

## A value that does not fit

\`onUnrepresentable\` of the sink says what happens. Nothing is ever changed without a word.

| | The value | The row | Where it shows |
|---|---|---|---|
| \`text\` (default) | The whole column becomes \`VARCHAR\`. All its values, old ones too, are what PostgreSQL prints. | is there | A warning in the log; \`text\` in the \`columns\` of \`_waltide.tables\` |
| \`dead-letter\` | Kept as text with its whole row, as a dead letter (docs/dead-letters.md). | is absent until a later change brings it whole, or deletes it | An error in the log, \`waltide dead-letter list\`; in \`_waltide.dead_letters\` of the file \`resolved_at\` is NULL for rows that are absent now |
| \`null\` | NULL is stored. In a key, \`dead-letter\` applies. | is there | A warning in the log |

A column that became text stays so, over restarts and schema changes, until the table is copied again.

Some rows not even text can hold. They are set aside under \`text\` as under \`dead-letter\`, and under \`null\` the value is
NULL: text that is not valid UTF-8, which a database in SQL_ASCII may hold, and rows longer than \`rowBytesMax\` (128 MB by
default, 512 MB at most; a byte of bytea counts twice).
`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(FILE, page());

/** True where the file says what the code does. */
export const isFresh = (): boolean => readFileSync(FILE, 'utf8') === page();
