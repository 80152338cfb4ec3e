-- What Waltide must remember about each of its slots, kept in the source so that it dies and moves with the slot.
CREATE TABLE waltide.slots (
  slot_name        text PRIMARY KEY,
  -- 'copying': the first copy is under way; the next start goes on from its slot and fills what was not finished.
  -- 'streaming': the slot must be there. Tables without their rows have a snapshot of their own (waltide.snapshots).
  state            text NOT NULL CHECK (state IN ('copying', 'streaming')),
  consistent_point pg_lsn,
  -- The tables that are captured: [{"oid": 16385, "schema": "public", "table": "orders", "filled": true}, ...].
  tables           jsonb NOT NULL DEFAULT '[]',
  created_at       timestamptz NOT NULL DEFAULT now(),
  copied_at        timestamptz
);
