"""Single backends of a test PostgreSQL: who they are, and how to freeze, kill or end one.

    with frozen(cluster, pid):
        ...                     # the server answers everybody else

A frozen backend is thawed at the end of the block, after `limit_s` seconds at the latest, and when
the test is gone (`support.leash`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

import psutil
import psycopg

from support import watchdog
from support.cluster import Cluster
from support.leash import Leash

#: What stores call themselves; the connections that look and meddle are called otherwise.
STORE = "standfast"
_LOOKING = "standfast-tests"

_BACKENDS = """
SELECT pid, application_name, coalesce(state, ''), query_start, coalesce(query, ''),
       coalesce(wait_event_type, ''), xact_start IS NOT NULL
  FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend'
   AND pid <> pg_backend_pid() AND (%(name)s::text IS NULL OR application_name = %(name)s)
 ORDER BY backend_start, pid
"""


@dataclass(frozen=True)
class Backend:
    """One session of the server, as it describes itself."""

    pid: int
    application_name: str
    state: str
    query_start: datetime | None
    query: str
    wait_event_type: str
    in_transaction: bool


def looking(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection that is no store's; close it, or use it as a context manager."""
    return psycopg.connect(url, autocommit=True, application_name=_LOOKING, connect_timeout=10)


def backends(url: str, *, name: str | None = STORE) -> list[Backend]:
    """The sessions of the URL's database, oldest first; only those called `name` unless None."""
    with looking(url) as connection:
        found = connection.execute(_BACKENDS, {"name": name}).fetchall()
    return [Backend(*record) for record in found]  # type: ignore[arg-type]


def wait_backend(
    url: str, test: Callable[[Backend], bool], *, name: str | None = STORE, timeout_s: float = 10.0
) -> Backend:
    """The first session for which `test` holds, as soon as there is one; else TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while True:
        for backend in backends(url, name=name):
            if test(backend):
                return backend
        if time.monotonic() > deadline:
            raise TimeoutError("no backend did what was waited for")
        time.sleep(0.005)


def member(cluster: Cluster, pid: int) -> psutil.Process:
    """The process of a session; ProcessLookupError unless it is one of this cluster's."""
    for process in watchdog.members(cluster.root):
        if process.pid == pid and pid != cluster.pid:
            return process
    raise ProcessLookupError(f"{pid} is no backend of {cluster!r}")


def freeze(cluster: Cluster, pid: int) -> None:
    """SIGSTOP one backend, and return when it has stopped."""
    process = member(cluster, pid)
    process.send_signal(signal.SIGSTOP)
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)


def thaw(cluster: Cluster, pid: int) -> None:
    """SIGCONT one backend; nothing to do when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        member(cluster, pid).send_signal(signal.SIGCONT)


@contextmanager
def frozen(
    cluster: Cluster, pid: int, *, limit_s: float = 30.0, leash: Leash | None = None
) -> Generator[None]:
    """One backend stands still inside the block, for `limit_s` seconds at the longest.

    A `leash` that is there already saves the time to start one.
    """
    with ExitStack() as stack:
        leash = leash or stack.enter_context(Leash())
        leash.thaw_after(pid, limit_s)
        try:
            freeze(cluster, pid)
            # On a busy machine the time above may have been up before there was anything to thaw.
            leash.thaw_after(pid, limit_s)
            yield
        finally:
            thaw(cluster, pid)


def kill(cluster: Cluster, pid: int) -> None:
    """SIGKILL one backend: the server ends all other sessions, too, and recovers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        member(cluster, pid).send_signal(signal.SIGKILL)


def terminate(url: str, *, name: str | None = STORE, pid: int | None = None) -> int:
    """pg_terminate_backend for one session or for all of that name; returns how many there were.

    A frozen one ends when it is thawed.
    """
    with looking(url) as connection:
        found = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
            " AND (%(name)s::text IS NULL OR application_name = %(name)s)"
            " AND (%(pid)s::int IS NULL OR pid = %(pid)s)",
            {"name": None if pid is not None else name, "pid": pid},
        ).fetchone()
    assert found is not None
    return int(str(found[0]))


def wait_gone(pid: int, *, timeout_s: float = 10.0) -> None:
    """Return when a process is gone; TimeoutError when it stays."""
    deadline = time.monotonic() + timeout_s
    while psutil.pid_exists(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not go")
        time.sleep(0.005)


def wait_answering(url: str, *, timeout_s: float = 30.0) -> None:
    """Return when the server takes a connection and answers; TimeoutError if it does not."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with psycopg.connect(url, connect_timeout=2, application_name=_LOOKING) as connection:
                connection.execute("SELECT 1")
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server does not answer: pid {os.getpid()}") from error
        time.sleep(0.02)
