/** What became of values that no column of a store can hold as they are. Nothing of it is silent. */
export interface Losses {
  /** `schema.table.column` of columns that hold PostgreSQL's text instead of their own type. No value is lost there. */
  readonly textColumns: readonly string[];
  /** Rows that a table lacks, since they were set aside. */
  readonly deadLetters: number;
  /** Values stored as NULL since the process started. */
  readonly nulled: number;
}
