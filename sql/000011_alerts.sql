-- Alerts: conditions that somebody should know of. One row is one occurrence, from when its condition was first seen to when it is
-- resolved; at most one is open of each (slot, rule, subject). Rows are changed under the slot's advisory lock (postgres/alerts.ts), so that
-- several processes may look at once, and what is to be told is written in the same transaction.
CREATE TABLE waltide.alerts (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot_name       text NOT NULL,
  -- sink_lag, dead_letters, …
  rule            text NOT NULL,
  -- Whom it is about: a sink, a slot, a sync type, a process.
  subject         text NOT NULL,
  -- pending = it holds, but not for as long as the rule asks. It is deleted where it passes before.
  state           text NOT NULL CHECK (state IN ('pending', 'firing', 'acknowledged', 'resolved')),
  severity        text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  summary         text NOT NULL,
  value           double precision,
  threshold       double precision,
  -- Since when it holds.
  since           timestamptz NOT NULL,
  opened_at       timestamptz,
  -- Since when it is clear, or less severe than it was; NULL while neither.
  clear_since     timestamptz,
  acknowledged_at timestamptz,
  acknowledged_by text,
  note            text,
  resolved_at     timestamptz,
  -- Who looked last, and when.
  observed_at     timestamptz NOT NULL,
  observed_by     text NOT NULL
);
CREATE UNIQUE INDEX alerts_open ON waltide.alerts (slot_name, rule, subject) WHERE state <> 'resolved';
CREATE INDEX alerts_resolved ON waltide.alerts (resolved_at) WHERE resolved_at IS NOT NULL;

-- What became of each.
CREATE TABLE waltide.alert_history (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  alert_id bigint NOT NULL REFERENCES waltide.alerts ON DELETE CASCADE,
  at       timestamptz NOT NULL,
  -- changed = of another severity than before.
  event    text NOT NULL CHECK (event IN ('opened', 'changed', 'acknowledged', 'resolved')),
  severity text NOT NULL,
  summary  text NOT NULL,
  value    double precision,
  -- The instance that saw it, or the person that acknowledged it.
  by       text NOT NULL,
  note     text
);
CREATE INDEX alert_history_alert ON waltide.alert_history (alert_id, id);

-- What webhooks are to be told. A process takes one by moving `next_at` beyond the time that an attempt may take; if it dies, another
-- takes it after that: at least once, with the same id.
CREATE TABLE waltide.alert_notifications (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot_name  text NOT NULL,
  alert_id   bigint NOT NULL REFERENCES waltide.alerts ON DELETE CASCADE,
  event_id   bigint NOT NULL REFERENCES waltide.alert_history ON DELETE CASCADE,
  -- Its name in the configuration.
  webhook    text NOT NULL,
  -- As it was when it happened.
  payload    jsonb NOT NULL,
  -- failed = given up after as many attempts as the webhook allows.
  state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'failed')),
  attempts   int NOT NULL DEFAULT 0,
  next_at    timestamptz NOT NULL DEFAULT now(),
  last_error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  sent_at    timestamptz,
  UNIQUE (event_id, webhook)
);
CREATE INDEX alert_notifications_due ON waltide.alert_notifications (slot_name, webhook, next_at) WHERE state = 'pending';
CREATE INDEX alert_notifications_alert ON waltide.alert_notifications (alert_id, webhook);
