"""What is known of the tables of a SQLite file, looked up once, until anybody changes them.

To look it up for every call costs more than the call.  SQLite itself notices when a prepared
statement meets other tables, but not that its text means something else there: of a table that has
lost its column `"key"`, it takes that for the text 'key'.
Sources: sqlite.org/c3ref/c_fcntl_begin_atomic_write.html, SQLITE_FCNTL_DATA_VERSION;
sqlite.org/quirks.html, 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from standfast.backends.sqlite.tables import Table, table_of


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
