"""Dropping a collection: its table and all that is kept about it go in one transaction.

Only the collection that was there when the call began goes: whoever made it anew under the same
name has another.  What is made later, under any name, has versions above all that there were.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql

from standfast.backends.base import not_empty, require_droppable
from standfast.backends.postgres.errors import no_identity
from standfast.backends.postgres.tables import Table, has_schema
from standfast.backends.postgres.write import log_change
from standfast.errors import ConfigError
from standfast.limits import LOST_TABLE_VERSIONS, MAX_DROPPED_VERSION
from standfast.system.failpoints import failpoint

#: When it was registered, and which table it has.
_INCARNATION: LiteralString = (
    "SELECT (extract(epoch FROM k.created_at) * 1000000)::bigint::text || '/' || coalesce(("
    "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = k.table_schema AND c.relname = k.table_name)::text, '')"
    " FROM standfast.collections k WHERE k.name = %s"
)
_MAY: LiteralString = (
    "SELECT k.adopted, has_table_privilege('standfast.collections', 'DELETE')"
    " AND has_column_privilege('standfast.identity', 'version_floor', 'UPDATE')"
    " FROM standfast.collections k WHERE k.name = %s"
)
#: A version that another program made up does not use up those of all collections.
_RAISE_FLOOR: LiteralString = (
    "UPDATE standfast.identity SET version_floor = greatest(version_floor, least(%(limit)s,"
    " greatest(%(highest)s, %(lost)s +"
    " (SELECT k.version_floor FROM standfast.collections k WHERE k.name = %(name)s),"
    " (SELECT max(t.version) FROM standfast.tombstones t WHERE t.collection = %(name)s))))"
    " RETURNING version_floor"
)


def incarnation(conn: Connection[Any], collection: str) -> str | None:
    """Which collection of this name there is; None without any."""
    if not has_schema(conn):
        return None
    row = conn.execute(_INCARNATION, (collection,)).fetchone()
    return str(row[0]) if row else None


def drop(conn: Connection[Any], collection: str, table: Table | None, *, if_empty: bool) -> int:
    """Drop a collection inside the caller's transaction; returns a version above none of its own.

    `table` is None where it is lost: then only what is kept about it goes.
    """
    adopted, may_forget = conn.execute(_MAY, (collection,)).fetchone() or (False, False)
    if not may_forget or (table is not None and not table.owned):
        raise ConfigError(
            f"drop of `{collection}`: this role does not own its table and the bookkeeping; nothing"
            " was changed",
            code="no_rights",
            hint="let a role that owns both call it, or use clear(), which deletes the documents",
        )
    highest = 0
    if table is not None:
        require_droppable(collection, adopted=adopted)
        highest = _drop_table(conn, table, if_empty=if_empty)
    failpoint("pg-table-dropped")
    versions = {
        "highest": highest,
        "lost": LOST_TABLE_VERSIONS if table is None else 0,
        "limit": MAX_DROPPED_VERSION,
        "name": collection,
    }
    row = conn.execute(_RAISE_FLOOR, versions).fetchone()
    if row is None:
        raise no_identity("the database")
    log_change(conn, collection, None)
    conn.execute("DELETE FROM standfast.tombstones WHERE collection = %s", (collection,))
    conn.execute("DELETE FROM standfast.collections WHERE name = %s", (collection,))
    return int(row[0])


def _drop_table(conn: Connection[Any], table: Table, *, if_empty: bool) -> int:
    """Drop it, once nobody writes to it; returns the highest version in it."""
    parts = table.parts()
    conn.execute(sql.SQL("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE").format(**parts))
    found = conn.execute(
        sql.SQL(
            "SELECT coalesce(max({version}), 0), coalesce(bool_or({live}), false) FROM {table} t"
        ).format(**parts)
    ).fetchone()
    highest, has_documents = found or (0, False)
    if if_empty and has_documents:
        raise not_empty(table.collection)
    try:
        conn.execute(sql.SQL("DROP TABLE {table}").format(**parts))
    except psycopg.errors.DependentObjectsStillExist as error:
        # Names of objects only.
        who = ", ".join((error.diag.message_detail or "other objects").splitlines())
        require_droppable(table.collection, adopted=False, referenced=who)
    return int(highest)
