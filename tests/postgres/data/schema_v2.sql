-- Bookkeeping of standfast in PostgreSQL, version 1.
CREATE SCHEMA IF NOT EXISTS standfast;

CREATE TABLE standfast.schema_version (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Versions and cursors mean something only within one history.
CREATE TABLE standfast.identity (
    single      boolean PRIMARY KEY DEFAULT true CHECK (single),
    identity    uuid NOT NULL DEFAULT gen_random_uuid(),
    epoch       bigint NOT NULL DEFAULT 1,
    environment text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO standfast.identity DEFAULT VALUES;

CREATE TABLE standfast.collections (
    name          text COLLATE "C" PRIMARY KEY,
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    key_column    text NOT NULL,
    adopted       boolean NOT NULL DEFAULT false,
    shape         text NOT NULL DEFAULT 'object',
    key_field     text,
    version_floor bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE standfast.lanes (
    lane       uuid NOT NULL,
    generation integer NOT NULL DEFAULT 0,
    watermark  bigint NOT NULL DEFAULT 0,
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'fenced')),
    outcomes   text NOT NULL DEFAULT '[]',
    directory  uuid,
    opened_at  timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (lane, generation)
) WITH (fillfactor = 50);

-- One row per statement, never one per document.
CREATE TABLE standfast.changes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    collection text NOT NULL,
    keys       text[],                     -- NULL: anything in the collection
    at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX changes_xid ON standfast.changes (xid);
CREATE INDEX changes_at ON standfast.changes (at);

CREATE TABLE standfast.tombstones (
    collection text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, key)
);
CREATE INDEX tombstones_deleted_at ON standfast.tombstones (deleted_at);

CREATE TABLE standfast.conflicts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    lane        uuid,
    seq         bigint,
    collection  text NOT NULL,
    key         text NOT NULL,
    kind        text NOT NULL,
    reason      text NOT NULL,
    base        text,
    mine        text,
    theirs      text,
    state       text NOT NULL DEFAULT 'open',
    resolved_at timestamptz,
    resolution  text
);

CREATE TABLE standfast.runs (
    run        text PRIMARY KEY,
    state      text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    report     text NOT NULL DEFAULT '{}'
);

-- The triggers' functions.  Arguments: collection, key column.  They run with the rights of their
-- owner, because a foreign writer need not have any on this schema.

-- Whether the exact text holds something that its projection in `data` does not.
CREATE FUNCTION standfast.is_lossy(raw text, data jsonb) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN raw IS NOT NULL AND raw::jsonb IS DISTINCT FROM data;
EXCEPTION WHEN data_exception THEN
    RETURN true;
END $$;

CREATE FUNCTION standfast.bury(collection_name text, dead_key text, dead_version bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO standfast.tombstones AS t (collection, key, version)
    VALUES (collection_name, dead_key, dead_version)
    ON CONFLICT (collection, key)
    DO UPDATE SET version = greatest(t.version, excluded.version), deleted_at = now()
$$;

CREATE FUNCTION standfast.stamp_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_key text;
BEGIN
    EXECUTE format('SELECT ($1).%I::text', TG_ARGV[1]) INTO this_key USING NEW;
    SELECT greatest(c.version_floor, coalesce(t.version, 0)) + 1 INTO NEW.version
      FROM standfast.collections c
      LEFT JOIN standfast.tombstones t ON t.collection = c.name AND t.key = this_key
     WHERE c.name = TG_ARGV[0];
    NEW.version := coalesce(NEW.version, 1);
    NEW.raw := NULL;
    RETURN NEW;
END $$;

CREATE FUNCTION standfast.stamp_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_key text;
    new_key text;
BEGIN
    EXECUTE format('SELECT ($1).%1$I::text, ($2).%1$I::text', TG_ARGV[1])
       INTO old_key, new_key USING OLD, NEW;
    IF NEW.data::text IS NOT DISTINCT FROM OLD.data::text
       AND NEW.expires_at IS NOT DISTINCT FROM OLD.expires_at AND new_key = old_key THEN
        RETURN NEW;
    END IF;
    NEW.version := OLD.version + 1;
    IF new_key <> old_key THEN
        PERFORM standfast.bury(TG_ARGV[0], old_key, OLD.version + 1);
        SELECT greatest(NEW.version, max(t.version) + 1) INTO NEW.version
          FROM standfast.tombstones t WHERE t.collection = TG_ARGV[0] AND t.key = new_key;
    END IF;
    IF NEW.data::text IS DISTINCT FROM OLD.data::text THEN
        IF standfast.is_lossy(OLD.raw, OLD.data::jsonb) THEN
            INSERT INTO standfast.conflicts (collection, key, kind, reason, mine, theirs)
            VALUES (TG_ARGV[0], old_key, 'put', 'raw_discarded', OLD.raw, NEW.data::text);
        END IF;
        NEW.raw := NULL;
        IF NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at THEN
            NEW.updated_at := now();
        END IF;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION standfast.stamp_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_key text;
BEGIN
    EXECUTE format('SELECT ($1).%I::text', TG_ARGV[1]) INTO this_key USING OLD;
    PERFORM standfast.bury(TG_ARGV[0], this_key, OLD.version + 1);
    RETURN NULL;
END $$;

-- Above 1,000 rows the keys are not listed: the reader looks at the whole collection.
CREATE FUNCTION standfast.log_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO standfast.changes (collection, keys)
         SELECT $1, CASE WHEN count(*) <= 1000 THEN array_agg(%I::text) END
           FROM new_rows HAVING count(*) > 0', TG_ARGV[1]) USING TG_ARGV[0];
    RETURN NULL;
END $$;

-- Only rows whose key or version is another than before: the key of a renamed row counts twice.
CREATE FUNCTION standfast.log_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO standfast.changes (collection, keys)
         SELECT $1, CASE WHEN count(*) <= 1000 THEN array_agg(k) END
           FROM (SELECT DISTINCT k
                   FROM (SELECT %1$I::text AS k, version FROM old_rows
                         UNION ALL SELECT %1$I::text, version FROM new_rows) AS both_rows
                  GROUP BY k, version HAVING count(*) = 1) AS touched
         HAVING count(*) > 0', TG_ARGV[1]) USING TG_ARGV[0];
    RETURN NULL;
END $$;

CREATE FUNCTION standfast.log_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO standfast.changes (collection, keys)
         SELECT $1, CASE WHEN count(*) <= 1000 THEN array_agg(%I::text) END
           FROM old_rows HAVING count(*) > 0', TG_ARGV[1]) USING TG_ARGV[0];
    RETURN NULL;
END $$;

CREATE FUNCTION standfast.log_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    highest bigint;
BEGIN
    BEGIN
        EXECUTE format('SELECT max(version) FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME)
           INTO highest;
    EXCEPTION WHEN insufficient_privilege THEN
        -- The table is another role's than this function: a number above any that it can hold.
        highest := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    END;
    UPDATE standfast.collections SET version_floor = greatest(version_floor, highest + 1)
     WHERE name = TG_ARGV[0] AND highest IS NOT NULL;
    INSERT INTO standfast.changes (collection, keys) VALUES (TG_ARGV[0], NULL);
    RETURN NULL;
END $$;
INSERT INTO standfast.schema_version (version) VALUES (1);
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
INSERT INTO standfast.schema_version (version) VALUES (2);
