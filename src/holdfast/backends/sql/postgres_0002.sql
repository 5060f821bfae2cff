-- Bookkeeping of holdfast in PostgreSQL, version 2: what the replay of journaled writes needs.

-- The lanes of one data directory are asked for with every write and read of its processes.
CREATE INDEX lanes_directory ON holdfast.lanes (directory);
CREATE INDEX ledger_name ON holdfast.ledger (lane, seq);
CREATE INDEX ledger_open ON holdfast.ledger (id) WHERE state = 'open';

-- Called after a statement has its locks: what outlived its deadline must not take effect, since
-- its caller was answered otherwise and others may have written since.
CREATE FUNCTION holdfast.expire(until timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF clock_timestamp() > until THEN
        RAISE EXCEPTION 'the statement outlived its deadline' USING ERRCODE = 'HF001';
    END IF;
    RETURN true;
END $$;

-- Abort the transaction when a statement did not touch the rows that it was meant to.
CREATE FUNCTION holdfast.require(fine boolean) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF fine IS NOT TRUE THEN
        RAISE EXCEPTION 'another writer was faster' USING ERRCODE = 'HF002';
    END IF;
    RETURN true;
END $$;
