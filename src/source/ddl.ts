import { parseArray } from '../event/array-text.ts';
import type { Column, Relation, ReplicaIdentity } from '../event/relation.ts';
import type { ColumnDefinition, SchemaChange } from '../event/schema-change.ts';
import { typeName } from '../event/type-name.ts';
import type { TypeCatalog, TypeRow } from '../postgres/catalog.ts';

/** Prefix of what the capture trigger writes (sql/ddl-capture.sql). */
export const DDL_PREFIX = 'waltide.ddl';

interface DescribedColumn {
  readonly attnum: number;
  readonly name: string;
  readonly typeOid: number;
  readonly modifier: number;
  readonly generated: boolean;
  readonly notNull: boolean;
  readonly default: string | null;
  readonly hasDefault: boolean;
  /** An array of one, as `array_out` prints it; null for none. */
  readonly missing: string | null;
  /** What divides the elements of that array. */
  readonly delimiter: string;
}

/** The table as it is after the command. */
export interface AlteredTable {
  readonly event: 'alter';
  readonly command: string;
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  readonly persistence: 'p' | 'u';
  readonly replicaIdentity: ReplicaIdentity;
  readonly key: readonly number[];
  readonly columns: readonly DescribedColumn[];
  readonly dropped: readonly number[];
  readonly types: readonly TypeRow[];
  readonly publications: Readonly<Record<string, { columns: readonly number[] | null; generated: boolean }>>;
  readonly partitions: readonly number[];
  /** `pg_event_trigger_table_rewrite_reason()`: 1 persistence, 2 default of a column, 4 type of a column, 8 access method. */
  readonly rewrite: number;
  /** True where no USING clause can have had a part in the rewrite. */
  readonly plain: boolean;
  /** Columns whose values look different, though their type is the same: something inside it changed. */
  readonly indirect: readonly number[];
}

export interface DroppedTable {
  readonly event: 'drop';
  readonly command: string;
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
}

/** The trigger could not say what the command did. */
export interface FailedCapture {
  readonly event: 'failed';
  readonly command: string;
  readonly error: string;
}

export type DdlMessage = AlteredTable | DroppedTable | FailedCapture;

/** Null where the content is none of the trigger's: anybody may write a message with any prefix. */
export function readDdl(content: Buffer): DdlMessage | null {
  try {
    const message = JSON.parse(content.toString()) as DdlMessage & { version: number };
    if (message.version !== 1 || typeof message.command !== 'string') return null;
    if (message.event === 'failed') return message;
    if (typeof message.oid !== 'number' || typeof message.table !== 'string') return null;
    return message.event === 'drop' || (message.event === 'alter' && Array.isArray(message.columns)) ? message : null;
  } catch {
    return null;
  }
}

/** The columns that `publications` carry of the table: lists of columns and generated columns are theirs to say. */
function published(message: AlteredTable, publications: readonly string[]): DescribedColumn[] {
  const options = publications.flatMap((name) => message.publications[name] ?? []);
  const listed = options.find(({ columns }) => columns !== null)?.columns ?? null;
  const generated = options.some((option) => option.generated);
  return message.columns.filter((column) => (listed ? listed.includes(column.attnum) : generated || !column.generated));
}

/** The relation as pgoutput will describe it, with what only the trigger knows. `types` must have seen its types. */
export function relationOf(message: AlteredTable, publications: readonly string[], types: TypeCatalog): Relation {
  const { oid, schema, table, replicaIdentity } = message;
  const columns: Column[] = published(message, publications).map(({ name, attnum, typeOid, modifier }) => ({
    name,
    attnum,
    type: types.type(typeOid),
    modifier,
  }));
  const key = message.key.map((attnum) => columns.findIndex((column) => column.attnum === attnum));
  return { oid, schema, table, replicaIdentity, columns, key: key.includes(-1) ? [] : key.sort((a, b) => a - b) };
}

export function changeOf(message: AlteredTable, relation: Relation, from: SchemaChange['from']): SchemaChange {
  const described = new Map(message.columns.map((column) => [column.attnum, column]));
  return {
    kind: 'altered',
    command: message.command,
    from,
    rewritten: rewritten(message),
    columns: relation.columns.map((column) => definition(described.get(column.attnum!)!, column, message)),
  };
}

export function droppedChange({ command }: DroppedTable): SchemaChange {
  return { kind: 'dropped', command, from: null, rewritten: 'no', columns: [] };
}

/** Rows of a table came or went with a partition. */
export function movedRowsChange({ command }: DroppedTable): SchemaChange {
  return { kind: 'altered', command, from: null, rewritten: 'unknown', columns: [] };
}

/** The name before, where it was another. */
export function movedFrom(
  to: { readonly schema: string; readonly table: string },
  before: { readonly schema: string; readonly table: string } | null,
): SchemaChange['from'] {
  if (!before || (before.schema === to.schema && before.table === to.table)) return null;
  return { schema: before.schema, table: before.table };
}

const REWRITE_DEFAULT = 2;
const REWRITE_TYPE = 4;
const REWRITE_PERSISTENCE = 1;

function rewritten({ rewrite, plain, indirect }: AlteredTable): SchemaChange['rewritten'] {
  // What an unlogged table took in is nowhere in the WAL.
  if (indirect.length > 0 || (rewrite & (REWRITE_DEFAULT | REWRITE_PERSISTENCE)) !== 0) return 'unknown';
  if ((rewrite & REWRITE_TYPE) === 0) return 'no';
  return plain ? 'cast' : 'unknown';
}

/**
 * A rewrite writes the default of a new column into every row, and no longer says which it was. A column that a publication
 * takes in later has had its values before.
 */
function definition(described: DescribedColumn, column: Column, { rewrite, command }: AlteredTable): ColumnDefinition {
  const { attnum, name, notNull, default: expression, missing, delimiter, hasDefault } = described;
  const plain = { attnum, name, type: typeName(column.type, column.modifier), notNull, default: expression };
  if (missing !== null) {
    const [existing] = parseArray(missing, delimiter).elements;
    return typeof existing === 'string' ? { ...plain, existing } : plain;
  }
  const known = command !== 'ALTER PUBLICATION' && !(rewrite !== 0 && hasDefault);
  return known ? { ...plain, existing: null } : plain;
}
