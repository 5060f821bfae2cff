"""The tables that a backend knows: found, made within their own limits, forgotten on a change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import Connection

from standfast.backends.postgres import differences, schema, write
from standfast.backends.postgres.connection import Connections, DeadlineConnection
from standfast.backends.postgres.errors import RETRIED, refused_change
from standfast.backends.postgres.session import Sessions
from standfast.backends.postgres.table_maker import TableMaker
from standfast.backends.postgres.tables import Table, find_table, has_schema, lost_table
from standfast.config.settings import Target
from standfast.errors import ConfigError, DataError, DeadlineExceeded, Unavailable
from standfast.limits import DDL_DEADLINE_S, MAX_TRANSACTION_ATTEMPTS
from standfast.system.failpoints import failpoint

#: Tables of the bookkeeping to which a load writes.
_LOADED = ("collections", "changes", "tombstones", "runs")


def _creating(collections: Sequence[str]) -> str:
    return "creating " + ", ".join(f"`{name}`" for name in collections)


class KnownTables(Sessions):
    """What one handle of a backend knows of tables, all of them know; any of them makes one."""

    def __init__(
        self,
        target: Target,
        connections: Connections,
        dedicated: DeadlineConnection | None,
        *,
        lock_timeout_s: float,
    ) -> None:
        super().__init__(target, connections, dedicated, lock_timeout_s=lock_timeout_s)
        self._own = dedicated
        self._handles: list[KnownTables] = []
        self._tables: dict[str, Table] = {}
        self._maker = TableMaker(self._make_table)

    def _table(self, conn: Connection[Any], collection: str) -> Table | None:
        """The table for reading: known, found as it stands, or None.  Creates nothing."""
        table = self._tables.get(collection)
        if table is None:
            table = find_table(conn, collection, self.schema_of(conn), self.target.trust)
            if table is not None:
                self.require_own_schema(table)
                if table.ready:
                    self._tables[collection] = table
        return table

    def require_own_schema(self, table: Table) -> None:
        """Refuse a table in another schema than this store's, whoever has named that: the URL, or
        the search path of role, database or URL.  It would be another app's."""
        self.require_schema(table.collection, table.schema)

    def require_schema(self, collection: str, schema: str) -> None:
        """Refuse a collection whose table is, or was, in another schema than this."""
        if schema != self._schema:
            raise ConfigError(
                f"collection `{collection}` of this database is in the schema"
                f" `{schema}`, not in `{self._schema}`",
                code="other_schema",
                hint=f"add ?schema={schema} to the URL if the data there is meant; otherwise"
                " use another database",
            )

    def make_tables(self, collections: Sequence[str], until: float | None = None) -> None:
        """Create or adopt what is not ready yet, with a limit of its own.

        `Unavailable("busy")` when that has not ended at this instant, and continues.
        """
        missing = [name for name in collections if name not in self._tables]
        if not missing:
            return
        if self.dedicated is not None and not self.dedicated.connected:
            raise self.dedicated.missing(_creating(missing))
        if self.dedicated is None or until is None:
            self._create(missing)
        else:
            self._maker.make(missing, until)

    def _make_table(self, collection: str) -> None:
        """For the thread that makes tables: over the first connection that is there."""
        connected = [handle for handle in self._handles if handle.connected]
        for handle in connected[:-1]:
            try:
                handle._create([collection])
                return
            except Unavailable as error:
                if error.code not in ("connection", "connection_lost"):
                    raise
        (connected or self._handles)[-1]._create([collection])

    def _create(self, collections: Sequence[str]) -> None:
        doing = _creating(collections)
        for attempt in range(1, MAX_TRANSACTION_ATTEMPTS + 1):
            try:
                with self.unpinned(doing, time.monotonic() + DDL_DEADLINE_S) as conn:
                    try:
                        self.writable(conn, collections)
                        return
                    except psycopg.Error as error:
                        if error.sqlstate not in RETRIED or attempt == MAX_TRANSACTION_ATTEMPTS:
                            raise
            except DeadlineExceeded as error:
                # It says nothing of the connection on which others write.
                raise Unavailable(error.message, code="busy", hint="it is tried again") from None
            except DataError as error:
                raise refused_change(error) from None

    def writable(self, conn: Connection[Any], collections: Sequence[str]) -> None:
        """Create or adopt, in one transaction of its own, what is not ready yet."""
        if self._installed:
            with self.pinned(conn):
                for name in collections:
                    self._table(conn, name)
        missing = [name for name in collections if name not in self._tables]
        if missing:
            with self.transaction(conn):
                tables = self._made(conn, missing)
            self._tables.update(tables)
        for name in collections:
            if (table := self._tables.get(name)) is not None:
                schema.tidy_table(conn, table)

    def _made(self, conn: Connection[Any], collections: Sequence[str]) -> dict[str, Table]:
        """Tables made inside the caller's transaction: gone with it when that is refused."""
        home, trust = self.schema_of(conn), self.target.trust
        tables = {name: schema.ensure_table(conn, name, home, trust) for name in collections}
        for table in tables.values():
            self.require_own_schema(table)
        failpoint("pg-tables-made")
        return tables

    def adoptable(self, collection: str) -> str:
        with self.connection(f"looking at table `{collection}`") as conn:
            self._tables.pop(collection, None)  # as it is now, whatever was done to it since
            try:
                lost = self._lost_table(conn, collection)
                table = None if lost else self._table(conn, collection)
                if table is not None:
                    schema.require_rights(table)
                schema.require_privileges(conn, table, self.schema_of(conn))
                if has_schema(conn) and (lacking := differences.missing_grants(conn, _LOADED)):
                    raise ConfigError(
                        f"this role lacks the right {', '.join(lacking)}",
                        code="no_rights",
                        hint="hand a DBA the output of `standfast schema sql`",
                    )
            except ConfigError as error:
                return f"{error.message} ({error.hint})"
        return ""

    def lost_table(self, collection: str) -> bool:
        with self.connection(f"looking at table `{collection}`") as conn:
            return self._lost_table(conn, collection)

    def _lost_table(self, conn: Connection[Any], collection: str) -> bool:
        place = lost_table(conn, collection)
        if place is not None:
            self._tables.pop(collection, None)
            self.require_schema(collection, place[0])
        return place is not None

    def table_of(self, collection: str) -> Table:
        """The table of a collection that was made writable."""
        table = self._tables.get(collection)
        if table is None:  # another thread has found that it was changed
            raise Unavailable(
                f"the table of `{collection}` is looked at again", code="busy", hint="try again"
            )
        return table

    def _forget_tables(self, error: psycopg.Error | write.UnregisteredError) -> bool:
        """After a table was dropped or changed under us, look at all of them again.

        Returns whether it was: they are looked at again, which other threads may have begun.
        """
        changed = isinstance(error, write.UnregisteredError) or (
            (error.sqlstate or "").startswith(("42", "0A"))
        )
        if changed:
            self._tables.clear()
        return changed
