"""What the tests of the world's faults share: waiting for a store, and looks at its primary."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import apsw
import psycopg
from psycopg import sql

from standfast import StandfastError
from standfast.api.sync import Store
from support import backends
from support.cli import Ran, run_cli
from support.databases import create_database

#: When what has to happen soon counts as not happening: a limit for this test, no promise.
SOON_S = 30.0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's write transaction on a SQLite file."""
    connection = apsw.Connection(str(path))
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def soon(condition: Callable[[], Any], *, within_s: float, what: str = "") -> Any:
    """What the condition returns as soon as that is true; AssertionError when it is not in time."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {within_s} s: {what or condition}"
        threading.Event().wait(0.01)
    return found


def is_direct(store: Store) -> bool:
    """Whether writes go to the primary and none is pending."""
    health = store.health()
    return health.state == "direct" and not health.lag_ops


def wait_direct(store: Store, *, within_s: float = 20.0) -> None:
    """Return when a store is direct with nothing pending; AssertionError when it is not in time."""
    until = time.monotonic() + within_s
    while not is_direct(store):
        health = store.health()
        assert time.monotonic() < until, f"{health.state}: {health.cause}, {health.lag_ops} pending"
        threading.Event().wait(0.01)


def made(store: Store, url: str, *collections: str) -> None:
    """Have collections with a document `0` on the primary, however long their tables take."""
    wait_direct(store)
    for name in collections:
        store[name].put("0", 0)
        soon(has(url, name, ["0"]), within_s=20.0, what=f"a table for {name}")
    wait_direct(store)


def on_primary(url: str, collection: str) -> dict[str, Any]:
    """The documents of a collection, as another program sees them; empty without its table."""
    select = sql.SQL("SELECT * FROM {}").format(sql.Identifier(collection))
    with backends.looking(url) as connection:
        connection.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
        try:
            rows: list[Any] = connection.execute(select).fetchall()
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            return {}
    return {row["key"]: row["data"] for row in rows}


def has(url: str, collection: str, keys: Sequence[str]) -> Callable[[], bool]:
    """Whether all of these keys are on the primary."""
    return lambda: set(keys) <= on_primary(url, collection).keys()


def conflicts(url: str) -> list[tuple[str, str, str]]:
    """Collection, key and reason of each conflict that the primary keeps."""
    with backends.looking(url) as connection:
        found: list[Any] = connection.execute(
            "SELECT collection, key, reason FROM standfast.conflicts ORDER BY id"
        ).fetchall()
    return found


def run(url: str, data_dir: Path, *arguments: str) -> Ran:
    """Run a command on a data directory."""
    env = {"DATABASE_URL": url, "STANDFAST_DATA_DIR": str(data_dir)}
    return run_cli(*arguments, cwd=data_dir.parent, env=env)


def end_sessions(url: str) -> None:
    """The server ends every idle session of a store, and all of them are gone on return."""
    pids = [backend.pid for backend in backends.backends(url)]
    backends.terminate(url)
    for pid in pids:
        backends.wait_gone(pid)


def named(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextmanager
def extra_database(url: str, name: str, *, template: str = "template1") -> Iterator[str]:
    """One more database on the server of a URL, dropped at the end; its URL."""
    admin = named(url, "postgres")
    with backends.looking(admin) as connection:
        create_database(connection, name, template)
    try:
        yield named(url, name)
    finally:
        with backends.looking(admin) as connection:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(drop)


def lateness_s(took: Sequence[float], wait_s: float) -> float:
    """By how much the latest of some plain waits, made beside the calls, came late: a machine that
    is busy with other things delays all of its threads alike."""
    return max(took) - wait_s


def in_threads(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Run the calls at once, each in a thread; how many seconds each took, errors included."""
    took = [0.0] * len(calls)

    def work(index: int) -> None:
        start = time.monotonic()
        with contextlib.suppress(StandfastError):
            calls[index]()
        took[index] = time.monotonic() - start

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took
