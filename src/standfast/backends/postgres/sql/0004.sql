-- Bookkeeping of standfast in PostgreSQL, version 4: rejected writes of collections that have no
-- table, and the versions of what is forgotten.

-- A conflict of a collection that has a table is seen by whoever may read the table: no app is noted
-- with it.  A rejected write of one that has none is seen by the app that recorded it, and by nobody
-- else, also when a table of this name is made later.
ALTER TABLE standfast.conflicts ADD COLUMN app name;
DROP POLICY reading ON standfast.conflicts;
DROP POLICY adding ON standfast.conflicts;
DROP POLICY writing ON standfast.conflicts;
CREATE POLICY reading ON standfast.conflicts FOR SELECT
    USING (CASE WHEN app IS NULL THEN standfast.may(collection, 'SELECT')
                ELSE app = (SELECT standfast.app()) END);
CREATE POLICY adding ON standfast.conflicts FOR INSERT
    WITH CHECK (CASE WHEN app IS NULL THEN standfast.may(collection, 'INSERT')
                     ELSE app = (SELECT standfast.app()) END);
CREATE POLICY writing ON standfast.conflicts FOR UPDATE
    USING (CASE WHEN app IS NULL THEN standfast.may(collection, 'INSERT')
                ELSE app = (SELECT standfast.app()) END);

-- The end of a batch of puts, when its rows are ours.  Being volatile, it sees what was committed
-- meanwhile: a tombstone, above whose version the put would have to go, or that one was forgotten,
-- which has raised the collection's floor; and the watermarks, which then say exactly which ops are
-- in the rows.
CREATE FUNCTION standfast.finish_puts(
    done bigint, wanted bigint, collection_name text, put_keys text[], floor bigint,
    of_directory uuid, until timestamptz, OUT server_us bigint, OUT watermarks text)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unmoved boolean;
    clock timestamptz;
BEGIN
    -- What `require` and `expire` do is done here: every put comes by, and a call of a function with
    -- a search path of its own costs as much as looking something up.
    SELECT (SELECT jsonb_object_agg(l.lane, l.watermark)::text
              FROM standfast.lanes l WHERE l.directory = of_directory AND l.state = 'open'),
           NOT EXISTS (SELECT FROM standfast.tombstones t
                        WHERE t.collection = collection_name AND t.key = ANY (put_keys))
           AND floor = (SELECT c.version_floor FROM standfast.collections c
                         WHERE c.name = collection_name)
      INTO watermarks, unmoved;
    IF (done = wanted AND unmoved) IS NOT TRUE THEN
        RAISE EXCEPTION 'another writer was faster' USING ERRCODE = 'SF002';
    END IF;
    clock := clock_timestamp();
    IF clock > until THEN
        RAISE EXCEPTION 'the statement outlived its deadline' USING ERRCODE = 'SF001';
    END IF;
    server_us := (extract(epoch FROM clock) * 1000000::numeric)::bigint;
END $$;
REVOKE ALL ON FUNCTION standfast.finish_puts(bigint, bigint, text, text[], bigint, uuid, timestamptz)
    FROM PUBLIC;

-- Roles that work with this schema already get what is new.  The floor is raised by whoever trims;
-- its policy lets an app change that of its own collections alone.
DO $$
DECLARE
    app name;
BEGIN
    FOR app IN
        SELECT DISTINCT r.rolname
          FROM pg_catalog.pg_proc p
         CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) a
          JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
         WHERE p.pronamespace = 'standfast'::pg_catalog.regnamespace AND p.proname = 'finish_puts'
           AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT INSERT (app) ON standfast.conflicts TO %I', app);
        EXECUTE format('GRANT UPDATE (version_floor) ON standfast.collections TO %I', app);
        EXECUTE format('GRANT EXECUTE ON FUNCTION standfast.finish_puts(bigint, bigint, text,'
                       ' text[], bigint, uuid, timestamptz) TO %I', app);
    END LOOP;
END $$;
DROP FUNCTION standfast.finish_puts(bigint, bigint, text, text[], uuid, timestamptz);
