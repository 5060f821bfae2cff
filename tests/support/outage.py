"""A PostgreSQL database that a test takes away and gives back, and data directories that use it.

    with outage.away():
        with outage.store() as store: ...    # writes go into the journal

Away means that the server refuses this database to everybody; a `Cluster` of its own is for tests
of a server that is killed or frozen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg import sql

import standfast
from standfast.api.sync import Store
from standfast.engine.journal import Journal
from support.cli import Ran, run_cli

#: A running app: opens a store, runs what it is given, says so, and ends when its stdin does.
_APP = """
import sys, standfast
with standfast.open(sys.argv[1], data_dir=sys.argv[2]) as store:
    exec(sys.argv[3])
    print("ready", flush=True)
    sys.stdin.read()
"""


class Outage:
    """One database, and the data directories of a test."""

    def __init__(
        self, url: str, root: Path, *, admin_url: str | None = None, deadline_s: float | None = None
    ) -> None:
        self.url = url
        self.root = root
        self._deadline_s = deadline_s
        self.password = unquote(urlsplit(url).password or "no password")
        self._name = urlsplit(url).path[1:]
        self._admin_url = admin_url or urlunsplit(urlsplit(url)._replace(path="/postgres"))

    def data_dir(self, name: str = "storage") -> Path:
        """The data directory of this name."""
        return self.root / name

    def store(self, name: str = "storage", **options: Any) -> Store:
        """Open a store there."""
        options = {"deadline_s": self._deadline_s} | options
        return standfast.open(self.url, data_dir=self.data_dir(name), **options)

    def run(self, *arguments: str, name: str = "storage", **options: Any) -> Ran:
        """Run a command there; an empty variable is one that is not set."""
        env = {"DATABASE_URL": self.url, "STANDFAST_DATA_DIR": str(self.data_dir(name))}
        env = {name: value for name, value in (env | options.pop("env", {})).items() if value}
        return run_cli(*arguments, cwd=self.root, env=env, **options)

    @contextmanager
    def away(self) -> Iterator[None]:
        """The database refuses connections, and those that there were are ended."""
        self._allow(False)
        try:
            yield
        finally:
            self._allow(True)

    def _allow(self, allowed: bool) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as conn:
            name = sql.Identifier(self._name)
            conn.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(name, sql.Literal(allowed))
            )
            if not allowed:
                conn.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                    " WHERE datname = %s",
                    (self._name,),
                )

    def replaced(self) -> None:
        """Under the same address there is another database now, an empty one."""
        with psycopg.connect(self._admin_url, autocommit=True) as conn:
            name = sql.Identifier(self._name)
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
            conn.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def execute(self, statement: str) -> None:
        """Run SQL on the database; `{name}` is its name."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(statement.replace("{name}", f'"{self._name}"').encode())

    def aged(self, seconds: float, name: str = "storage") -> None:
        """Make the pending writes of a closed data directory so much older."""
        journal = Journal(self.data_dir(name))
        try:
            pending = list(journal.everything())
            journal.remove(pending, durable=True)
            older = [
                msgspec.structs.replace(one.op, at_us=one.op.at_us - int(seconds * 1e6))
                for one in pending
            ]
            with journal.writing() as transaction:
                transaction.add(older, max_ops=10**6, max_bytes=10**9)
        finally:
            journal.close()

    @contextmanager
    def app(self, code: str, name: str = "storage") -> Iterator[subprocess.Popen[str]]:
        """A process that has the store open, and has run this code on `store`."""
        process = subprocess.Popen(
            [sys.executable, "-c", _APP, self.url, str(self.data_dir(name)), code],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.communicate(timeout=30)
