-- Bookkeeping of standfast in PostgreSQL, version 2: what the replay of journaled writes needs.

-- The lanes of one data directory are asked for with every write and read of its processes.
CREATE INDEX lanes_directory ON standfast.lanes (directory);
CREATE INDEX conflicts_name ON standfast.conflicts (lane, seq);
CREATE INDEX conflicts_open ON standfast.conflicts (id) WHERE state = 'open';
-- Where in its document an append or increment belongs: without it nobody could apply it again.
ALTER TABLE standfast.conflicts ADD COLUMN pointer text NOT NULL DEFAULT '';

-- Called after a statement has its locks: what outlived its deadline must not take effect, since
-- its caller was answered otherwise and others may have written since.
CREATE FUNCTION standfast.expire(until timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF clock_timestamp() > until THEN
        RAISE EXCEPTION 'the statement outlived its deadline' USING ERRCODE = 'SF001';
    END IF;
    RETURN true;
END $$;

-- Abort the transaction when a statement did not touch the rows that it was meant to.
CREATE FUNCTION standfast.require(fine boolean) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF fine IS NOT TRUE THEN
        RAISE EXCEPTION 'another writer was faster' USING ERRCODE = 'SF002';
    END IF;
    RETURN true;
END $$;

-- The end of a batch of puts, when its rows are ours.  Being volatile, it sees what was committed
-- meanwhile: a tombstone, above whose version the put would have to go; and the watermarks, which
-- then say exactly which ops are in the rows.
CREATE FUNCTION standfast.finish_puts(
    done bigint, wanted bigint, collection_name text, put_keys text[], of_directory uuid,
    until timestamptz, OUT server_us bigint, OUT watermarks text)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM standfast.require(done = wanted AND NOT EXISTS (
        SELECT 1 FROM standfast.tombstones t
         WHERE t.collection = collection_name AND t.key = ANY (put_keys)));
    SELECT jsonb_object_agg(l.lane, l.watermark)::text INTO watermarks
      FROM standfast.lanes l WHERE l.directory = of_directory AND l.state = 'open';
    PERFORM standfast.expire(until);
    server_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
END $$;
