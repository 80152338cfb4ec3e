-- How tables looked when changes of theirs were refused: most letters of a table share one description.
CREATE TABLE waltide.dead_letter_relations (
  -- Hash of the description.
  id       text PRIMARY KEY,
  relation json NOT NULL
);

-- Changes that a sink refused, whole. A letter is committed here before the sink's offset passes its position, and the
-- position makes it one, however often the change comes again.
CREATE TABLE waltide.dead_letters (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot_name      text NOT NULL,
  -- '*' where the change never came into the log (a record that is too large for Kafka), so that every sink lacks it.
  sink           text NOT NULL,
  commit_lsn     pg_lsn NOT NULL,
  seq            bigint NOT NULL,
  xid            bigint NOT NULL,
  committed_at   timestamptz NOT NULL,
  table_oid      bigint NOT NULL,
  schema_name    text NOT NULL,
  table_name     text NOT NULL,
  -- Names the row: a JSON array of the texts of its key, or of all columns where there is none.
  row_name       text NOT NULL,
  op             text NOT NULL,
  -- Texts by column; what an update left out (unchanged TOAST) is absent, bytes that are no text are {"hex": "…"}. json, which keeps them as they are.
  before         json,
  after          json,
  relation_id    text NOT NULL REFERENCES waltide.dead_letter_relations,
  -- Every letter is of the class data: what heals by itself is tried again instead.
  error_class    text NOT NULL DEFAULT 'data',
  error_code     text NOT NULL,
  error_message  text NOT NULL,
  attempts       int NOT NULL DEFAULT 1,
  -- open = the sink lacks it. retrying = the process that holds the sink is to apply it. retried = it did. resolved = a later
  -- change brought the row whole, or deleted it. superseded = a later change of the row was refused, too.
  state          text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'retrying', 'retried', 'resolved', 'superseded', 'discarded')),
  -- A retry although the sink may have applied a later change of the row.
  forced         boolean NOT NULL DEFAULT false,
  -- What resolved or superseded it.
  closed_lsn     pg_lsn,
  closed_seq     bigint,
  superseded_by  bigint,
  -- Of a discard, as a person gave it.
  closed_reason  text,
  created_at     timestamptz NOT NULL DEFAULT now(),
  updated_at     timestamptz NOT NULL DEFAULT now(),
  closed_at      timestamptz,
  UNIQUE (slot_name, sink, commit_lsn, seq)
);
CREATE INDEX dead_letters_open ON waltide.dead_letters (slot_name, sink, table_oid) WHERE state IN ('open', 'retrying');
CREATE INDEX dead_letters_closed ON waltide.dead_letters (slot_name, closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX dead_letters_superseded ON waltide.dead_letters (superseded_by) WHERE superseded_by IS NOT NULL;
