-- Who may use the REST API, and what they did.

CREATE TABLE waltide.api_keys (
  -- The public part of the key, by which it is found; never reused.
  id text PRIMARY KEY,
  name text NOT NULL,
  role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
  -- SHA-256 of the secret part, which has 256 random bits: nothing slower is needed to keep it from being guessed.
  hash bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  created_by text NOT NULL,
  expires_at timestamptz,
  revoked_at timestamptz,
  -- To the minute: a write per request would cost more than it tells.
  last_used_at timestamptz
);
-- A name says who a key is for, and the audit log names keys by it; a revoked key gives its name free.
CREATE UNIQUE INDEX api_keys_name ON waltide.api_keys (name) WHERE revoked_at IS NULL;

CREATE TABLE waltide.audit_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- Written before the call does anything, so that one that kills the process is there too.
  at timestamptz NOT NULL DEFAULT now(),
  request_id text NOT NULL,
  principal text NOT NULL,
  role text NOT NULL,
  address text,
  -- The route as documented, and what stood in its place: bodies may hold rows, so they are not kept.
  method text NOT NULL,
  route text NOT NULL,
  target jsonb NOT NULL DEFAULT '{}',
  outcome text NOT NULL DEFAULT 'in_progress' CHECK (outcome IN ('in_progress', 'success', 'accepted', 'refused', 'error')),
  status int,
  error_code text,
  duration_ms float8
);
CREATE INDEX audit_log_at ON waltide.audit_log (at);

-- Whoever asks for a snapshot may say how large its chunks shall be.
ALTER TABLE waltide.snapshots ADD COLUMN chunk_rows int CHECK (chunk_rows > 0);
