-- Snapshots of single tables beside the stream: requests, progress and history. A row with state 'pending' is a request,
-- which the capturing process takes up; any process may write one, pause it, or ask for its end.
CREATE TABLE waltide.snapshots (
  id                  text PRIMARY KEY,
  slot_name           text NOT NULL,
  table_oid           oid NOT NULL,
  schema_name         text NOT NULL,
  table_name          text NOT NULL,
  -- 'incremental' replaces the table in the sinks once all of it has come; 'partial' refreshes some rows in place.
  kind                text NOT NULL DEFAULT 'incremental' CHECK (kind IN ('incremental', 'partial')),
  -- Names of the sinks that it is for; NULL for all.
  sinks               text[],
  -- A condition for the rows of a partial one.
  where_sql           text,
  rows_per_second_max int CHECK (rows_per_second_max > 0),
  -- Who wanted it, in words: a person, a new table, a new sink.
  reason              text NOT NULL,
  -- 'cancelling': asked for, and the sinks have not been told yet.
  state               text NOT NULL DEFAULT 'pending'
                      CHECK (state IN ('pending', 'running', 'paused', 'cancelling', 'completed', 'cancelled', 'failed')),
  -- True once its beginning is durable downstream: from here on its end must be told as well.
  begun               boolean NOT NULL DEFAULT false,
  -- The key of the last row that is durable downstream, as PostgreSQL prints its columns; NULL before the first.
  cursor_key          text[],
  -- Keys that must be read once more, each an array like cursor_key: rows that moved where the cursor had passed.
  rereads             jsonb NOT NULL DEFAULT '[]',
  rows_done           bigint NOT NULL DEFAULT 0,
  bytes_done          bigint NOT NULL DEFAULT 0,
  -- The planner's guess; 0 when it has none.
  rows_estimated      bigint NOT NULL DEFAULT 0,
  error               text,
  created_at          timestamptz NOT NULL DEFAULT now(),
  started_at          timestamptz,
  updated_at          timestamptz NOT NULL DEFAULT now(),
  finished_at         timestamptz
);

-- One at a time per table: two would tell each other's rows apart by nothing.
CREATE UNIQUE INDEX snapshots_active ON waltide.snapshots (slot_name, table_oid)
  WHERE state IN ('pending', 'running', 'paused', 'cancelling');
CREATE INDEX snapshots_slot ON waltide.snapshots (slot_name, created_at);
