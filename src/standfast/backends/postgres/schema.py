"""The bookkeeping schema in PostgreSQL: read, and created by numbered migrations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, LiteralString, cast

import msgspec
import psycopg
from psycopg import Connection, sql

from standfast.backends.base import SCHEMA_VERSION, migrations
from standfast.backends.postgres.errors import no_identity
from standfast.backends.postgres.pinned import PIN_TRANSACTION
from standfast.backends.postgres.tables import (
    Table,
    adopt_statements,
    ask,
    create_statements,
    find_statements,
    found_table,
    has_schema,
    lost_table,
    remake_statements,
    require_rights,
    tidy_statements,
)
from standfast.backends.postgres.trust import refuse_stranger, require_trusted, strangers
from standfast.errors import ConfigError

#: Oldest PostgreSQL that works: CREATE OR REPLACE TRIGGER came with 14.
MIN_SERVER_VERSION = 140000

#: Key of the transaction-scoped advisory lock under which schema and tables are changed.
DDL_LOCK = 0x7374616E_64666173
#: Time for others who start at the same moment and create the schema before us.
_INSTALL_WAIT = "15s"
#: Key of the lock that one bulk load holds.
LOAD_LOCK = DDL_LOCK + 1


def schema_version(conn: Connection[Any]) -> int:
    """The version of the schema in the database, 0 when there is none; refuses a newer one."""
    if not has_schema(conn):
        return 0
    row = conn.execute("SELECT max(version) FROM standfast.schema_version").fetchone()
    version = int(row[0] or 0) if row else 0
    require_known(version)
    return version


def require_known(version: int) -> None:
    """Refuse a schema of a newer library."""
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"the database's standfast schema has version {version}, this library knows"
            f" {SCHEMA_VERSION}",
            code="schema_newer",
            hint="update standfast to the version that the other program uses",
        )


def lock_tables(conn: Connection[Any]) -> None:
    """Keep others from making, adopting and dropping tables until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (DDL_LOCK,))


#: Others who start at the same moment are waited for, and what they have made is seen after that.
_ENTER: LiteralString = """
SELECT set_config('standfast.kept', current_setting('lock_timeout'), true),
       set_config('lock_timeout', {wait}, true);
SELECT pg_advisory_xact_lock({lock});
SELECT set_config('lock_timeout', current_setting('standfast.kept'), true)
"""
#: The version of the schema, 0 without any, and whether there is a schema of this name.
_HAS_IDENTITY: LiteralString = "SELECT 1 FROM standfast.identity"
_VERSION: LiteralString = """
DO $version$ BEGIN
    PERFORM set_config('standfast.version', '0', true);
    IF EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'standfast' AND c.relname = 'collections') THEN
        PERFORM set_config('standfast.version',
            coalesce((SELECT max(v.version) FROM standfast.schema_version v), 0)::text, true);
    END IF;
END $version$;
SELECT current_setting('standfast.version')::integer,
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'standfast')
"""


def _entering(trusted: Sequence[str]) -> list[sql.Composable]:
    """Statements for `ask`: the lock, then who owns the bookkeeping.

    Nothing of the bookkeeping is read before it is known that no stranger owns it.
    """
    return [
        sql.SQL(PIN_TRANSACTION),
        sql.SQL(_ENTER).format(wait=_INSTALL_WAIT, lock=sql.Literal(DDL_LOCK)),
        strangers(trusted),
    ]


def install(conn: Connection[Any], trusted: Sequence[str] = ()) -> int:
    """Bring the schema up to date inside the caller's transaction; returns the number applied.

    Two processes that start at once wait for each other on a transaction-scoped lock, so this works
    behind transaction poolers too.  ConfigError `foreign_owner` where a stranger owns any of it.
    """
    refuse_stranger(ask(conn, _entering(trusted))[-1])
    return _bring_up_to_date(conn, trusted, *ask(conn, [sql.SQL(_VERSION)])[-1][0])


def _bring_up_to_date(
    conn: Connection[Any], trusted: Sequence[str], present: int, is_named: bool
) -> int:
    require_known(present)
    missing = "".join(
        f"{statements}INSERT INTO standfast.schema_version (version) VALUES ({number});\n"
        for number, statements in migrations("postgres")
        if number > present
    )
    if missing:  # in one round trip
        if not is_named:
            missing = "CREATE SCHEMA standfast;\n" + missing
        conn.execute(cast(LiteralString, missing), prepare=False)
        require_trusted(conn, trusted)  # a schema that somebody made just now
    return SCHEMA_VERSION - present


def ensure_table(
    conn: Connection[Any], collection: str, schema: str, trusted: Sequence[str] = ()
) -> Table:
    """The collection's table, created or adopted inside the caller's transaction if need be."""
    refuse_stranger(ask(conn, _entering(trusted))[-1])
    finding = find_statements(collection, schema, trusted)
    version, *rows = ask(conn, [sql.SQL(_VERSION), *finding])[1:]
    _bring_up_to_date(conn, trusted, *version[0])
    table = found_table(collection, schema, rows)
    if table is None or not table.ready:
        if table is not None:
            require_rights(table)
        making = table_statements(table, collection, schema)
        table = found_table(collection, schema, ask(conn, [*making, *finding]))
    assert table is not None, "a table that was just created is there"
    if not table.ready and conn.execute(_HAS_IDENTITY).fetchone() is None:
        raise no_identity("the database")
    assert table.ready, "a table that was just created or adopted is ready"
    return table


#: How long others may have to wait for the locks that taking triggers off a table needs.
_TIDY_WAIT = "100ms"


def tidy_table(conn: Connection[Any], table: Table) -> None:
    """Take triggers of earlier versions off a table, unless it is in use: the next process tries
    again, and `doctor` names them."""
    statements = tidy_statements(table)
    if not statements or not table.owned:
        return
    try:
        with conn.transaction():
            conn.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (_TIDY_WAIT,))
            for statement in statements:
                conn.execute(statement)
    except psycopg.errors.LockNotAvailable:
        pass


def remake_table(
    conn: Connection[Any], collection: str, schema: str, trusted: Sequence[str] = ()
) -> None:
    """Make a lost table anew inside the caller's transaction, unless another process has."""
    install(conn, trusted)
    if lost_table(conn, collection) is not None:
        statements = remake_statements(collection, schema)
        conn.execute(sql.SQL(";\n").join(statements), prepare=False)


def table_statements(table: Table | None, collection: str, schema: str) -> list[sql.Composed]:
    """The statements that create the collection's table, or adopt the one that is there."""
    return create_statements(collection, schema) if table is None else adopt_statements(table)


def index_name(table: str) -> str:
    """The name of the index that answers `find`."""
    return table[:58] + "_find"


def has_index(conn: Connection[Any], table: Table) -> bool:
    """Whether the table has it."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace"
        " WHERE n.nspname = %s AND t.relname = %s AND c.relname = %s AND i.indisvalid)",
        (table.schema, table.name, index_name(table.name)),
    ).fetchone()
    return bool(row and row[0])


def index_statement(schema: str, table: str) -> sql.Composed:
    """The index that answers `find` by containment (jsonb_path_ops: `@>` only, and small)."""
    return sql.SQL(
        "CREATE INDEX IF NOT EXISTS {} ON {} USING gin ((data::jsonb) jsonb_path_ops)"
    ).format(sql.Identifier(index_name(table)), sql.Identifier(schema, table))


class ServerFacts(msgspec.Struct, frozen=True):
    """One server, as one connection sees it.

    `clock_ahead_s` is how far its clock is ahead of this machine's, to within half of the time
    that the question took; `schema` is the version of the bookkeeping tables, 0 without any;
    `encrypted` is whether the connection is.
    """

    version: str
    encoding: str
    synchronous_commit: str
    fsync: str
    full_page_writes: str
    clock_ahead_s: float
    schema: int
    encrypted: bool


def server_facts(conn: Connection[Any]) -> ServerFacts:
    """Ask it.  ConfigError where its schema is newer than this library."""
    before_s = time.time()
    row = conn.execute(
        "SELECT extract(epoch FROM clock_timestamp())::float8, current_setting('server_version'),"
        " current_setting('server_encoding'),"
        # What the role and database say: our own connections switch it on for themselves.
        " (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),"
        " coalesce(current_setting('fsync', true), ''),"
        " coalesce(current_setting('full_page_writes', true), '')"
    ).fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    middle_s = (before_s + time.time()) / 2
    clock_s, version, encoding, commit, fsync, pages = row
    return ServerFacts(
        version=version.split()[0],
        encoding=encoding,
        synchronous_commit=commit,
        fsync=fsync,
        full_page_writes=pages,
        clock_ahead_s=clock_s - middle_s,
        schema=schema_version(conn),
        encrypted=bool(conn.pgconn.ssl_in_use),
    )


_TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")


def require_privileges(conn: Connection[Any], table: Table | None, home: str) -> None:
    """Raise unless this role may do to a collection's table, or for it, what a load does."""
    row = conn.execute("SELECT current_setting('transaction_read_only')").fetchone()
    if row == ("on",):
        raise ConfigError(
            "nothing can be written here: transactions are read-only",
            code="no_rights",
            hint="use the primary; else look at default_transaction_read_only of the database and"
            " of this role",
        )
    if table is not None:
        missing = conn.execute(
            "SELECT string_agg(p, ', ') FROM unnest(%s::text[]) AS p"
            " WHERE NOT has_table_privilege(format('%%I.%%I', %s::text, %s::text), p)",
            (list(_TABLE_RIGHTS), table.schema, table.name),
        ).fetchone()
        where = f"table `{table.schema}.{table.name}`"
    else:
        missing = conn.execute(
            "SELECT CASE WHEN NOT has_schema_privilege(%s, 'CREATE') THEN 'CREATE' END", (home,)
        ).fetchone()
        where = f"schema `{home}`"
    if (missing is None or not missing[0]) and not has_schema(conn):
        missing = conn.execute(
            "SELECT CASE WHEN NOT has_database_privilege(current_database(), 'CREATE')"
            " THEN 'CREATE' END"
        ).fetchone()
        where = "the database, for the schema `standfast`"
    if missing and missing[0]:
        raise ConfigError(
            f"this role lacks the right {missing[0]} on {where}",
            code="no_rights",
            hint="hand a DBA the output of `standfast schema sql`",
        )
