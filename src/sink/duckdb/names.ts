/** One SQL identifier, quoted whatever it holds: DuckDB reserves words that PostgreSQL does not (`at`, `end`). */
export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** One SQL string literal. */
export function quoteText(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** What DuckDB compares names by: it ignores the case of ASCII letters, and of no others. */
export function foldName(name: string): string {
  return name.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

/** Schema `_waltide` of the file is Waltide's own. */
export const BOOKKEEPING = '_waltide';

/** The DuckDB schema of a PostgreSQL schema: `public` is where people look first, as is `main` in DuckDB. */
export function targetSchema(schema: string): string {
  return schema === 'public' ? 'main' : schema;
}

/**
 * Tables of Waltide's own that lie in the schema of the table they belong to, since DuckDB moves none between schemas.
 * A source table of such a name is refused.
 */
export const OWN_TABLE = '_waltide_';

/** Where the rows of a snapshot are gathered until it is complete. */
export function shadowTable(table: string): string {
  return `${OWN_TABLE}shadow_${table}`;
}

/** Where a table is copied to inside one transaction. */
export function copyTable(table: string): string {
  return `${OWN_TABLE}copy_${table}`;
}

/** In schema `_waltide`: which rows a chunk that was loaded into this shadow table replaces. */
export function settleTable(shadow: { readonly schema: string; readonly table: string }): string {
  return `chunk of ${shadow.schema}.${shadow.table}`;
}
