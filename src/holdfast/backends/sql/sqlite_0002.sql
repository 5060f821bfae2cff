-- Bookkeeping of a SQLite file, version 2.
CREATE INDEX _holdfast_ledger_name ON _holdfast_ledger (lane, seq);
ALTER TABLE _holdfast_lanes ADD COLUMN directory TEXT;
ALTER TABLE _holdfast_ledger ADD COLUMN pointer TEXT NOT NULL DEFAULT '';
