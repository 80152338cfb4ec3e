-- Comparisons of sinks with the source. A row with state 'running' whose process died can be resumed from its results.
CREATE TABLE waltide.validations (
  id          text PRIMARY KEY,
  slot_name   text NOT NULL,
  -- What was asked for: tables, sinks, checks and so on.
  request     jsonb NOT NULL,
  state       text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'completed', 'failed', 'cancelled')),
  -- Percent of rows that are equal, the lowest of all tables; NULL before the end.
  score       numeric(5, 2),
  -- True where nothing differs, no reference leads nowhere and every rule holds.
  ok          boolean,
  -- References and rules, as the report gives them.
  report      jsonb,
  error       text,
  started_at  timestamptz NOT NULL DEFAULT now(),
  updated_at  timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
);
CREATE INDEX validations_slot ON waltide.validations (slot_name, started_at);

-- One table in one sink.
CREATE TABLE waltide.validation_results (
  validation_id text NOT NULL REFERENCES waltide.validations ON DELETE CASCADE,
  sink          text NOT NULL,
  -- schema.table
  table_name    text NOT NULL,
  -- The key up to which it is compared, as PostgreSQL prints its columns; NULL before the first save and at the end.
  cursor_key    text[],
  finished      boolean NOT NULL DEFAULT false,
  -- The source was read as of here, and the sink had passed it where anything differed.
  lsn           pg_lsn,
  source_rows   bigint NOT NULL,
  sink_rows     bigint NOT NULL,
  missing       bigint NOT NULL,
  extra         bigint NOT NULL,
  different     bigint NOT NULL,
  unsettled     bigint NOT NULL,
  repaired      bigint NOT NULL,
  score         numeric(5, 2) NOT NULL,
  -- The whole result as the report gives it, with the differences.
  result        jsonb NOT NULL,
  updated_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (validation_id, sink, table_name)
);
