"""The pool of connections: small, patient with a restart, and never handing out a dead one."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection, IsolationLevel
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

from standfast.backends.postgres.errors import mapped
from standfast.config.settings import Target
from standfast.errors import Unavailable
from standfast.system.platform import is_ready

#: Connections of one process; free plans of hosts allow about 20 for everybody.
MAX_CONNECTIONS = 4

Pool = ConnectionPool[Connection[Any]]


def parameters(target: Target, *, connect_timeout_s: float) -> dict[str, Any]:
    """What libpq is told: the target's own words, and ours where it says nothing.

    Keepalives are the second line: they notice a network that swallows packets.
    """
    return {
        "connect_timeout": max(2, round(connect_timeout_s)),
        "application_name": "standfast",
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **target.params,
        "client_encoding": "utf8",
    }


class Connections:
    """The connections to one database, opened when the first is needed.  Thread-safe."""

    def __init__(self, target: Target, *, timeout_s: float) -> None:
        self._display = target.display
        self._timeout_s = timeout_s
        self._conninfo = make_conninfo("", **parameters(target, connect_timeout_s=timeout_s))
        # Server-side prepared statements do not survive a transaction pooler.
        self._kwargs: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": None if target.pooler else 5,
        }
        self._pool: Pool | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def connected(self) -> bool:
        """Always: a connection that is missing is made where it is needed."""
        return True

    def connect(self, deadline: float) -> None:
        """Nothing: a connection that is missing is made where it is needed."""

    @contextmanager
    def exclusive(self, deadline: float) -> Generator[None]:
        """Nothing: each piece of work has a connection of its own."""
        yield

    def drop(self) -> None:
        """Nothing: a broken connection does not come back to the pool."""

    @contextmanager
    def use(self, doing: str, deadline: float | None = None) -> Generator[Connection[Any]]:
        """A connection for one piece of work; errors of the driver become ours.

        `deadline` is not kept here: a pool serves long work, such as a bulk load.
        """
        with mapped(doing):
            pool, conn = self._acquire()
        try:
            with mapped(doing, sent=True), conn:
                yield conn
        finally:
            pool.putconn(conn)

    def close(self) -> None:
        """Close all of them, for good.  Idempotent."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _acquire(self) -> tuple[Pool, Connection[Any]]:
        pool = self._pool or self._open()
        try:
            return pool, _living(pool)
        except PoolTimeout:
            if not pool.get_stats().get("connections_errors"):
                raise
        # The pool may sleep on for long after the server is back: begin anew, and hear the reason.
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.close()
        pool = self._open()
        return pool, _living(pool)

    def _open(self) -> Pool:
        with self._lock:
            if self._closed:
                raise Unavailable(
                    f"{self._display} was closed", code="closed", hint="open the store again"
                )
            if self._pool is None:
                # The pool would only say that it waited in vain: the first try tells why.
                psycopg.connect(self._conninfo, **self._kwargs).close()
                self._pool = ConnectionPool(
                    self._conninfo,
                    kwargs=self._kwargs,
                    configure=configure,
                    min_size=1,
                    max_size=MAX_CONNECTIONS,
                    timeout=self._timeout_s,
                    open=True,
                    name="standfast",
                )
            return self._pool


def configure(conn: Connection[Any]) -> None:
    """Whatever the server's default is: what we read after a lock was waited for must be new."""
    conn.isolation_level = IsolationLevel.READ_COMMITTED


def _living(pool: Pool) -> Connection[Any]:
    """A connection of the pool; those that ended while nobody used them are thrown away.

    The pool's own check would ask the server each time, and wait a second after each dead one.
    """
    for _ in range(MAX_CONNECTIONS):
        conn = pool.getconn()
        if not has_ended(conn):
            return conn
        conn.close()
        pool.putconn(conn)
    return pool.getconn()


def has_ended(conn: Connection[Any]) -> bool:
    """Whether the server has closed a connection, seen without asking it.

    There is nothing to read on an idle connection unless the server said good-bye, or something
    harmless; only then it is asked.
    """
    if conn.closed:
        return True
    if not is_ready(conn.fileno()):
        return False
    try:
        ConnectionPool.check_connection(conn)
    except psycopg.Error:
        return True
    return False
