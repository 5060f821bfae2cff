"""The connections to one database: few, each with a deadline on everything.

A set of them is bounded.  The engine's threads have their own ones of it, which only `connect`
makes, so that none of them ever waits for one to be made; whoever else needs a connection borrows
one that is free.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, IsolationLevel, pq

from standfast.backends.postgres.connecting import make_connection
from standfast.backends.postgres.deadline import SocketDeadline
from standfast.backends.postgres.errors import explain, forget, from_psycopg
from standfast.backends.postgres.handshake import (
    Handshake,
    ServerProcess,
    pin_session,
    shake_hands,
)
from standfast.backends.postgres.prepared import PreparingConnection
from standfast.config.settings import Target, may_send_cleartext
from standfast.errors import DeadlineExceeded, StandfastError, Unavailable
from standfast.system.platform import readable

T = TypeVar("T")

#: How long one connection is waited for before it is looked whether another one is free.
_NEXT_S = 0.02


def parameters(target: Target) -> dict[str, Any]:
    """What libpq is given: the target's own words, and ours where it says nothing.

    Keepalives are the second line of defence: they notice a network that swallows packets.
    """
    ours: dict[str, Any] = {}
    if not may_send_cleartext(target.params, os.environ):
        # Whoever answers at that address would read it.
        ours["require_auth"] = "!password"
    return {
        **ours,
        "application_name": "standfast",
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **target.params,
        "client_encoding": "utf8",
    }


class DeadlineConnection:
    """One connection to one database.  Used by one thread at a time; `close` may come from any."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._display = target.display
        self._lock = threading.Lock()
        # Held by whoever uses the connection: libpq knows nothing of threads, and would be freed
        # under the one that waits in it.
        self._turn = threading.Lock()
        self._conn: Connection[Any] | None = None
        self._has_news: Callable[[], object] = bool
        self._socket_deadline: SocketDeadline | None = None
        self._busy = False
        self._closed = False
        self._is_cut = False
        # Whether `connect` has made it: what was made for a borrower, nobody has looked at.
        self._accepted = False
        self.has_settings = False
        """Whether the session has its limits, so that a single statement needs no transaction."""
        # The server's side of the last connection that `connect` has made, where that was ours.
        self._process: ServerProcess | None = None

    @property
    def connected(self) -> bool:
        """Whether `connect` has made a connection, and it is not known to have ended."""
        return self._accepted and self.open

    @property
    def open(self) -> bool:
        """The same, whoever has made it."""
        conn = self._conn
        return conn is not None and not conn.closed

    def connect(
        self,
        deadline: float,
        judge: Callable[[Connection[Any], Handshake], T],
        *,
        accept: Callable[[T], object] | None = None,
        lanes: Sequence[str] = (),
    ) -> T:
        """Make the connection anew, until this instant of `time.monotonic()`.

        A thread that uses it is cut off first.  `judge` is shown what the server said before
        anybody else has the connection, and `accept` what that returned; what they raise is
        raised, and no connection is left.
        """
        with self._lock:
            socket_deadline = self._socket_deadline if self._busy else None
        if socket_deadline is not None:
            socket_deadline.shutdown()
        doing = f"connecting to {self._display}"
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _busy(doing)
        try:
            self._open_socket(deadline)
            with self._in_use(f"looking at the database on {self._display}", deadline) as conn:
                shaken = shake_hands(
                    conn, self._target, lanes=lanes, dedicated=True, predecessor=self._process
                )
                self._process = shaken.process
                found = judge(conn, shaken)
            if accept is not None:
                accept(found)
            self.has_settings = not shaken.pooled
            self._accepted = True
            return found
        except BaseException:
            self.drop()
            raise
        finally:
            self._turn.release()

    def _make(self, deadline: float) -> None:
        self._open_socket(deadline)
        doing = f"preparing the session on {self._display}"
        with self._in_use(doing, deadline, sent=False) as conn:
            pin_session(conn, self._target)

    def cut(self, *, is_cut: bool) -> None:
        """Let it be as if the server were away: what is under way ends, and none is made.

        For tests of people's own code; False takes that back.
        """
        with self._lock:
            self._is_cut = is_cut
            if is_cut and self._socket_deadline is not None:
                self._socket_deadline.shutdown()

    def _open_socket(self, deadline: float) -> None:
        self.drop()
        if self._is_cut:
            raise _missing(f"connecting to {self._display}")
        try:
            conn = self._connect(deadline)
        except psycopg.Error as error:
            ours = self._was_closed() or explain(error, f"connecting to {self._display}")
            forget(error)
            raise ours from None
        try:
            socket_deadline = SocketDeadline(conn.fileno())
        except BaseException:  # no descriptor is left
            conn.close()
            raise
        with self._lock:
            if not self._closed and not self._is_cut:
                self._conn, self._socket_deadline = conn, socket_deadline
                self._has_news = readable(conn.fileno())
                return
        socket_deadline.close()
        conn.close()
        raise self._was_closed() or _missing(f"connecting to {self._display}")

    def _was_closed(self) -> Unavailable | None:
        if not self._closed:
            return None
        return _closed(self._display)

    def _connect(self, deadline: float) -> Connection[Any]:
        pgconn = make_connection(parameters(self._target), deadline, cancelled=lambda: self._closed)
        pgconn.nonblocking = 1
        conn = PreparingConnection(pgconn)
        conn.autocommit = True
        conn.prepare_threshold = None if self._target.pooler else 5
        # Whatever the server's default is: what we read after a lock was waited for must be new.
        conn.isolation_level = IsolationLevel.READ_COMMITTED
        return conn

    @contextmanager
    def use(
        self, doing: str, deadline: float | None = None, *, reading: bool = False
    ) -> Generator[Connection[Any]]:
        """The connection for one piece of work, cut off at `deadline`.

        `Unavailable("connection")`, and "busy" where another thread has it: nothing was sent.
        `DeadlineExceeded`, and `Unavailable("connection_lost")`: something may have taken effect.
        """
        doing = f"{doing} on {self._display}"
        if not self._turn.acquire(timeout=-1 if deadline is None else _wait_s(deadline)):
            raise _busy(doing) if self._accepted else _missing(doing)
        try:
            if not self._accepted:
                self.drop()
            with self._in_use(doing, deadline, reading=reading) as conn:
                yield conn
        finally:
            self._turn.release()

    @property
    def closed(self) -> bool:
        """Whether it was closed for good, so that it is never made again."""
        return self._closed

    def run(
        self,
        work: Callable[[Connection[Any]], T],
        doing: str,
        deadline: float | None,
        *,
        reading: bool = False,
    ) -> T:
        """As `use`, for a piece of work that is a function.

        It leaves nothing half done: whatever interrupts it, locks are released, and a connection
        that may be in the middle of something is dropped.
        """
        if self._turn.locked():
            with self.use(doing, deadline, reading=reading) as conn:
                return work(conn)
        with self._turn:
            if not self._accepted:
                self.drop()
            conn, doing = self._conn, f"{doing} on {self._display}"
            try:
                conn = self._begin(deadline, reading=reading, doing=doing)
                return work(conn)
            except (psycopg.Error, Unavailable) as error:
                raise self._explained(error, doing) from None
            finally:
                self._end(conn)

    def missing(self, doing: str) -> Unavailable:
        """The error of a call that cannot begin."""
        return _missing(f"{doing} on {self._display}")

    def borrow(self, timeout_s: float) -> bool:
        """Take it, to give it back by `give_back`; False when another has it for longer."""
        return self._turn.acquire(timeout=timeout_s)

    def give_back(self) -> None:
        """The other side of `borrow`."""
        self._turn.release()

    @contextmanager
    def borrowed(
        self,
        doing: str,
        deadline: float | None,
        *,
        connect_deadline: float,
        reading: bool = False,
    ) -> Generator[Connection[Any]]:
        """As `use`, for whoever has borrowed it; it is made where it is missing or has ended."""
        conn = self._conn
        if conn is None or self._has_ended(conn):
            self._make(connect_deadline)
        with self._in_use(f"{doing} on {self._display}", deadline, reading=reading) as conn:
            yield conn

    @contextmanager
    def _in_use(
        self, doing: str, deadline: float | None, *, sent: bool = True, reading: bool = False
    ) -> Generator[Connection[Any]]:
        conn = self._conn
        try:
            conn = self._begin(deadline, reading=reading, doing=doing)
            yield conn
        except (psycopg.Error, Unavailable) as error:
            raise self._explained(error, doing, sent=sent) from None
        finally:
            self._end(conn)

    def _begin(self, deadline: float | None, *, reading: bool, doing: str) -> Connection[Any]:
        with self._lock:
            conn, socket_deadline = self._conn, self._socket_deadline
            self._busy = conn is not None
        if conn is None or socket_deadline is None:
            raise _missing(doing)
        if deadline is not None:
            socket_deadline.arm(deadline, while_silent=reading)
        if conn.closed or (self._has_news() and self._has_ended(conn)):
            raise Unavailable(
                f"{doing}: the server ended the connection", code="connection", hint="try again"
            )
        return conn

    def _has_ended(self, conn: Connection[Any]) -> bool:
        """Whether the server has closed a connection, seen without asking it.

        There is nothing to read on an idle connection unless the server said good-bye, or something
        harmless; only then it is asked.
        """
        if conn.closed:
            return True
        if self._has_news():
            try:
                conn.execute("")
            except psycopg.Error:
                return True
        return False

    def _explained(
        self, error: psycopg.Error | Unavailable, doing: str, *, sent: bool = True
    ) -> StandfastError:
        ours = error if isinstance(error, Unavailable) else from_psycopg(error, doing)
        expired = self._socket_deadline is not None and self._socket_deadline.expired
        if not sent and ours.code == "connection_lost":
            ours.code = "connection"
        elif expired and ours.code in ("connection", "connection_lost"):
            ours = DeadlineExceeded(
                f"{doing}: no answer in time; the outcome is unknown",
                hint="read the document when the database answers again",
            )
        if isinstance(error, psycopg.Error):
            forget(error)
        return ours

    def _end(self, conn: Connection[Any] | None) -> None:
        """Give up what cannot be used again: it is closed, cut off, or in the middle of something.

        That may be after an interruption too, wherever it came.
        """
        socket_deadline = self._socket_deadline
        if conn is None or socket_deadline is None:
            return
        socket_deadline.disarm()
        with self._lock:
            self._busy = False
            closed = self._closed
        idle = conn.pgconn.transaction_status == pq.TransactionStatus.IDLE
        if closed or socket_deadline.expired or not idle:
            self.drop()

    def drop(self) -> None:
        """Give the connection up, without a message to the server that could block.

        The caller must have the connection to itself (`borrow`, or inside `use`).
        """
        with self._lock:
            conn, self._conn = self._conn, None
            socket_deadline, self._socket_deadline = self._socket_deadline, None
            self.has_settings = self._accepted = False
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


class Connections:
    """A bounded set of connections to one database, made when they are needed.  Thread-safe."""

    def __init__(self, target: Target, *, max_connections: int, connect_timeout_s: float) -> None:
        self._display = target.display
        self._timeout_s = connect_timeout_s
        self.all = [DeadlineConnection(target) for _ in range(max_connections)]

    @contextmanager
    def use(
        self, doing: str, deadline: float | None = None, *, reading: bool = False
    ) -> Generator[Connection[Any]]:
        """A free one for one piece of work, cut off at `deadline`; without one, it has no limit.

        It is made where it is missing.  `Unavailable("busy")`: none was free in time; "closed":
        all of them were closed for good.
        """
        one = self._borrow(doing, time.monotonic() + self._timeout_s)
        try:
            until = time.monotonic() + self._timeout_s
            borrowed = one.borrowed(doing, deadline, connect_deadline=until, reading=reading)
            with borrowed as conn:
                yield conn
        finally:
            one.give_back()

    def _borrow(self, doing: str, until: float) -> DeadlineConnection:
        """Take a free connection: if possible an open one that no thread has for itself.

        What one handle has closed is closed for that handle's thread; the others still serve.
        """
        while True:
            usable = [one for one in self.all if not one.closed]
            if not usable:
                raise _closed(self._display)
            open_first = sorted(usable, key=lambda one: (one.connected, not one.open))
            for one in open_first:
                if one.borrow(0):
                    return one
            if time.monotonic() > until:
                raise _busy(f"{doing} on {self._display}")
            if open_first[0].borrow(_NEXT_S):
                return open_first[0]

    def cut(self, *, is_cut: bool) -> None:
        """As `DeadlineConnection.cut`, all of them."""
        for one in self.all:
            one.cut(is_cut=is_cut)

    def close(self) -> None:
        """Close all of them, for good.  Idempotent."""
        for one in self.all:
            one.close()


def _busy(doing: str) -> Unavailable:
    return Unavailable(
        f"{doing}: other threads use every connection, and none was free in time",
        code="busy",
        hint="nothing was sent; try again, or allow more with max_connections=",
    )


def _closed(display: str) -> Unavailable:
    return Unavailable(f"{display} was closed", code="closed", hint="open the store again")


def _missing(doing: str) -> Unavailable:
    return Unavailable(
        f"{doing}: there is no connection", code="connection", hint="it is being made"
    )


def _wait_s(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
