"""Plain calls on a SQLite file: each is one statement on a table that was looked up once.

A batch of plain puts, as most writes are, reads nothing first.  What is not plain is left to
`write`, which decides everything: conditions, groups, replays, resends of what the lane has applied
already, and the first batch of a lane or a collection.

To look a table up for every call costs more than the call.  SQLite itself notices when a prepared
statement meets other tables, but not that its text means something else there: of a table that has
lost its column `"key"`, it takes that for the text 'key'.
Sources: sqlite.org/c3ref/c_fcntl_begin_atomic_write.html, SQLITE_FCNTL_DATA_VERSION;
sqlite.org/quirks.html, 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw

from standfast.backends.base import encode_outcomes
from standfast.backends.sqlite.tables import Table, table_of
from standfast.ops.types import Applied, Op, Outcome


class KnownTable:
    """A collection's table, and the statements of plain calls on it."""

    __slots__ = ("insert", "read_one", "read_some", "table", "update")

    def __init__(self, table: Table) -> None:
        self.table = table
        select = f"{table.row} FROM {table.sql} WHERE {table.key_sql}"
        self.read_one = f"{select} = ?"
        self.read_some = f"{select} IN (SELECT value FROM json_each(?))"
        key, now, later = table.key_sql, table.stamp("?2"), table.stamp("?3")
        self.update = (
            f"UPDATE {table.sql} SET data = ?1, version = version + 1, updated_at = {now},"
            f" created_at = CASE WHEN expires_at <= ?2 THEN {now} ELSE created_at END,"
            f" expires_at = ?3 WHERE {key} = ?4 RETURNING version"
        )
        # Above what was there before (R17).
        self.insert = (
            f"INSERT INTO {table.sql} ({key}, data, created_at, updated_at, expires_at, version)"
            f" SELECT ?1, ?2, {later}, {later}, ?4, 1 + max(version_floor, coalesce((SELECT version"
            " FROM _standfast_tombstones WHERE collection = ?5 AND key = ?1), 0))"
            " FROM _standfast_collections WHERE name = ?5 RETURNING version"
        )


class KnownTables:
    """The tables that one connection has met.  Used by one thread at a time."""

    def __init__(self, conn: apsw.Connection) -> None:
        self.conn = conn
        #: Of a cursor that is kept: `conn.execute` makes one for every statement.
        self.execute: Callable[..., Any] = conn.cursor().execute
        self._data_version = self._schema_version = -1
        self._tables: dict[str, KnownTable] = {}

    def get(self, collection: str) -> KnownTable | None:
        """The table of a collection; None where there is none.  It counts if `hold` says so then.

        ConfigError where the collection's table is gone.
        """
        known = self._tables.get(collection)
        if known is None:
            self.hold()
            registered = "SELECT 1 FROM _standfast_collections WHERE name = ?"
            if not self.conn.execute(registered, (collection,)).get:
                return None
            known = KnownTable(table_of(self.conn, collection))
            self._tables[collection] = known
        return known

    def note_own(self) -> None:
        """The connection's last commit was its own, and changed no tables."""
        self._data_version = self.conn.data_version()

    def hold(self) -> bool:
        """Whether what was known held for the last statement, too; else it is forgotten.

        Mostly that costs nothing: the connection knows of the last snapshot whether it was a new
        one.  Only then it is asked whether it has other tables: their version only grows.
        """
        if self.conn.data_version() == self._data_version:
            return True
        schema_version = self.conn.execute("PRAGMA schema_version").get
        self._data_version = self.conn.data_version()
        if schema_version == self._schema_version:
            return True
        self._schema_version = schema_version
        self._tables.clear()
        return False


# The row of the lane shows whether these ops are new, and whether they may be applied (R2).
_GATE = (
    "UPDATE _standfast_lanes SET watermark = ?, outcomes = ?, updated_at = ?"
    " WHERE lane = ? AND generation = 0 AND state = 'open' AND watermark >= ? AND watermark < ?"
)
_UNBURY = "DELETE FROM _standfast_tombstones WHERE collection = ? AND key = ?"


class NotPlain(Exception):
    """These ops are decided by the general way; the transaction is to be rolled back."""


def put_batch(
    conn: apsw.Connection,
    known: KnownTables,
    ops: Sequence[Op],
    *,
    expected_watermark: int,
    now_us: int,
) -> Applied:
    """Apply plain puts (`is_plain`) inside the caller's transaction."""
    collection = ops[0].collection
    known.hold()
    table = known.get(collection)
    if table is None or not table.table.ready:
        raise NotPlain
    execute = known.execute
    outcomes: list[Outcome] = []
    for op in ops:
        expires_us = now_us + op.ttl_us if op.ttl_us else None
        version = execute(table.update, (op.body, now_us, expires_us, op.key)).get
        if version is None:
            values = (op.key, op.body, now_us, expires_us, collection)
            version = execute(table.insert, values).get
            if version is None:
                raise NotPlain
            execute(_UNBURY, (collection, op.key))
        outcomes.append(Outcome(op.seq, "applied", version, op.body))
    watermark = ops[-1].seq
    lane = (ops[0].lane, expected_watermark, ops[0].seq)
    execute(_GATE, (watermark, encode_outcomes(outcomes), now_us, *lane))
    if conn.changes() != 1:
        raise NotPlain
    return Applied(outcomes, watermark)
