"""What an operator asks of a server: rights, a tried write, who blocks, who wrote lately.

Nothing here changes anything that stays: a tried write is rolled back.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, Error, errors, sql

from standfast.backends.postgres.tables import Table, ask, has_schema

#: Directories, sessions and tables that are listed at the most.
MAX_LISTED = 20
#: How long a tried write waits for a lock.
TRIED_LOCK_TIMEOUT = "300ms"


class Directory(NamedTuple):
    """A data directory that has written to this database: its id, when last, and how much."""

    id: str
    last_write: datetime
    last_write_s_ago: float


class Session(NamedTuple):
    """A session of somebody else with a transaction that is in the way.

    `statement` is the kind of what it runs or ran last (`UPDATE`), empty where that may not be
    seen; `what` names the table that it has locked, empty for one that only holds a snapshot.
    """

    pid: int
    application: str
    role: str
    state: str
    since: datetime
    age_s: float
    statement: str
    what: str
    mode: str


def directories(conn: Connection[Any]) -> list[Directory]:
    """The data directories that wrote in the last day, the latest first."""
    if not has_schema(conn):
        return []
    found = conn.execute(
        "SELECT directory::text, max(updated_at),"
        " extract(epoch FROM now() - max(updated_at))::float8"
        " FROM standfast.lanes WHERE directory IS NOT NULL"
        " AND updated_at > now() - interval '1 day' AND watermark > 0"
        " GROUP BY directory ORDER BY 2 DESC LIMIT %s",
        (MAX_LISTED,),
    )
    return [Directory(*record) for record in found]


_SESSIONS: LiteralString = """
SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''),
       coalesce(a.state, ''), a.xact_start,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
       CASE WHEN a.query ~ '^[[:space:]]*[A-Za-z]+'
            THEN upper(substring(a.query FROM '^[[:space:]]*([A-Za-z]+)')) ELSE '' END,
       {what}, {mode}
  FROM pg_stat_activity a {joined}
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
   AND a.application_name <> 'standfast' AND {where}
 ORDER BY a.xact_start LIMIT {most}
"""
#: Locks that a row's or a table's writer holds, and that ours may wait for.
_BLOCKING: LiteralString = (
    "('RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock',"
    " 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
)


def blockers(conn: Connection[Any], *, older_than_s: float) -> list[Session]:
    """Sessions of others that hold locks on tables of collections, for longer than this."""
    statement = sql.SQL(_SESSIONS).format(
        what=sql.SQL("l.relname::text"),
        mode=sql.SQL("l.mode"),
        joined=sql.SQL(
            "JOIN LATERAL (SELECT DISTINCT ON (c.oid) c.relname, k.mode FROM pg_locks k"
            " JOIN pg_class c ON c.oid = k.relation"
            " JOIN pg_trigger g ON g.tgrelid = k.relation AND g.tgname LIKE 'standfast\\_%%'"
            " WHERE k.pid = a.pid AND k.granted AND k.locktype = 'relation' AND k.mode IN "
            + _BLOCKING
            + " ORDER BY c.oid, k.mode) l ON true"
        ),
        where=sql.SQL("a.xact_start < clock_timestamp() - make_interval(secs => {})").format(
            older_than_s
        ),
        most=MAX_LISTED,
    )
    return [Session(*record) for record in conn.execute(statement, ())]


def long_snapshots(conn: Connection[Any], *, older_than_s: float) -> list[Session]:
    """Transactions of others that keep old versions of rows from being removed."""
    statement = sql.SQL(_SESSIONS).format(
        what=sql.SQL("''"),
        mode=sql.SQL("''"),
        joined=sql.SQL(""),
        where=sql.SQL(
            "a.backend_xmin IS NOT NULL"
            " AND a.xact_start < clock_timestamp() - make_interval(secs => {})"
        ).format(older_than_s),
        most=MAX_LISTED,
    )
    return [Session(*record) for record in conn.execute(statement, ())]


def collection_tables(conn: Connection[Any]) -> dict[str, tuple[str, str]]:
    """The collections with a table, and that table's schema and name, by the catalog.

    Also those that the role may not read, and that the list of collections therefore hides.
    """
    found = conn.execute(
        "SELECT DISTINCT split_part(encode(g.tgargs, 'escape'), '\\000', 1), n.nspname, c.relname"
        " FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE g.tgname LIKE 'standfast\\_%' AND g.tgnargs > 0 ORDER BY 1"
    )
    return {name: (schema, table) for name, schema, table in found if name}


def missing_rights(conn: Connection[Any], schema: str, table: str) -> list[str]:
    """The rights that this role lacks on a collection's table, such as `INSERT`."""
    row = conn.execute(
        "SELECT has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),"
        " has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'UPDATE'),"
        " has_table_privilege(c.oid, 'DELETE')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        (schema, table),
    ).fetchone()
    if row is None:
        return []
    names = ("USAGE on the schema", "SELECT", "INSERT", "UPDATE", "DELETE")
    return [name for name, has in zip(names, row, strict=True) if not has]


def may_create(conn: Connection[Any], schema: str) -> list[str]:
    """The rights that the first write needs and this role lacks, as words of a GRANT."""
    row = conn.execute(
        "SELECT has_database_privilege(current_database(), 'CREATE'),"
        " (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s),"
        " current_database(), current_user",
        (schema,),
    ).fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    on_database, on_schema, database, role = row
    missing: list[str] = []
    if not on_database:
        missing.append(_grant("DATABASE", database, role))
    if on_schema is False:
        missing.append(_grant("SCHEMA", schema, role))
    return missing


def _grant(kind: LiteralString, name: str, role: str) -> str:
    what = sql.SQL("GRANT CREATE ON {} {} TO {}").format(
        sql.SQL(kind), sql.Identifier(name), sql.Identifier(role)
    )
    return what.as_string(None)


def grant(table: Table, rights: Sequence[str], role: str) -> str:
    """The statement that gives a role these rights on a collection's table."""
    words = [right for right in rights if " " not in right]
    statements: list[sql.Composed] = []
    if len(words) < len(rights):
        statements.append(
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(
                sql.Identifier(table.schema), sql.Identifier(role)
            )
        )
    if words:
        listed = sql.SQL(", ".join(words))  # type: ignore[arg-type] # of the words above alone
        statements.append(
            sql.SQL("GRANT {} ON {} TO {}").format(listed, table.sql, sql.Identifier(role))
        )
    return "; ".join(one.as_string(None) for one in statements)


def current_role(conn: Connection[Any]) -> str:
    """The role as which this session acts."""
    row = conn.execute("SELECT current_user").fetchone()
    return str(row[0]) if row else ""


def _refusal(error: Error) -> str:
    """Which rule refused the tried document, as far as the server itself says it."""
    name = "" if error.diag.context else error.diag.constraint_name or ""
    rule = f"its constraint `{name}`" if name else "a trigger or function of the table"
    return f"{rule} refuses an empty document ({error.sqlstate})"


def try_write(conn: Connection[Any], table: Table) -> str:
    """Insert, change and delete a document of the collection, and take all of it back.

    Returns why the document was refused where a rule of the table's owner wants other contents,
    which says nothing against the writes of an app; empty when it was taken.  Raises what the
    server answers otherwise.
    """
    key = f"standfast-doctor-{secrets.token_hex(8)}"
    if table.key_type != "text":
        key = str(-1_000_000_000 - secrets.randbelow(1_000_000_000))
    names = {
        "table": table.sql,
        "key": table.key,
        "type": sql.SQL(table.key_type),
        "tried": sql.Literal(key),
        "limit": sql.Literal(TRIED_LOCK_TIMEOUT),
    }
    forms: tuple[LiteralString, ...] = (
        "SELECT set_config('lock_timeout', {limit}, true)",
        "INSERT INTO {table} ({key}, data) VALUES ({tried}::{type}, '{{}}')",
        "UPDATE {table} SET data = '{{\"a\": 1}}' WHERE {key} = {tried}::{type}",
        "DELETE FROM {table} WHERE {key} = {tried}::{type}",
    )
    with conn.transaction(force_rollback=True):
        try:
            ask(conn, [sql.SQL(form).format(**names) for form in forms])
        except (errors.CheckViolation, errors.ForeignKeyViolation, errors.RaiseException) as error:
            return _refusal(error)
    return ""
