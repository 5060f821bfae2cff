"""Sessions of PostgreSQL: connections, their settings and time limits, and the server's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, pq, sql

from standfast.backends.base import SCHEMA_VERSION
from standfast.backends.postgres import schema
from standfast.backends.postgres.connection import Connections, DeadlineConnection
from standfast.backends.postgres.errors import no_identity
from standfast.backends.postgres.handshake import (
    Handshake,
    is_pooled,
    pin_session,
    shake_hands,
)
from standfast.backends.postgres.pinned import PIN_TRANSACTION
from standfast.backends.postgres.tables import ask
from standfast.backends.postgres.trust import require_trusted
from standfast.backends.postgres.write import TransactionOptions
from standfast.config.settings import Target
from standfast.errors import ConfigError, Unavailable
from standfast.ops.types import ServerIdentity

#: How long after the deadline the server itself ends a statement.
_AFTER_DEADLINE_MS = 1000
_SETTINGS: LiteralString = (
    "SELECT set_config('standfast.lane', {lane}, true),"
    " set_config('lock_timeout', {lock_timeout}, true),"
    " set_config('idle_in_transaction_session_timeout', '60s', true)"
)


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
        self._lock_timeout_ms = int(lock_timeout_s * 1000)
        self.clock: tuple[int, float] | None = None
        """What the server's clock showed at an instant of `time.monotonic()`, or earlier."""
        self._schema: str | None = target.schema
        self._installed = False
        """Whether the bookkeeping was there and up to date when the connection was made."""

    def close(self) -> None:
        """Release the connections.  Idempotent."""
        (self.dedicated or self.connections).close()

    def cut(self, *, is_cut: bool) -> None:
        """Let this process, through this set of connections, not reach the server; or again."""
        self.connections.cut(is_cut=is_cut)

    def unpinned(
        self, doing: str, deadline: float | None = None, *, reading: bool = False
    ) -> AbstractContextManager[Connection[Any]]:
        """A connection for a piece of work; errors become ours.

        `reading`: the deadline moves as long as the reply is arriving.  Behind a pooler its
        settings are the server's: for whoever begins a transaction and pins it.
        """
        return (self.dedicated or self.connections).use(doing, deadline, reading=reading)

    @contextmanager
    def connection(
        self, doing: str, deadline: float | None = None, *, reading: bool = False
    ) -> Generator[Connection[Any]]:
        """The same with pinned settings: behind a pooler, in a transaction."""
        with self.unpinned(doing, deadline, reading=reading) as conn, self.pinned(conn):
            yield conn

    @contextmanager
    def pinned(self, conn: Connection[Any]) -> Generator[None]:
        """Statements of the block resolve names in PostgreSQL's own catalog only."""
        if not is_pooled(conn):
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
        if self.dedicated is not None:
            return self.dedicated.connect(
                deadline, self._judge_writable, accept=accept, lanes=lanes
            )
        with self.unpinned("looking at the database", deadline) as conn:
            found = self._judge_writable(conn, shake_hands(conn, self.target, lanes=lanes))
        if accept is not None:
            accept(found)
        return found

    def server_identity(self, deadline: float, *, lanes: Sequence[str] = ()) -> ServerIdentity:
        with self.unpinned("looking at the database", deadline) as conn:
            return self._judge(conn, shake_hands(conn, self.target, lanes=lanes))

    def check(self) -> None:
        with self.unpinned("looking at the database") as conn:
            self._judge(conn, shake_hands(conn, self.target))

    @contextmanager
    def transaction(
        self, conn: Connection[Any], *, lane: str = "-", deadline: float | None = None
    ) -> Generator[None]:
        """One transaction of ours: the triggers for foreign writers stay quiet in it."""
        options = self.limited(TransactionOptions(pin=is_pooled(conn)), deadline)
        self.schema_of(conn)  # before its search path is pinned
        settings: list[sql.Composable] = [sql.SQL(PIN_TRANSACTION)] if options.pin else []
        settings.append(
            sql.SQL(_SETTINGS).format(lane=lane, lock_timeout=f"{options.lock_timeout_ms}ms")
        )
        if conn.info.transaction_status != pq.TransactionStatus.IDLE:
            with conn.transaction():
                ask(conn, settings)
                yield
            return
        # In one round trip.
        ask(conn, [sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED"), *settings])
        try:
            yield
        except BaseException:
            with suppress(psycopg.Error):
                conn.execute("ROLLBACK", prepare=False)
            raise
        conn.execute("COMMIT", prepare=False)

    def _judge(self, conn: Connection[Any], shaken: Handshake) -> ServerIdentity:
        """Raise where the database cannot be used, and keep what was said of it."""
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
        if shaken.stranger:
            require_trusted(conn, self.target.trust)  # says who it is
            raise Unavailable(
                f"the owners of the bookkeeping on {self.display} are changing",
                code="retry",
                hint="try again",
            )
        schema.require_known(shaken.schema)
        if shaken.schema and shaken.server_identity.identity is None:
            raise no_identity(self.display)
        self.clock = shaken.clock
        self._installed = shaken.schema == SCHEMA_VERSION
        if self._schema is None:
            self._schema = _require_home(shaken.home)
        return shaken.server_identity

    def _judge_writable(self, conn: Connection[Any], shaken: Handshake) -> ServerIdentity:
        found = self._judge(conn, shaken)
        if shaken.read_only:
            raise Unavailable(
                f"{self.display} is a standby or read-only",
                code="read_only",
                hint="use the address of the primary, or target_session_attrs=read-write",
            )
        return found

    def schema_of(self, conn: Connection[Any]) -> str:
        """The schema in which tables are made: the URL's, or the first of the search path.

        Asked once: it stays the same for as long as the store is open.
        """
        if self._schema is None:
            self._schema = _require_home(pin_session(conn, self.target))
        return self._schema

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
        return options._replace(
            lock_timeout_ms=max(1, min(lock_ms, left_ms * 4 // 10)),
            statement_timeout_ms=left_ms + _AFTER_DEADLINE_MS,
            expires_us=self.expires_us(deadline),
        )

    def expires_us(self, deadline: float | None) -> int | None:
        """The deadline by the server's clock; None where one of them is not known."""
        if deadline is None or self.clock is None:
            return None
        server_us, at = self.clock
        return server_us + int((deadline - at) * 1_000_000)

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


def _require_home(home: str) -> str:
    if not home:
        raise ConfigError(
            "no schema of the connection's search_path exists",
            code="no_schema",
            hint="create one, or name it with ?schema= in the URL",
        )
    if "%" in home:  # the driver would take it for a placeholder
        raise ConfigError(
            f"the name of the schema `{home}`, the first of the search_path, has a %",
            code="no_schema",
            hint="rename it, or name another schema with ?schema= in the URL",
        )
    return home


def time_left(deadline: float | None) -> float:
    """Seconds until a deadline."""
    return float("inf") if deadline is None else deadline - time.monotonic()
