"""`standfast schema sql`: everything that is missing as one script, to hand to a DBA.

The script leaves nothing that could be turned against whoever runs it, a superuser maybe: a role
that nobody can log in as owns the bookkeeping and its functions, the app's role gets the least
rights, column by column, and what a stranger owns is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, sql

from standfast.backends.base import migrations
from standfast.backends.postgres.schema import index_statement, schema_version, table_statements
from standfast.backends.postgres.tables import find_table, tidy_statements
from standfast.backends.postgres.trust import refusal, tables
from standfast.errors import ConfigError

#: The role that owns the bookkeeping, unless another is named.
OWNER = "standfast_owner"

#: Privileges by table of the bookkeeping, column by column where it is enough.
GRANTS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("SELECT", "schema_version"),
    ("SELECT", "identity"),
    ("SELECT, UPDATE (shape, key_field, version_floor)", "collections"),
    (
        "SELECT, INSERT (lane, generation, directory, state),"
        " UPDATE (watermark, outcomes, directory, state, updated_at), DELETE",
        "lanes",
    ),
    ("SELECT, INSERT (collection, keys), DELETE", "changes"),
    (
        "SELECT, INSERT (collection, key, version), UPDATE (version, deleted_at), DELETE",
        "tombstones",
    ),
    (
        "SELECT, INSERT (lane, seq, collection, key, kind, pointer, reason, base, mine, theirs,"
        " state, resolution, app), UPDATE (state, resolved_at, resolution)",
        "conflicts",
    ),
    ("SELECT, INSERT (run, state, report), UPDATE (state, report, updated_at)", "runs"),
)
#: What the app's statements and the row policies call.  Triggers need no right of their own.
FUNCTIONS: tuple[LiteralString, ...] = (
    "app()",
    "may(text, text)",
    "may(text, text, text)",
    "require(boolean)",
    "expire(timestamptz)",
    "finish_puts(bigint, bigint, text, text[], bigint, uuid, timestamptz)",
)

_OWNER_ROLE: LiteralString = """\
-- A role that may act as the owner of the functions could replace them: this one cannot log in.
DO $standfast$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN
        CREATE ROLE {role} NOLOGIN;
    ELSIF EXISTS (SELECT FROM pg_roles
                   WHERE rolname = {name}
                     AND (rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb
                          OR rolreplication)) THEN
        RAISE EXCEPTION 'role % may log in or has rights of its own', {name}
            USING HINT = 'name another with --owner, or ALTER ROLE ... NOLOGIN';
    END IF;
    IF NOT pg_has_role({name}, 'MEMBER') THEN
        GRANT {role} TO CURRENT_USER;
        PERFORM set_config('standfast.granted', 'yes', true);
    END IF;
END $standfast$;
"""
_HAND_OVER: LiteralString = """\
ALTER SCHEMA standfast OWNER TO {role};
DO $standfast$ DECLARE each record; BEGIN
    FOR each IN SELECT c.oid::regclass AS name FROM pg_class c
                 WHERE c.relnamespace = 'standfast'::regnamespace AND c.relkind = 'r'
                   AND c.relowner <> {name}::regrole LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', each.name, {name});
    END LOOP;
    FOR each IN SELECT p.oid::regprocedure AS name FROM pg_proc p
                 WHERE p.pronamespace = 'standfast'::regnamespace
                   AND p.proowner <> {name}::regrole LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', each.name, {name});
    END LOOP;
END $standfast$;
"""
_LET_GO: LiteralString = """\
DO $standfast$ BEGIN
    IF current_setting('standfast.granted', true) = 'yes' THEN
        REVOKE {role} FROM CURRENT_USER;
    END IF;
END $standfast$;
"""
_ELSEWHERE: LiteralString = """\
DO $standfast$ BEGIN
    IF EXISTS (SELECT FROM standfast.collections
                WHERE name = {name} AND (table_schema, table_name) <> ({schema}, {table})) THEN
        RAISE EXCEPTION 'collection % has its table in another schema of this database', {name}
            USING HINT = 'two apps with collections of one name need two databases';
    END IF;
END $standfast$;
"""


class ScriptOptions(NamedTuple):
    """For whom the script is.

    `role` is the app's, which gets the least rights (None: nobody gets any); `owner` owns the
    bookkeeping; `formerly` is the role as which the app worked until now, whose lanes, runs and
    rejected writes go to `role`; `trusted` may own things beside the roles that are trusted anyway;
    `indexes` adds the index that makes `find` fast.
    """

    role: str | None = None
    owner: str = OWNER
    formerly: str | None = None
    trusted: Sequence[str] = ()
    indexes: bool = False


def script(
    conn: Connection[Any] | None,
    schema: str,
    collections: Sequence[str],
    options: ScriptOptions = ScriptOptions(),  # noqa: B008 - immutable
) -> str:
    """The bookkeeping, the tables of these collections, and the rights of the role, in one script.

    With a connection, tables that exist are adopted, and those of other collections brought up to
    date; without one they are created.  Run again, the script changes nothing.
    """
    role, owner, formerly, trusted, _ = options
    parts: list[str | sql.Composable] = ["BEGIN;\n", _PREAMBLE]
    parts += [_named(_OWNER_ROLE, owner), _statement(refusal(trusted)), _SCHEMA]
    present = schema_version(conn) if conn is not None else 0
    for number, statements in migrations("postgres"):
        if number > present:
            parts.append(statements)
            parts.append(f"INSERT INTO standfast.schema_version (version) VALUES ({number});\n")
    parts.append(_named(_HAND_OVER, owner))
    if collections:
        ours = sql.SQL(" UNION ALL ").join(tables(schema, name) for name in collections)
        parts.append(_statement(refusal(trusted, ours)))
    for collection in collections:
        parts += _table(conn, collection, schema, options)
    if conn is not None and present:
        for collection in _others(conn, schema, collections):
            parts += _renewed(conn, collection, schema, options)
    if role is not None:
        parts.append(grants(role, schema, collections))
    if role is not None and formerly is not None:
        parts += [
            sql.SQL("UPDATE standfast.{} SET app = {} WHERE app = {};\n").format(
                sql.Identifier(table), sql.Literal(role), sql.Literal(formerly)
            )
            for table in ("lanes", "runs", "conflicts")
        ]
    # Once more: what somebody made in the meantime, and the owner's members.
    parts += [_statement(refusal(trusted)), _named(_LET_GO, owner), "COMMIT;\n"]
    return "".join(part if isinstance(part, str) else part.as_string(None) for part in parts)


_PREAMBLE = (
    "SET LOCAL search_path = pg_catalog, pg_temp;\nSET LOCAL standard_conforming_strings = on;\n"
)
_SCHEMA = "CREATE SCHEMA IF NOT EXISTS standfast;\n"


def _statement(statement: sql.Composable) -> sql.Composed:
    return statement + sql.SQL(";\n")


def _named(text: LiteralString, owner: str) -> sql.Composed:
    return sql.SQL(text).format(role=sql.Identifier(owner), name=sql.Literal(owner))


def _table(
    conn: Connection[Any] | None, collection: str, schema: str, options: ScriptOptions
) -> list[str | sql.Composable]:
    table = find_table(conn, collection, schema, options.trusted) if conn is not None else None
    if table is not None and table.schema != schema:
        raise ConfigError(
            f"collection `{collection}` of this database is in the schema `{table.schema}`, not in"
            f" `{schema}`",
            code="other_schema",
            hint="two apps with collections of one name need two databases",
        )
    name = collection if table is None else table.name
    check = sql.SQL(_ELSEWHERE).format(
        name=sql.Literal(collection), schema=sql.Literal(schema), table=sql.Literal(name)
    )
    parts: list[str | sql.Composable] = []
    if table is None or not table.ready:
        statements = table_statements(table, collection, schema)
        parts += [check, *map(_statement, statements)]
    if table is not None:
        parts += map(_statement, tidy_statements(table))
    if options.indexes:
        parts.append(_statement(index_statement(schema, name)))
    return parts


def _others(conn: Connection[Any], schema: str, collections: Sequence[str]) -> list[str]:
    """The other collections of this schema, whose tables may have triggers of earlier versions."""
    found = conn.execute(
        "SELECT k.name FROM standfast.collections k"
        " WHERE k.table_schema = %s AND k.name <> ALL (%s) ORDER BY k.name",
        (schema, list(collections)),
    )
    return [name for (name,) in found]


def _renewed(
    conn: Connection[Any], collection: str, schema: str, options: ScriptOptions
) -> list[str | sql.Composable]:
    """What a table that is there lacks; nobody gets a right on it that they do not have."""
    try:
        table = find_table(conn, collection, schema, options.trusted)
    except ConfigError:
        return []  # named when it is asked for, or by `doctor`
    if table is None:
        return []
    statements = [] if table.ready else table_statements(table, collection, schema)
    return [_statement(one) for one in [*statements, *tidy_statements(table)]]


def grants(role: str, schema: str, collections: Sequence[str]) -> sql.Composed:
    """The least rights with which an app works on an installed schema; what it had goes first."""
    lines: list[LiteralString] = [
        "REVOKE ALL ON ALL TABLES IN SCHEMA standfast FROM {role};",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA standfast FROM {role};",
        "REVOKE ALL ON SCHEMA standfast FROM {role};",
        "GRANT USAGE ON SCHEMA standfast TO {role};",
        *(f"GRANT {privileges} ON standfast.{name} TO {{role}};" for privileges, name in GRANTS),
        *(f"GRANT EXECUTE ON FUNCTION standfast.{one} TO {{role}};" for one in FUNCTIONS),
    ]
    made = sql.SQL("\n".join(lines) + "\n").format(role=sql.Identifier(role))
    if collections:
        made += sql.SQL("GRANT USAGE ON SCHEMA {} TO {};\n").format(
            sql.Identifier(schema), sql.Identifier(role)
        )
    for collection in collections:
        made += sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {};\n").format(
            sql.Identifier(schema, collection), sql.Identifier(role)
        )
    return made
