-- 'prepared': `waltide setup` has made the slot, and nothing has been read through it; the first copy makes it anew, at its own point.
ALTER TABLE waltide.slots DROP CONSTRAINT slots_state_check;
ALTER TABLE waltide.slots ADD CONSTRAINT slots_state_check CHECK (state IN ('prepared', 'copying', 'streaming'));
