-- Bookkeeping of standfast in PostgreSQL, version 6: a log of changes that costs our own statements
-- one plain row, and versions above those of the past in transactions of any isolation level.

-- It is trimmed in the order of its numbers, and whoever reads it one day says which index they need.
DROP INDEX standfast.changes_xid, standfast.changes_at;

-- Triggers whose transition tables copied the rows of every statement, ours too, are taken off a
-- table when it is next adopted: until then they do nothing.
CREATE OR REPLACE FUNCTION standfast.log_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION standfast.log_update() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION standfast.log_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NULL;
END $$;

-- Log a row that another program has changed: one row of the log for what a transaction does to a
-- collection, until it does something to another.  Above 1,000 keys they are not listed: the reader
-- looks at the whole collection.
CREATE FUNCTION standfast.log_key(of_collection text, of_key text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    row_id bigint := nullif(current_setting('standfast.log_id', true), '')::bigint;
    listed integer := coalesce(nullif(current_setting('standfast.log_keys', true), '')::integer, 0);
BEGIN
    IF row_id IS NOT NULL
       AND current_setting('standfast.log_of', true) IS NOT DISTINCT FROM of_collection THEN
        IF listed > 1000 THEN
            RETURN;
        END IF;
        -- The settings are not to be trusted: a row of this transaction, or none.
        UPDATE standfast.changes c
           SET keys = CASE WHEN of_key = ANY (c.keys) THEN c.keys
                           WHEN listed < 1000 THEN c.keys || of_key END
         WHERE c.id = row_id AND c.collection = of_collection AND c.xid = pg_current_xact_id()
        RETURNING coalesce(cardinality(c.keys), 1001) INTO listed;
        IF FOUND THEN
            PERFORM set_config('standfast.log_keys', listed::text, true);
            RETURN;
        END IF;
    END IF;
    INSERT INTO standfast.changes (collection, keys) VALUES (of_collection, ARRAY[of_key])
    RETURNING id INTO row_id;
    PERFORM set_config('standfast.log_id', row_id::text, true),
            set_config('standfast.log_of', of_collection, true),
            set_config('standfast.log_keys', '1', true);
END $$;
REVOKE ALL ON FUNCTION standfast.log_key(text, text) FROM PUBLIC;

-- The highest version that is known of a place.  With `locked` it stays the highest until the
-- transaction ends, and 40001 (serialization failure) is raised where another has raised it since
-- this one's snapshot: a reader would not see that, a writer is refused.
CREATE FUNCTION standfast.highest(of_collection text, of_key text, locked boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    floor bigint;
    buried bigint;
BEGIN
    IF NOT locked THEN
        SELECT c.version_floor, t.version INTO floor, buried
          FROM standfast.collections c
          LEFT JOIN standfast.tombstones t ON t.collection = c.name AND t.key = of_key
         WHERE c.name = of_collection;
    ELSE
        INSERT INTO standfast.tombstones AS t (collection, key, version)
        VALUES (of_collection, of_key, 0)
        ON CONFLICT (collection, key) DO UPDATE SET version = t.version
        RETURNING t.version INTO buried;
        IF buried = 0 THEN
            DELETE FROM standfast.tombstones t
             WHERE t.collection = of_collection AND t.key = of_key;
        END IF;
        SELECT c.version_floor INTO floor
          FROM standfast.collections c WHERE c.name = of_collection FOR SHARE;
    END IF;
    RETURN greatest(floor, buried, 0);
END $$;
REVOKE ALL ON FUNCTION standfast.highest(text, text, boolean) FROM PUBLIC;

CREATE OR REPLACE FUNCTION standfast.stamp_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_key text;
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], NULL, NULL);
    EXECUTE format('SELECT ($1).%I::text', TG_ARGV[1]) INTO this_key USING OLD;
    PERFORM standfast.bury(TG_ARGV[0], this_key, OLD.version + 1);
    IF coalesce(current_setting('standfast.lane', true), '') = '' THEN
        PERFORM standfast.log_key(TG_ARGV[0], this_key);
    END IF;
    RETURN NULL;
END $$;

-- After a foreign row has its place in the index, nobody else can make or delete a document there:
-- what is known of it now stays true.
CREATE FUNCTION standfast.check_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_key text;
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], NULL, NULL);
    EXECUTE format('SELECT ($1).%I::text', TG_ARGV[1]) INTO this_key USING NEW;
    IF NEW.version <= standfast.highest(TG_ARGV[0], this_key,
            current_setting('transaction_isolation') IN ('repeatable read', 'serializable')) THEN
        RAISE EXCEPTION 'could not serialize access: a document of this key was deleted meanwhile'
            USING ERRCODE = '40001', HINT = 'try the transaction again';
    END IF;
    PERFORM standfast.log_key(TG_ARGV[0], this_key);
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION standfast.check_insert() FROM PUBLIC;

-- A renamed document goes on above what is known of its new place: also where that was forgotten,
-- which has raised the floor.
CREATE OR REPLACE FUNCTION standfast.stamp_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_key text;
    new_key text;
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], NULL, NULL);
    EXECUTE format('SELECT ($1).%1$I::text, ($2).%1$I::text', TG_ARGV[1])
       INTO old_key, new_key USING OLD, NEW;
    IF NEW.data::text IS NOT DISTINCT FROM OLD.data::text
       AND NEW.expires_at IS NOT DISTINCT FROM OLD.expires_at AND new_key = old_key THEN
        RETURN NEW;
    END IF;
    NEW.version := OLD.version + 1;
    IF new_key <> old_key THEN
        PERFORM standfast.bury(TG_ARGV[0], old_key, OLD.version + 1);
        NEW.version := greatest(NEW.version, standfast.highest(TG_ARGV[0], new_key, true) + 1);
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
    PERFORM standfast.log_key(TG_ARGV[0], old_key);
    IF new_key <> old_key THEN
        PERFORM standfast.log_key(TG_ARGV[0], new_key);
    END IF;
    RETURN NEW;
END $$;

-- With row security off, a policy of the table's owner is an error and not executed here.
CREATE OR REPLACE FUNCTION standfast.log_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    highest bigint;
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], NULL, NULL);
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        -- TRUNCATE removes rows too that are newer than the snapshot, which does not show them.
        highest := NULL;
    ELSE
        BEGIN
            EXECUTE format('SELECT coalesce(max(version), -1) FROM ONLY %I.%I',
                           TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO highest;
        EXCEPTION WHEN insufficient_privilege THEN
            highest := NULL;  -- the table is another role's than this function
        END;
    END IF;
    -- Where nobody can tell: a number above any that it can hold.
    highest := coalesce(highest, (extract(epoch FROM clock_timestamp()) * 1000000::numeric)::bigint);
    UPDATE standfast.collections SET version_floor = greatest(version_floor, highest + 1)
     WHERE name = TG_ARGV[0] AND highest >= 0;
    INSERT INTO standfast.changes (collection, keys) VALUES (TG_ARGV[0], NULL);
    RETURN NULL;
END $$;

-- Every put of an app with the least rights passes these policies: functions in PL/pgSQL cost more
-- than the put.  They say what they said, in plain expressions.

-- Whoever may act as a role sees what it has opened: they could become it all the same.
ALTER POLICY own ON standfast.lanes
    USING (pg_catalog.pg_has_role(pg_catalog.to_regrole(pg_catalog.quote_ident(app::text)), 'USAGE'));
ALTER POLICY reading ON standfast.collections USING (EXISTS (
    SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
     WHERE n.nspname = table_schema::name AND c.relname = table_name::name
       AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
       AND pg_catalog.has_table_privilege(c.oid, 'SELECT')));
ALTER POLICY adding ON standfast.changes WITH CHECK (EXISTS (
    SELECT FROM standfast.collections k
      JOIN pg_catalog.pg_namespace n ON n.nspname = k.table_schema::name
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = k.table_name::name
     WHERE k.name = collection AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
       AND pg_catalog.has_table_privilege(c.oid, 'INSERT')));
