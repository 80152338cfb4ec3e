-- What Waltide must remember about each of its slots, kept in the source so that it dies and moves with the slot.
CREATE TABLE waltide.slots (
  slot_name        text PRIMARY KEY,
  -- 'copying': existing rows have not all arrived; such a slot is dropped and made anew at the next start.
  -- 'streaming': every row of before the consistent point is durable downstream.
  state            text NOT NULL CHECK (state IN ('copying', 'streaming')),
  consistent_point pg_lsn,
  -- The tables that were copied: [{"oid": 16385, "schema": "public", "table": "orders"}, ...].
  tables           jsonb NOT NULL DEFAULT '[]',
  created_at       timestamptz NOT NULL DEFAULT now(),
  copied_at        timestamptz
);
