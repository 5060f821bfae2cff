-- Bookkeeping of a SQLite file, version 5: collections that are dropped.

-- The highest version in any collection that was dropped.  Those that are made later begin above it.
ALTER TABLE _standfast_identity ADD COLUMN version_floor INTEGER NOT NULL DEFAULT 0;
