-- The columns and key that the rows read so far have (postgres/snapshots.ts, Layout). A snapshot that goes on begins again where
-- the table has others by now; NULL where it has to begin anyway.
ALTER TABLE waltide.snapshots ADD COLUMN layout jsonb;
