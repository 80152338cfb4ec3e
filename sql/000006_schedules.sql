-- How far each schedule of a configuration is. Every process of a slot runs the same schedules; an occurrence is taken by
-- whoever moves `due_at` to it first. The runs themselves are in sync_history, under the schedule's name.
CREATE TABLE waltide.schedules (
  slot_name    text NOT NULL,
  name         text NOT NULL,
  type         text NOT NULL,
  cron         text NOT NULL,
  time_zone    text NOT NULL,
  -- The last occurrence that was taken; what lies between it and now was missed.
  due_at       timestamptz NOT NULL,
  next_due_at  timestamptz,
  -- The instance that has taken it and not begun yet. If it dies before, another takes the occurrence over.
  taken_by     text,
  -- Somebody wants a run now.
  requested_at timestamptz,
  last_run_id  bigint,
  last_run_at  timestamptz,
  -- Why the last occurrence did not become a run; NULL where it did.
  note         text,
  created_at   timestamptz NOT NULL DEFAULT now(),
  updated_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (slot_name, name)
);
