"""Sessions of PostgreSQL: connections, their settings and time limits, and the server's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

from psycopg import Connection

from standfast.backends.postgres import conflicts, schema
from standfast.backends.postgres.connection import Connections, DeadlineConnection
from standfast.backends.postgres.pinned import HOME, KEPT_HOME, PIN_TRANSACTION
from standfast.backends.postgres.trust import require_trusted
from standfast.backends.postgres.write import TransactionOptions
from standfast.config.settings import Target
from standfast.errors import ConfigError, Unavailable
from standfast.ops.types import ServerIdentity

#: How long a single statement on a dedicated connection waits for a lock.
_STATEMENT_LOCK_TIMEOUT_MS = 300
#: How long after the deadline the server itself ends a statement.
_AFTER_DEADLINE_MS = 1000


class Sessions:
    """A way to one database: over any connection of a set, or over a dedicated one of it.

    A dedicated connection is made by `connect` alone; the others are made when they are needed.
    """

    def __init__(
        self,
        target: Target,
        connections: Connections,
        dedicated: DeadlineConnection | None,
        *,
        lock_timeout_s: float,
    ) -> None:
        self.target = target
        self.display = target.display
        self.connections = connections
        self.dedicated = dedicated
        self.unpinned = connections.use if dedicated is None else dedicated.use
        """`unpinned(doing, deadline=None)`: a connection for a piece of work; errors become ours.

        Behind a pooler its settings are the server's: for whoever begins a transaction and pins it.
        """
        self._lock_timeout_ms = int(lock_timeout_s * 1000)
        self.clock: tuple[int, float] | None = None
        """What the server's clock showed at an instant of `time.monotonic()`, or earlier."""
        self._schema: str | None = target.schema

    def close(self) -> None:
        """Release the connections.  Idempotent."""
        (self.dedicated or self.connections).close()

    @contextmanager
    def connection(self, doing: str, deadline: float | None = None) -> Generator[Connection[Any]]:
        """The same with pinned settings: behind a pooler, in a transaction."""
        with self.unpinned(doing, deadline) as conn, self.pinned(conn):
            yield conn

    @contextmanager
    def pinned(self, conn: Connection[Any]) -> Generator[None]:
        """Statements of the block resolve names in PostgreSQL's own catalog only."""
        if not self.target.pooler:
            yield  # since the connection was made
            return
        self.schema_of(conn)
        with conn.transaction():
            conn.execute(PIN_TRANSACTION)
            yield

    @property
    def connected(self) -> bool:
        return self.dedicated is None or self.dedicated.connected

    def connect(
        self,
        deadline: float,
        *,
        accept: Callable[[ServerIdentity], object] | None = None,
        lanes: Sequence[str] = (),
    ) -> ServerIdentity:
        """Raises what `check` does, and `Unavailable("read_only")` where nothing can be written."""

        def prepare(conn: Connection[Any]) -> ServerIdentity:
            return self._prepare(conn, lanes)

        if self.dedicated is not None:
            return self.dedicated.connect(deadline, prepare, accept=accept)
        with self.unpinned("looking at the database", deadline) as conn:
            found = prepare(conn)
        if accept is not None:
            accept(found)
        return found

    def _prepare(self, conn: Connection[Any], lanes: Sequence[str]) -> ServerIdentity:
        with self.pinned(conn):
            return self._look(conn, lanes)

    def _look(self, conn: Connection[Any], lanes: Sequence[str]) -> ServerIdentity:
        self._check(conn)
        self._require_writable(conn)
        if self.dedicated is not None:
            self._prepare_session(conn, self.dedicated)
            self._end_predecessor(conn, self.dedicated)
        self.measure_clock(conn)
        return conflicts.server_identity(conn, lanes)

    def server_identity(self, deadline: float, *, lanes: Sequence[str] = ()) -> ServerIdentity:
        with self.connection("looking at the database", deadline) as conn:
            return conflicts.server_identity(conn, lanes)

    @contextmanager
    def transaction(
        self, conn: Connection[Any], *, lane: str = "-", deadline: float | None = None
    ) -> Generator[None]:
        """One transaction of ours: the triggers for foreign writers stay quiet in it."""
        options = self.limited(TransactionOptions(pin=self.target.pooler), deadline)
        with conn.transaction():
            if options.pin:
                conn.execute(PIN_TRANSACTION)
            conn.execute(
                "SELECT set_config('standfast.lane', %s, true),"
                " set_config('lock_timeout', %s, true),"
                " set_config('idle_in_transaction_session_timeout', '60s', true)",
                (lane, f"{options.lock_timeout_ms}ms"),
            )
            yield

    def check(self) -> None:
        with self.connection("looking at the database") as conn:
            self._check(conn)

    def _check(self, conn: Connection[Any]) -> None:
        if conn.info.server_version < schema.MIN_SERVER_VERSION:
            raise ConfigError(
                f"PostgreSQL {conn.info.server_version // 10000} is too old",
                code="server_too_old",
                hint="standfast needs PostgreSQL 14 or newer",
            )
        encoding = conn.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise ConfigError(
                f"the database's encoding is {encoding}, which cannot hold every text",
                code="server_encoding",
                hint="create the database with ENCODING 'UTF8'",
            )
        require_trusted(conn, self.target.trust)
        schema.schema_version(conn)
        self.schema_of(conn)

    def _require_writable(self, conn: Connection[Any]) -> None:
        if conflicts.is_read_only(conn):
            raise Unavailable(
                f"{self.display} is a standby or read-only",
                code="read_only",
                hint="use the address of the primary, or target_session_attrs=read-write",
            )

    def schema_of(self, conn: Connection[Any]) -> str:
        """The schema in which tables are made: the URL's, or the first of the search path.

        Asked once: it stays the same for as long as the store is open.
        """
        if self._schema is None:
            home: LiteralString = HOME if self.target.pooler else KEPT_HOME
            row = conn.execute("SELECT " + home).fetchone()
            if row is None or not row[0]:
                raise ConfigError(
                    "no schema of the connection's search_path exists",
                    code="no_schema",
                    hint="create one, or name it with ?schema= in the URL",
                )
            if "%" in row[0]:  # the driver would take it for a placeholder
                raise ConfigError(
                    f"the name of the schema `{row[0]}`, the first of the search_path, has a %",
                    code="no_schema",
                    hint="rename it, or name another schema with ?schema= in the URL",
                )
            self._schema = str(row[0])
        return self._schema

    def _prepare_session(self, conn: Connection[Any], dedicated: DeadlineConnection) -> None:
        """Settings that hold for the session, where a session is ours: not behind a pooler.

        A single statement then needs no transaction around it to have its limits.
        """
        if self.target.pooler:
            return
        conn.execute(
            "SELECT set_config('standfast.lane', 'line', false),"
            # A statement without BEGIN goes by this one.
            " set_config('default_transaction_isolation', 'read committed', false),"
            " set_config('lock_timeout', %s, false),"
            " set_config('idle_in_transaction_session_timeout', '60s', false),"
            # Everything here looks documents up by their keys: one plan for it, made once.
            " set_config('plan_cache_mode', 'force_generic_plan', false),"
            " set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off',"
            " false), set_config('enable_mergejoin', 'off', false),"
            " CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')"
            " THEN set_config('synchronous_commit', 'on', false) END",
            (f"{_STATEMENT_LOCK_TIMEOUT_MS}ms",),
        )
        dedicated.has_settings = True

    def limited(
        self,
        options: TransactionOptions,
        deadline: float | None,
        lock_timeout_s: float | None = None,
    ) -> TransactionOptions:
        """The options with the server's time limits for this deadline.

        A lock is given up well before the deadline; a statement only after it, so that what ends
        at the deadline is the wait, and the server lets go of its locks soon after.
        """
        lock_ms = self._lock_timeout_ms
        if lock_timeout_s is not None:
            lock_ms = max(1, min(lock_ms, int(lock_timeout_s * 1000)))
        if deadline is None:
            return options._replace(lock_timeout_ms=lock_ms)
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        expires_us = None
        if self.clock is not None:
            server_us, at = self.clock
            expires_us = server_us + int((deadline - at) * 1_000_000)
        return options._replace(
            lock_timeout_ms=max(1, min(lock_ms, left_ms * 4 // 10)),
            statement_timeout_ms=left_ms + _AFTER_DEADLINE_MS,
            expires_us=expires_us,
        )

    def _end_predecessor(self, conn: Connection[Any], dedicated: DeadlineConnection) -> None:
        """End the session whose connection was cut: it would go on holding its locks.

        A server that waits for the rest of a message has no time limit for that.
        """
        row = conn.execute(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()
        before, dedicated.session = dedicated.session, row and (int(row[0]), row[1])
        if before is not None and not self.target.pooler:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid = %s AND backend_start = %s AND pid <> pg_backend_pid()",
                before,
            )

    def measure_clock(self, conn: Connection[Any]) -> None:
        """What the server's clock shows; taken as of now, so that a statement expires too early
        rather than too late."""
        row = conn.execute(
            # Also asked where nothing is pinned.
            "SELECT (extract(epoch FROM pg_catalog.clock_timestamp())"
            " OPERATOR(pg_catalog.*) 1000000::pg_catalog.numeric)::pg_catalog.int8"
        ).fetchone()
        assert row is not None, "a SELECT without FROM returns a row"
        self.clock = (int(row[0]), time.monotonic())


def time_left(deadline: float | None) -> float:
    """Seconds until a deadline."""
    return float("inf") if deadline is None else deadline - time.monotonic()
