-- When the WAL was where: what `waltide replay --since` finds its LSN by. A row a minute, pruned after eight days.
CREATE TABLE waltide.positions (
  -- Read before `at`: whatever committed after `at` lies after it.
  lsn pg_lsn PRIMARY KEY,
  at  timestamptz NOT NULL
);
CREATE INDEX ON waltide.positions (at);

-- How far a slot (name '') and its sinks were when last seen. A sink that opens behind its mark was restored from an
-- older backup; a slot that is held back on purpose (source.retain) need not be read again up to its mark.
CREATE TABLE waltide.marks (
  slot_name text NOT NULL,
  name      text NOT NULL,
  lsn       pg_lsn NOT NULL,
  at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (slot_name, name)
);
