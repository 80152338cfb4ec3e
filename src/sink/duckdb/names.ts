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
