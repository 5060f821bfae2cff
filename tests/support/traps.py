"""A schema full of traps: PostgreSQL's own functions and operators, each of which raises.

Put first in a search path, it catches every name and operator in a statement of ours that is looked
up by that path: what should be resolved in `pg_catalog` runs into the trap of the same name and
types, wherever the server comes across it, in SQL, in PL/pgSQL, in a default or in a trigger.
"""

from __future__ import annotations

import psycopg

SCHEMA = "traps"

#: Every function and operator over types that statements of ours have, or could come to have.
_SET = """
DO $$
DECLARE
    each record;
    made integer := 0;
BEGIN
    CREATE SCHEMA traps;
    GRANT USAGE ON SCHEMA traps TO PUBLIC;
    FOR each IN
        SELECT p.oid, p.proname, p.prorettype, p.proretset, p.provariadic <> 0 AS is_variadic,
               pg_get_function_identity_arguments(p.oid) AS arguments,
               pg_get_function_result(p.oid) AS result
          FROM pg_proc p
         WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
           AND NOT p.proretset AND p.proargmodes IS NULL
           AND NOT 'internal'::regtype = ANY (p.proargtypes)
           AND NOT 'cstring'::regtype = ANY (p.proargtypes)
           AND p.prorettype NOT IN ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype,
                                    'event_trigger'::regtype, 'language_handler'::regtype,
                                    'fdw_handler'::regtype, 'index_am_handler'::regtype,
                                    'table_am_handler'::regtype, 'tsm_handler'::regtype)
           AND p.proname IN (SELECT unnest(%(names)s::text[]))
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION traps.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS %%L',
                           each.proname, each.arguments, each.result,
                           format('BEGIN RAISE EXCEPTION %%L; END', 'trap: ' || each.proname));
            made := made + 1;
        EXCEPTION WHEN others THEN
            RAISE NOTICE 'no trap for %%: %%', each.oid::regprocedure, SQLERRM;
        END;
    END LOOP;
    FOR each IN
        SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r,
               o.oprresult::regtype AS result, o.oid
          FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION traps.%%I(%%s, %%s) RETURNS %%s LANGUAGE plpgsql'
                           ' AS %%L', 'operator_' || each.oid, each.l, each.r, each.result,
                           format('BEGIN RAISE EXCEPTION %%L; END', 'trap: ' || each.oprname));
            EXECUTE format('CREATE OPERATOR traps.%%s (LEFTARG = %%s, RIGHTARG = %%s,'
                           ' FUNCTION = traps.%%I)', each.oprname, each.l, each.r,
                           'operator_' || each.oid);
            made := made + 1;
        EXCEPTION WHEN others THEN
            RAISE NOTICE 'no trap for %%(%%, %%): %%', each.oprname, each.l, each.r, SQLERRM;
        END;
    END LOOP;
    PERFORM set_config('traps.made', made::text, false);
END $$
"""
#: Names of functions that anything of ours calls, and of casts that are written as such.
NAMES = (
    *("now", "set_config", "current_setting", "current_schema", "clock_timestamp", "to_timestamp"),
    *("array_agg", "jsonb_object_agg", "jsonb_build_object", "format", "quote_ident", "unnest"),
    *("pg_has_role", "has_schema_privilege", "has_table_privilege", "starts_with", "strpos"),
    *("length", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock", "pg_backend_pid"),
    *("pg_terminate_backend", "current_database", "gen_random_uuid", "pg_current_xact_id"),
    *("text", "int8", "int4", "numeric", "bool", "timestamptz", "jsonb_populate_record", "extract"),
    *("pg_control_system", "date_part", "max", "count", "greatest", "regexp_like"),
)


def set_traps(url: str) -> int:
    """Make the schema; the number of traps in it."""
    with psycopg.connect(url, autocommit=True) as conn:
        statement = psycopg.ClientCursor(conn).mogrify(_SET, {"names": list(NAMES)})
        conn.execute(statement.encode())
        row = conn.execute("SELECT current_setting('traps.made')").fetchone()
    assert row is not None
    return int(row[0])
