"""One connection with a deadline on everything, made by whoever calls `connect`.

The engine's threads own one each: no pool stands between them and their connection, and none of
them ever waits for one to be made.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection, pq
from psycopg.conninfo import make_conninfo

from standfast.backends.postgres.deadline import SocketDeadline
from standfast.backends.postgres.errors import mapped
from standfast.backends.postgres.pool import configure, has_ended, parameters
from standfast.config.settings import Target
from standfast.errors import DeadlineExceeded, Unavailable
from standfast.system.platform import is_ready


class DeadlineConnection:
    """One connection to one database.  Used by one thread at a time; `close` may come from any."""

    def __init__(self, target: Target) -> None:
        params = parameters(target, connect_timeout_s=5.0)
        # Where libpq should try several hosts, each gets its share of the time.
        self._conninfos = [make_conninfo("", **one) for one in _single_hosts(params)]
        self._prepare = None if target.pooler else 5
        self._display = target.display
        self._lock = threading.Lock()
        # Held by whoever uses the line: libpq knows nothing of threads, and would be freed under
        # the one that waits in it.
        self._turn = threading.RLock()
        self._conn: Connection[Any] | None = None
        self._socket_deadline: SocketDeadline | None = None
        self._busy = False
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection that nobody is known to have ended."""
        conn = self._conn
        return conn is not None and not conn.closed

    @contextmanager
    def exclusive(self, deadline: float) -> Generator[None]:
        """Keep every other thread off the line; one that is on it is cut off first."""
        with self._lock:
            socket_deadline = self._socket_deadline if self._busy else None
        if socket_deadline is not None:
            socket_deadline.shutdown()
        with self._own_turn(f"connecting to {self._display}", deadline):
            yield

    @contextmanager
    def _own_turn(self, doing: str, deadline: float | None) -> Generator[None]:
        wait_s = -1 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._turn.acquire(timeout=wait_s):
            raise Unavailable(
                f"{doing}: another thread has the connection", code="connection", hint="try again"
            )
        try:
            yield
        finally:
            self._turn.release()

    def connect(self, deadline: float) -> None:
        """Make the connection anew, until this instant of `time.monotonic()`."""
        with self.exclusive(deadline):
            self.drop()
            with mapped(f"connecting to {self._display}"):
                conn = self._connect(deadline)
            socket_deadline = SocketDeadline(conn.fileno())
            with self._lock:
                if not self._closed:
                    self._conn, self._socket_deadline = conn, socket_deadline
                    return
        socket_deadline.close()
        conn.close()
        raise Unavailable(f"{self._display} was closed", code="closed", hint="open the store again")

    def _connect(self, deadline: float) -> Connection[Any]:
        failure: psycopg.Error | None = None
        for left in range(len(self._conninfos), 0, -1):
            now = time.monotonic()
            conninfo = self._conninfos[-left]
            try:
                return self._connect_one(conninfo, now + (deadline - now) / left)
            except psycopg.Error as error:
                failure = error
        assert failure is not None, "there is at least one host"
        raise failure

    def _connect_one(self, conninfo: str, deadline: float) -> Connection[Any]:
        """libpq keeps no connect deadline below two seconds, so its states are driven here.

        Source: PostgreSQL documentation, 34.1, "PQconnectStartParams".
        """
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        try:
            while True:
                if pgconn.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError(pgconn.get_error_message())
                state = pgconn.connect_poll()
                if state == pq.PollingStatus.OK:
                    break
                if state == pq.PollingStatus.FAILED:
                    raise psycopg.OperationalError(pgconn.get_error_message())
                writing = state == pq.PollingStatus.WRITING
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not is_ready(pgconn.socket, writing=writing, timeout_s=left_s):
                    raise psycopg.OperationalError("no connection in time")
        except BaseException:
            pgconn.finish()
            raise
        pgconn.nonblocking = 1
        conn: Connection[Any] = Connection(pgconn)
        conn.autocommit = True
        conn.prepare_threshold = self._prepare
        configure(conn)
        return conn

    @contextmanager
    def use(self, doing: str, deadline: float | None = None) -> Generator[Connection[Any]]:
        """The connection for one piece of work, cut off at `deadline`.

        `Unavailable("connection")`: nothing was sent.  `DeadlineExceeded`, and
        `Unavailable("connection_lost")`: something may have taken effect.
        """
        with self._own_turn(doing, deadline), self._in_use(doing, deadline) as conn:
            yield conn

    @contextmanager
    def _in_use(self, doing: str, deadline: float | None) -> Generator[Connection[Any]]:
        with self._lock:
            conn, socket_deadline = self._conn, self._socket_deadline
            self._busy = conn is not None
        if conn is None or socket_deadline is None:
            raise Unavailable(
                f"{doing}: there is no connection", code="connection", hint="it is being made"
            )
        if deadline is not None:
            socket_deadline.arm(deadline)
        try:
            if has_ended(conn):
                raise Unavailable(
                    f"{doing}: the server ended the connection", code="connection", hint="try again"
                )
            with mapped(doing, sent=True):
                yield conn
        except Unavailable as error:
            if socket_deadline.expired and error.code in ("connection", "connection_lost"):
                raise DeadlineExceeded(
                    f"{doing}: no answer in time; the outcome is unknown",
                    hint="read the document when the database answers again",
                ) from None
            raise
        finally:
            socket_deadline.disarm()
            with self._lock:
                self._busy = False
                closed = self._closed
            if closed or socket_deadline.expired or conn.closed or not _is_idle(conn):
                self.drop()

    def drop(self) -> None:
        """Give the connection up, without a word to the server that could block.

        For whoever has the line to itself.
        """
        with self._lock:
            conn, self._conn = self._conn, None
            socket_deadline, self._socket_deadline = self._socket_deadline, None
        if socket_deadline is not None:
            socket_deadline.shutdown()
            socket_deadline.close()
        if conn is not None:
            with contextlib.suppress(psycopg.Error):
                conn.close()

    def close(self) -> None:
        """Close it for good; a call that is under way ends.  Idempotent."""
        with self._lock:
            self._closed = True
            if self._busy and self._socket_deadline is not None:
                # Whoever uses it must not find its descriptor gone, or somebody else's.
                self._socket_deadline.shutdown()
                return
            conn, self._conn = self._conn, None
            socket_deadline, self._socket_deadline = self._socket_deadline, None
        if conn is not None:
            with contextlib.suppress(psycopg.Error):
                conn.close()
        if socket_deadline is not None:
            socket_deadline.close()


def _is_idle(conn: Connection[Any]) -> bool:
    return conn.info.transaction_status == pq.TransactionStatus.IDLE


def _single_hosts(params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters once for each of the hosts, which libpq writes with commas between them."""
    names = [name for name in ("host", "hostaddr") if params.get(name)]
    if not names:
        yield params
        return
    columns = {name: str(params[name]).split(",") for name in names}
    count = max(len(column) for column in columns.values())
    ports = str(params.get("port", "")).split(",")
    for index in range(count):
        one = {name: column[index] for name, column in columns.items()}
        port = ports[index] if len(ports) == count else ports[0]
        yield {**params, **one, **({"port": port} if port else {})}
