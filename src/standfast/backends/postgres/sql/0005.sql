-- Bookkeeping of standfast in PostgreSQL, version 5: collections that are dropped.

-- The highest version in any collection that was dropped.  Those that are made later begin above it,
-- so that a key which is made again under the same name never has a version for the second time.
ALTER TABLE standfast.identity ADD COLUMN version_floor bigint NOT NULL DEFAULT 0;
