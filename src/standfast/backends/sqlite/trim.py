"""What a SQLite file keeps of the past, trimmed within the transactions of writes.

Conflicts and runs are kept for ever: they are what a person decides by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import apsw

from standfast.backends.sqlite.tables import Table, table_of
from standfast.limits import (
    CHANGES_KEPT_S,
    EXPIRED_KEPT_S,
    FENCES_KEPT_S,
    MAX_EXPIRED_ROWS,
    MAX_TRIMMED_ROWS,
    TOMBSTONES_KEPT_S,
)
from standfast.ops.types import Op

_LANES = (
    "DELETE FROM _standfast_lanes WHERE (lane, generation) IN (SELECT lane, generation"
    " FROM _standfast_lanes WHERE updated_at < ? AND state = 'fenced' LIMIT ?)"
)
# Found from the oldest on: there is no index of the times.
_CHANGES = (
    "DELETE FROM _standfast_changes WHERE id IN (SELECT id FROM _standfast_changes WHERE id <"
    " coalesce((SELECT id FROM _standfast_changes WHERE at >= ? ORDER BY id LIMIT 1),"
    " 9223372036854775807) ORDER BY id LIMIT ?)"
)
# A version must never be given twice: the collection goes on above what is forgotten (R17).
_FLOORS = (
    "UPDATE _standfast_collections SET version_floor = max(version_floor, coalesce((SELECT"
    " max(t.version) FROM _standfast_tombstones t WHERE t.collection = name AND t.deleted_at < ?1),"
    " 0)) WHERE name IN (SELECT collection FROM _standfast_tombstones WHERE deleted_at < ?1)"
)
_TOMBSTONES = (
    "DELETE FROM _standfast_tombstones WHERE (collection, key) IN"
    " (SELECT collection, key FROM _standfast_tombstones WHERE deleted_at < ? LIMIT ?)"
)


_EXPIRED_INDEX = (
    'CREATE INDEX IF NOT EXISTS "{name}_standfast_expires" ON {table} (expires_at)'
    " WHERE expires_at IS NOT NULL"
)
_EXPIRED = (
    "DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table}"
    " WHERE expires_at IS NOT NULL AND expires_at < ? LIMIT ?)"
)


#: The bookkeeping is trimmed once in so many ops, and what has expired more often, where documents
#: expire; with the first batch, too.
_EVERY_OPS = 4096
_EXPIRED_EVERY_OPS = 512


class Trimmer:
    """Trims within the transactions of writes, always more than these have added meanwhile."""

    def __init__(self) -> None:
        self._ops = _EVERY_OPS
        self._expiring = 0

    def after(self, conn: apsw.Connection, ops: Sequence[Op], now_us: int) -> None:
        """At the end of a batch, in its transaction."""
        self._ops += len(ops)
        self._expiring += sum((op.ttl_us or 0) > 0 for op in ops)
        if self._ops >= _EVERY_OPS:
            trim_bookkeeping(conn, now_us, rows=max(MAX_TRIMMED_ROWS, 2 * self._ops))
            self._ops = 0
            cursor = conn.execute("SELECT name FROM _standfast_collections")
            names = [name for (name,) in cast("list[tuple[str]]", cursor.fetchall())]
        elif self._expiring >= _EXPIRED_EVERY_OPS:
            names = sorted({op.collection for op in ops if (op.ttl_us or 0) > 0})
        else:
            return
        for name in names:
            rows = max(MAX_EXPIRED_ROWS, 2 * self._expiring)
            trim_expired(conn, table_of(conn, name), now_us, rows=rows)
        self._expiring = 0


def trim_expired(conn: apsw.Connection, table: Table, now_us: int, *, rows: int) -> int:
    """Remove documents that have expired; each leaves the version to continue from.

    How many went.  Nothing is done where the file's table is not adopted yet.
    """
    if not table.ready:
        return 0
    names = {"name": table.name, "table": table.sql, "key": table.key_sql}
    conn.execute(_EXPIRED_INDEX.format(**names))
    conn.execute(_EXPIRED.format(**names), (now_us - int(EXPIRED_KEPT_S * 1e6), rows))
    return conn.changes()


def trim_bookkeeping(conn: apsw.Connection, now_us: int, *, rows: int) -> None:
    """Remove what is older than its limit, a bounded number of rows of each table."""
    conn.execute(_LANES, (now_us - int(FENCES_KEPT_S * 1e6), rows))
    conn.execute(_CHANGES, (now_us - int(CHANGES_KEPT_S * 1e6), rows))
    before_us = now_us - int(TOMBSTONES_KEPT_S * 1e6)
    conn.execute(_FLOORS, (before_us,))
    conn.execute(_TOMBSTONES, (before_us, rows))
