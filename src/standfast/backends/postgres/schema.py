"""The bookkeeping schema in PostgreSQL: read, created by numbered migrations, printed for a DBA."""

from __future__ import annotations

from typing import Any, LiteralString, cast

from psycopg import Connection, sql

from standfast.backends.migrations import SCHEMA_VERSION, migrations
from standfast.backends.postgres.tables import (
    Table,
    adopt_statements,
    create_statements,
    find_table,
    has_schema,
    require_rights,
)
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
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"the database's standfast schema has version {version}, this library knows"
            f" {SCHEMA_VERSION}",
            code="schema_newer",
            hint="update standfast to the version that the other program uses",
        )
    return version


def install(conn: Connection[Any]) -> int:
    """Bring the schema up to date inside the caller's transaction; returns the number applied.

    Two processes that start at once wait for each other on a transaction-scoped lock, so this works
    behind transaction poolers too.
    """
    row = conn.execute(
        "SELECT current_setting('lock_timeout'), set_config('lock_timeout', %s, true)",
        (_INSTALL_WAIT,),
    ).fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (DDL_LOCK,))
    conn.execute("SELECT set_config('lock_timeout', %s, true)", (row[0],))
    present = schema_version(conn)
    for number, statements in migrations("postgres"):
        if number > present:
            conn.execute(cast(LiteralString, statements))
            conn.execute("INSERT INTO standfast.schema_version (version) VALUES (%s)", (number,))
    return SCHEMA_VERSION - present


def ensure_table(conn: Connection[Any], collection: str, schema: str) -> Table:
    """The collection's table, created or adopted inside the caller's transaction if need be."""
    install(conn)
    table = find_table(conn, collection, schema)
    if table is None or not table.ready:
        if table is not None:
            require_rights(table)
        for statement in _statements(table, collection, schema):
            conn.execute(statement)
        table = find_table(conn, collection, schema)
    assert table is not None, "a table that was just created is there"
    assert table.ready, "a table that was just created or adopted is ready"
    return table


def _statements(table: Table | None, collection: str, schema: str) -> list[sql.Composed]:
    return create_statements(collection, schema) if table is None else adopt_statements(table)


def index_statement(table: Table) -> sql.Composed:
    """The index that answers `find` by containment (jsonb_path_ops: `@>` only, and small)."""
    return sql.SQL(
        "CREATE INDEX IF NOT EXISTS {} ON {} USING gin ((data::jsonb) jsonb_path_ops)"
    ).format(sql.Identifier(table.name[:58] + "_find"), table.sql)


def script(conn: Connection[Any] | None, schema: str, collections: list[str]) -> str:
    """All of it as one SQL script for a DBA: the schema, and the tables of these collections.

    With a connection, tables that exist are adopted; without one they are created.
    """
    parts = ["BEGIN;\n"]
    present = schema_version(conn) if conn is not None else 0
    for number, statements in migrations("postgres"):
        if number > present:
            parts.append(statements)
            parts.append(f"INSERT INTO standfast.schema_version (version) VALUES ({number});\n")
    for collection in collections:
        table = find_table(conn, collection, schema) if conn is not None else None
        if table is None or not table.ready:
            parts.extend(
                statement.as_string(conn) + ";\n"
                for statement in _statements(table, collection, schema)
            )
    parts.append("COMMIT;\n")
    return "".join(parts)


def grants(role: str, schema: str, collections: list[str]) -> str:
    """The rights that a role without DDL rights needs to work on an installed schema."""
    name = sql.Identifier(role).as_string(None)
    tables = ", ".join(sql.Identifier(schema, c).as_string(None) for c in collections)
    lines = [
        f"GRANT USAGE ON SCHEMA standfast TO {name};",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA standfast TO {name};",
    ]
    if tables:
        lines.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {name};")
    return "\n".join(lines) + "\n"
