-- Bookkeeping of a SQLite file, version 2.
CREATE INDEX _standfast_conflicts_name ON _standfast_conflicts (lane, seq);
ALTER TABLE _standfast_lanes ADD COLUMN directory TEXT;
ALTER TABLE _standfast_conflicts ADD COLUMN pointer TEXT NOT NULL DEFAULT '';
