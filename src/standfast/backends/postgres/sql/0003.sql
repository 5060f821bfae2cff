-- Bookkeeping of standfast in PostgreSQL, version 3: nobody gets more rights through it than they
-- have, and an app sees its own part of it alone.
--
-- Functions resolve names in pg_catalog only, whatever the caller's search_path says; relations are
-- written with their schema.  Nothing may be executed by everybody: who needs what is granted one
-- by one (`standfast schema sql --role`).

-- ---- whose is what

-- The role that was granted the use of this schema and as which the current user acts: several logins
-- of one app are one app.  The schema's owner and superusers are themselves.
CREATE FUNCTION standfast.app() RETURNS name
LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found name;
BEGIN
    SELECT r.rolname INTO found
      FROM pg_catalog.pg_namespace n
     CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
      JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
     WHERE n.nspname = 'standfast' AND a.privilege_type = 'USAGE'
       AND NOT pg_catalog.pg_has_role(n.nspowner, 'USAGE')
       AND pg_catalog.pg_has_role(a.grantee, 'USAGE')
     ORDER BY r.rolname <> current_user, r.rolname
     LIMIT 1;
    RETURN coalesce(found, current_user);
END $$;

-- Whether the current user may do this ('SELECT', 'INSERT') to a table; false where there is none.
CREATE FUNCTION standfast.may(of_schema text, of_table text, what text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce((
        SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
               AND pg_catalog.has_table_privilege(c.oid, what)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = of_schema::name AND c.relname = of_table::name), false);
END $$;

-- The same for the table of a collection.
CREATE FUNCTION standfast.may(of_collection text, what text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce((
        SELECT standfast.may(c.table_schema, c.table_name, what)
          FROM standfast.collections c WHERE c.name = of_collection), false);
END $$;

-- Rights on a collection's table are the rights on what is kept about the collection; lanes and
-- runs belong to the app that opened them.  The owner of these tables passes by all of it.
ALTER TABLE standfast.lanes ADD COLUMN app name;
ALTER TABLE standfast.runs ADD COLUMN app name;

ALTER TABLE standfast.collections ENABLE ROW LEVEL SECURITY;
ALTER TABLE standfast.lanes ENABLE ROW LEVEL SECURITY;
ALTER TABLE standfast.runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE standfast.changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE standfast.tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE standfast.conflicts ENABLE ROW LEVEL SECURITY;

CREATE POLICY reading ON standfast.collections FOR SELECT
    USING (standfast.may(table_schema, table_name, 'SELECT'));
CREATE POLICY writing ON standfast.collections FOR UPDATE
    USING (standfast.may(table_schema, table_name, 'INSERT'));
CREATE POLICY own ON standfast.lanes USING (app = (SELECT standfast.app()));
CREATE POLICY own ON standfast.runs USING (app = (SELECT standfast.app()));
CREATE POLICY reading ON standfast.changes FOR SELECT
    USING (standfast.may(collection, 'SELECT'));
CREATE POLICY adding ON standfast.changes FOR INSERT
    WITH CHECK (standfast.may(collection, 'INSERT'));
CREATE POLICY removing ON standfast.changes FOR DELETE
    USING (standfast.may(collection, 'INSERT'));
CREATE POLICY reading ON standfast.tombstones FOR SELECT
    USING (standfast.may(collection, 'SELECT'));
CREATE POLICY adding ON standfast.tombstones FOR INSERT
    WITH CHECK (standfast.may(collection, 'INSERT'));
CREATE POLICY writing ON standfast.tombstones FOR UPDATE
    USING (standfast.may(collection, 'INSERT'));
CREATE POLICY removing ON standfast.tombstones FOR DELETE
    USING (standfast.may(collection, 'INSERT'));
CREATE POLICY reading ON standfast.conflicts FOR SELECT
    USING (standfast.may(collection, 'SELECT'));
CREATE POLICY adding ON standfast.conflicts FOR INSERT
    WITH CHECK (standfast.may(collection, 'INSERT'));
CREATE POLICY writing ON standfast.conflicts FOR UPDATE
    USING (standfast.may(collection, 'INSERT'));

-- ---- what our own statements call

-- Called after a statement has its locks: what outlived its deadline must not take effect, since
-- its caller was answered otherwise and others may have written since.
CREATE OR REPLACE FUNCTION standfast.expire(until timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF clock_timestamp() > until THEN
        RAISE EXCEPTION 'the statement outlived its deadline' USING ERRCODE = 'SF001';
    END IF;
    RETURN true;
END $$;

-- Abort the transaction when a statement did not touch the rows that it was meant to.
CREATE OR REPLACE FUNCTION standfast.require(fine boolean) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF fine IS NOT TRUE THEN
        RAISE EXCEPTION 'another writer was faster' USING ERRCODE = 'SF002';
    END IF;
    RETURN true;
END $$;

-- The end of a batch of puts, when its rows are ours.  Being volatile, it sees what was committed
-- meanwhile: a tombstone, above whose version the put would have to go; and the watermarks, which
-- then say exactly which ops are in the rows.
CREATE OR REPLACE FUNCTION standfast.finish_puts(
    done bigint, wanted bigint, collection_name text, put_keys text[], of_directory uuid,
    until timestamptz, OUT server_us bigint, OUT watermarks text)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM standfast.require(done = wanted AND NOT EXISTS (
        SELECT 1 FROM standfast.tombstones t
         WHERE t.collection = collection_name AND t.key = ANY (put_keys)));
    SELECT jsonb_object_agg(l.lane, l.watermark)::text INTO watermarks
      FROM standfast.lanes l WHERE l.directory = of_directory AND l.state = 'open';
    PERFORM standfast.expire(until);
    server_us := (extract(epoch FROM clock_timestamp()) * 1000000::numeric)::bigint;
END $$;

-- ---- the triggers' functions.  Arguments: collection, key column
--
-- They run with the rights of their owner, because a foreign writer need not have any on this
-- schema.  What a table's owner chooses must therefore never be executed in them: their first step
-- is `guard`, after which every column that they touch has a type of PostgreSQL's own, and
-- `new_rows` and `old_rows` are the trigger's transition tables and not a view of that name.

-- Raises unless a trigger of ours may run: on the collection's table, as we made it.
CREATE FUNCTION standfast.guard(
    rel oid, rel_schema name, rel_name name, trigger_name name, of_collection text, key_name text,
    new_rows name, old_rows name) RETURNS void
LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM standfast.collections c
         WHERE c.name = of_collection AND c.key_column = key_name
           -- A table that was renamed is still the collection's, unless another took its place.
           AND (c.table_schema = rel_schema::text AND c.table_name = rel_name::text
                OR NOT EXISTS (
                    SELECT FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace
                     WHERE n.nspname = c.table_schema::name AND o.relname = c.table_name::name))
    ) OR (
        SELECT count(*) FILTER (WHERE
            CASE WHEN a.attname = key_name::name
                 THEN a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'int4'::regtype,
                                     'int8'::regtype)
                 WHEN a.attname = 'data' THEN a.atttypid IN ('json'::regtype, 'jsonb'::regtype)
                 WHEN a.attname = 'raw' THEN a.atttypid = 'text'::regtype
                 WHEN a.attname = 'version' THEN a.atttypid = 'int8'::regtype
                 ELSE a.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype) END)
          FROM pg_attribute a
         WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
           AND a.attname IN (key_name::name, 'data', 'raw', 'version', 'updated_at', 'expires_at')
    ) <> 6 OR NOT EXISTS (
        SELECT FROM pg_trigger g
         WHERE g.tgrelid = rel AND g.tgname = trigger_name
           AND g.tgnewtable IS NOT DISTINCT FROM new_rows
           AND g.tgoldtable IS NOT DISTINCT FROM old_rows
    ) THEN
        RAISE EXCEPTION 'table %.% is not what standfast knows of collection %',
            quote_ident(rel_schema::text), quote_ident(rel_name::text),
            quote_ident(of_collection) USING ERRCODE = 'SF003',
            HINT = 'restore its columns, or drop the triggers called standfast_*';
    END IF;
END $$;

-- Whether the exact text holds something that its projection in `data` does not.
CREATE OR REPLACE FUNCTION standfast.is_lossy(raw text, data jsonb) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN raw IS NOT NULL AND raw::jsonb IS DISTINCT FROM data;
EXCEPTION WHEN data_exception THEN
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION standfast.bury(
    collection_name text, dead_key text, dead_version bigint) RETURNS void
LANGUAGE sql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO standfast.tombstones AS t (collection, key, version)
    VALUES (collection_name, dead_key, dead_version)
    ON CONFLICT (collection, key)
    DO UPDATE SET version = greatest(t.version, excluded.version), deleted_at = now()
$$;

CREATE OR REPLACE FUNCTION standfast.stamp_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_key text;
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], NULL, NULL);
    EXECUTE format('SELECT ($1).%I::text', TG_ARGV[1]) INTO this_key USING NEW;
    SELECT greatest(c.version_floor, coalesce(t.version, 0)) + 1 INTO NEW.version
      FROM standfast.collections c
      LEFT JOIN standfast.tombstones t ON t.collection = c.name AND t.key = this_key
     WHERE c.name = TG_ARGV[0];
    NEW.version := coalesce(NEW.version, 1);
    NEW.raw := NULL;
    RETURN NEW;
END $$;

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

CREATE OR REPLACE FUNCTION standfast.stamp_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_key text;
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], NULL, NULL);
    EXECUTE format('SELECT ($1).%I::text', TG_ARGV[1]) INTO this_key USING OLD;
    PERFORM standfast.bury(TG_ARGV[0], this_key, OLD.version + 1);
    RETURN NULL;
END $$;

-- Above 1,000 rows the keys are not listed: the reader looks at the whole collection.
CREATE OR REPLACE FUNCTION standfast.log_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], 'new_rows', NULL);
    EXECUTE format(
        'INSERT INTO standfast.changes (collection, keys)
         SELECT $1, CASE WHEN count(*) <= 1000 THEN array_agg(%I::text) END
           FROM new_rows HAVING count(*) > 0', TG_ARGV[1]) USING TG_ARGV[0];
    RETURN NULL;
END $$;

-- Only rows whose key or version is another than before: the key of a renamed row counts twice.
CREATE OR REPLACE FUNCTION standfast.log_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], 'new_rows', 'old_rows');
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

CREATE OR REPLACE FUNCTION standfast.log_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM standfast.guard(TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NAME, TG_ARGV[0],
                            TG_ARGV[1], NULL, 'old_rows');
    EXECUTE format(
        'INSERT INTO standfast.changes (collection, keys)
         SELECT $1, CASE WHEN count(*) <= 1000 THEN array_agg(%I::text) END
           FROM old_rows HAVING count(*) > 0', TG_ARGV[1]) USING TG_ARGV[0];
    RETURN NULL;
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
    BEGIN
        EXECUTE format('SELECT max(version) FROM ONLY %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME)
           INTO highest;
    EXCEPTION WHEN insufficient_privilege THEN
        -- The table is another role's than this function: a number above any that it can hold.
        highest := (extract(epoch FROM clock_timestamp()) * 1000000::numeric)::bigint;
    END;
    UPDATE standfast.collections SET version_floor = greatest(version_floor, highest + 1)
     WHERE name = TG_ARGV[0] AND highest IS NOT NULL;
    INSERT INTO standfast.changes (collection, keys) VALUES (TG_ARGV[0], NULL);
    RETURN NULL;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA standfast FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA standfast FROM PUBLIC;
REVOKE ALL ON SCHEMA standfast FROM PUBLIC;

-- ---- what is there already

-- The script of version 2 granted everything on every table.  What is there already belongs to the
-- one role that was granted it; where there are several nobody can tell, and the owner keeps it.
DO $$
DECLARE
    grantee name;
    only_one name := current_user;
    roles integer := 0;
BEGIN
    FOR grantee IN
        SELECT DISTINCT r.rolname
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
          JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
         WHERE n.nspname = 'standfast' AND c.relkind = 'r' AND a.grantee <> c.relowner
    LOOP
        roles := roles + 1;
        only_one := CASE WHEN roles = 1 THEN grantee ELSE current_user END;
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'
                       ' ON standfast.schema_version, standfast.identity FROM %I', grantee);
        EXECUTE format('REVOKE INSERT, DELETE, TRUNCATE, REFERENCES, TRIGGER'
                       ' ON standfast.collections FROM %I', grantee);
        EXECUTE format('REVOKE UPDATE ON standfast.collections FROM %I', grantee);
        EXECUTE format('GRANT UPDATE (shape, key_field) ON standfast.collections TO %I', grantee);
        EXECUTE format('GRANT EXECUTE ON FUNCTION standfast.app(), standfast.may(text, text),'
                       ' standfast.may(text, text, text), standfast.require(boolean),'
                       ' standfast.expire(timestamptz), standfast.finish_puts(bigint, bigint,'
                       ' text, text[], uuid, timestamptz) TO %I', grantee);
    END LOOP;
    UPDATE standfast.lanes SET app = only_one;
    UPDATE standfast.runs SET app = only_one;
END $$;
ALTER TABLE standfast.lanes
    ALTER COLUMN app SET DEFAULT standfast.app(), ALTER COLUMN app SET NOT NULL;
ALTER TABLE standfast.runs
    ALTER COLUMN app SET DEFAULT standfast.app(), ALTER COLUMN app SET NOT NULL;
