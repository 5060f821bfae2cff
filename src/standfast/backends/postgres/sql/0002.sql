-- Bookkeeping of standfast in PostgreSQL, version 2: what the replay of journaled writes needs.

-- The lanes of one data directory are asked for with every write and read of its processes.
CREATE INDEX lanes_directory ON standfast.lanes (directory);
CREATE INDEX conflicts_name ON standfast.conflicts (lane, seq);
CREATE INDEX conflicts_open ON standfast.conflicts (id) WHERE state = 'open';
-- Where in its document an append or increment belongs: without it nobody could apply it again.
ALTER TABLE standfast.conflicts ADD COLUMN pointer text NOT NULL DEFAULT '';
