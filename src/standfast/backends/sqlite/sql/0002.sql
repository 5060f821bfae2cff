-- Bookkeeping of a SQLite file, version 2.
CREATE INDEX _standfast_ledger_name ON _standfast_ledger (lane, seq);
ALTER TABLE _standfast_lanes ADD COLUMN directory TEXT;
ALTER TABLE _standfast_ledger ADD COLUMN pointer TEXT NOT NULL DEFAULT '';
