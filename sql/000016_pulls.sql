-- How far each schedule of type pull is: its cursor moves in the very transaction that writes the page's rows.
CREATE TABLE waltide.pulls (
  slot_name  text NOT NULL,
  name       text NOT NULL,
  -- What the module gave with the last page that was written; NULL before the first.
  cursor     json,
  -- A run that another has overtaken finds another number than its own, and writes nothing.
  pages      bigint NOT NULL DEFAULT 0,
  row_count  bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (slot_name, name)
);
