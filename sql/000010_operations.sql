-- Writes that Waltide was asked to make (its write API). A row is inserted in the very transaction that makes the write, so
-- that an operation was made exactly if it is here as 'committed'. 'queued' is a weak one, which a worker makes later: in one
-- transaction with the change of its state, hence once, however often the worker is killed.
CREATE TABLE waltide.operations (
  id                uuid PRIMARY KEY,
  -- In this order queued ones are made.
  number            bigint GENERATED ALWAYS AS IDENTITY,
  slot_name         text NOT NULL,
  table_oid         oid NOT NULL,
  schema_name       text NOT NULL,
  table_name        text NOT NULL,
  operation_type    text NOT NULL CHECK (operation_type IN ('create', 'update', 'delete')),
  consistency_level text NOT NULL CHECK (consistency_level IN ('strong', 'eventual', 'weak')),
  strategy          text,
  -- Names of the sinks that were asked for; NULL for all.
  sinks             text[],
  -- By column. That of a new row is known once it is written.
  primary_key       json,
  -- Kept as long as it is needed: until it is written.
  data              json,
  state             text NOT NULL CHECK (state IN ('queued', 'committed', 'failed')),
  attempts          int NOT NULL DEFAULT 0,
  error_code        text,
  error             text,
  -- Everything of the write was committed before it; NULL for a moment after the commit.
  commit_lsn        pg_lsn,
  created_at        timestamptz NOT NULL DEFAULT now(),
  finished_at       timestamptz
);

CREATE UNIQUE INDEX operations_queued ON waltide.operations (slot_name, number) WHERE state = 'queued';
CREATE INDEX operations_finished ON waltide.operations (slot_name, finished_at) WHERE state <> 'queued';
