-- What each slot's tables looked like, change by change, as the capture came by it in the stream.
CREATE TABLE waltide.schema_history (
  slot_name    text NOT NULL,
  table_oid    bigint NOT NULL,
  -- Position of the change in the stream: LSN of the commit record, and number of the change in its transaction.
  commit_lsn   pg_lsn NOT NULL,
  seq          bigint NOT NULL,
  -- Command tag as the capture trigger told it; NULL where it was seen by pgoutput's own description.
  command      text,
  -- Names at that time, for looking up.
  schema_name  text NOT NULL,
  table_name   text NOT NULL,
  -- The table before (NULL where it was seen for the first time) and after (NULL once it was dropped).
  old          jsonb,
  new          jsonb,
  -- no, cast or unknown: what became of the values of rows that were there.
  rewritten    text NOT NULL,
  committed_at timestamptz NOT NULL,
  recorded_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (slot_name, table_oid, commit_lsn, seq)
);
CREATE INDEX schema_history_name ON waltide.schema_history (slot_name, schema_name, table_name);
