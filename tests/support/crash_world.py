"""A directory with JSON files, a data directory and a database, as a migration meets them.

A `World` stands at one path for all tests of a session (runs remember absolute paths); a `Saved`
is a copy of it, files and database, that can be put back in its place quickly.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from standfast.api.opening import backend_for, open_store
from standfast.backends.base import Backend
from standfast.config.settings import load_settings
from support import command_server
from support.command_server import Command
from support.crash_files import CANARY, SOURCES, fill, write_sources
from support.databases import create_database

#: Every command has to end within this time; only a hanging one reaches it.
TIMEOUT_S = 120.0

Started = subprocess.Popen[str] | Command


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        """Everything it has printed."""
        return self.out + self.err


@dataclass
class World:
    """One place: `app` holds the files, `storage` is the data directory.

    `url` is None for the embedded SQLite.
    """

    root: Path
    url: str | None = None
    admin_url: str = ""
    databases: list[str] = field(default_factory=list[str])

    @property
    def app(self) -> Path:
        """Where the JSON files are."""
        return self.root / "app"

    @property
    def storage(self) -> Path:
        """The data directory."""
        return self.root / "storage"

    @property
    def runs(self) -> Path:
        """The folder of the runs' directories."""
        return self.storage / "migration_backups"

    # ---- commands

    def start(
        self,
        *args: str,
        failpoint: str = "",
        under: Sequence[str] = (),
        limits: Callable[[], object] | None = None,
    ) -> Started:
        """Start `standfast ARGS` on this world.

        `under` is a command that runs it; `limits` is called in the new process before.
        """
        settings = {"STANDFAST_DATA_DIR": str(self.storage), "LC_ALL": "C.UTF-8"}
        if self.url is not None:
            settings["DATABASE_URL"] = self.url
        if failpoint:
            settings["STANDFAST_FAILPOINT"] = failpoint
        if not under and limits is None:
            return command_server.start(args, env=os.environ | settings, cwd=self.root)
        return subprocess.Popen(
            [*under, sys.executable, "-m", "standfast", *args],
            env=os.environ | settings,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            preexec_fn=limits,
        )

    def end(self, process: Started) -> Done:
        """Wait for a command; whatever it is, it must not have shown a value or the password."""
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode is not None, "it has ended"
        done = Done(process.returncode, out, err)
        self.assert_discreet(done.all, "output")
        return done

    def run(self, *args: str, failpoint: str = "", under: Sequence[str] = ()) -> Done:
        """Run `standfast ARGS` on this world to its end."""
        return self.end(self.start(*args, failpoint=failpoint, under=under))

    def migration(self) -> list[str]:
        """The arguments that migrate all files; where file and database differ, the file wins."""
        return ["migrate", *(str(self.app / name) for name in SOURCES), "--on-conflict", "file"]

    def migrate(self, *more: str, failpoint: str = "") -> Done:
        """Migrate all files."""
        return self.run(*self.migration(), *more, failpoint=failpoint)

    def rollback(self, *more: str, run: str = "", failpoint: str = "") -> Done:
        """Take the only run back, or the named one."""
        return self.run("rollback", run or self.only_run().name, *more, failpoint=failpoint)

    def only_run(self) -> Path:
        """The directory of the only run."""
        (found,) = self.runs.iterdir()
        return found

    def assert_discreet(self, text: str, what: str) -> None:
        """No value and no password is in the text."""
        assert CANARY not in text, f"a value in the {what}"
        if self.url is not None:
            password = urlsplit(self.url).password or ""
            for form in {password, unquote(password)} - {""}:
                assert form not in text, f"the password in the {what}"

    # ---- the database

    @contextmanager
    def backend(self) -> Iterator[Backend]:
        """The database, as standfast sees it, in this process."""
        backend = backend_for(load_settings(self.url, data_dir=self.storage).target)
        try:
            yield backend
        finally:
            backend.close()

    def quiet(self) -> None:
        """Wait until the server has ended the sessions of clients that were killed."""
        if self.url is None:
            return
        name = urlsplit(self.url).path[1:]
        deadline = time.monotonic() + TIMEOUT_S
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            while conn.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = %s", (name,)
            ).fetchone():
                assert time.monotonic() < deadline, "sessions of killed clients are still there"
                time.sleep(0.005)

    def prepare(self) -> None:
        """Make the files and fill the database, in the place of whatever is here."""
        shutil.rmtree(self.root, ignore_errors=True)
        write_sources(self.app)
        if self.admin_url:
            self._new_database()
        with open_store(self.url, data_dir=self.storage) as store, self.backend() as backend:
            fill(backend, store)
        self._expire("guilds", "expired")

    def _expire(self, collection: str, key: str) -> None:
        if self.url is None:
            with self.backend() as backend:
                execute_sqlite(
                    self.storage / "fallback.db",
                    f'UPDATE "{collection}" SET expires_at = 1 WHERE key = ?',
                    key,
                )
                assert key not in backend.read(collection, [key])
            return
        with psycopg.connect(self.url) as conn:
            conn.execute(
                sql.SQL("UPDATE {} SET expires_at = 'epoch' WHERE key = %s").format(
                    sql.Identifier(collection)
                ),
                (key,),
            )

    def _new_database(self, template: str = "template0") -> None:
        name = f"standfast_crash_{secrets.token_hex(6)}"
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            create_database(conn, name, template)
        self.databases.append(name)
        self.url = urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}"))

    def _drop_database(self, name: str) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )
        self.databases.remove(name)

    def close(self) -> None:
        """Drop the databases; the files belong to the test run's temporary directory."""
        for name in list(self.databases):
            self._drop_database(name)

    # ---- copies

    def save(self, folder: Path) -> Saved:
        """Copy everything; the database stands still meanwhile."""
        copy = folder / f"saved-{secrets.token_hex(4)}"
        shutil.copytree(self.root, copy, symlinks=True)
        template = ""
        if self.url is not None:
            self.quiet()
            template = urlsplit(self.url).path[1:]
            self._new_database(template)  # the world goes on in a copy
        return Saved(copy, template)

    def put_back(self, saved: Saved) -> None:
        """Replace everything by a copy made before."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(saved.folder, self.root, symlinks=True)
        if saved.template:
            assert self.url is not None
            self._drop_database(urlsplit(self.url).path[1:])
            self._new_database(saved.template)


@dataclass(frozen=True)
class Saved:
    """A copy of a world: its files, and for PostgreSQL the name of a database like it."""

    folder: Path
    template: str


def execute_sqlite(path: Path, statement: str, *values: object) -> None:
    """Change a SQLite file behind standfast's back, from another process.

    Another process, because closing a second handle of one process drops the locks of the first.
    """
    code = (
        "import apsw, sys; c = apsw.Connection(sys.argv[1]); c.set_busy_timeout(10000);"
        " c.execute(sys.argv[2], sys.argv[3:]); c.close()"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path), statement, *map(str, values)],
        check=True,
        timeout=TIMEOUT_S,
    )
