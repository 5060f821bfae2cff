"""What the crash tests of the engine share: a server, processes of the app, and what must hold."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import apsw
import msgspec
import psycopg
from psycopg import sql

from chaos.calls import COLLECTIONS
from chaos.checkers import Final, Violation, check
from chaos.history import History, Run, read_lines, run_of
from chaos.world import final_state
from standfast.engine.journal import Journal
from standfast.engine.mirror import Mirror
from support import backends
from support.cluster import Cluster
from support.databases import create_database
from support.leash import Leash
from support.outage_app import BATCHED, GONE, PATCHES, Part
from support.proxy import reserved

_TESTS = Path(__file__).parents[1]
#: What is left in the data directory of a store that has come to its end.
_TABLES = (*COLLECTIONS, PATCHES, GONE)
#: Where the local files name the database that they belong to.
_NAMED = {
    "journal.db": [("meta", "value"), ("ops", "op"), ("heads", "head")],
    "mirror.db": [("meta", "value"), ("retained", "batch")],
}


class Server:
    """A server with a database for each point, made from another where there is one."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def database(self, template: str = "template1") -> str:
        """The name of a new database."""
        name = f"hold_{secrets.token_hex(6)}"
        with backends.looking(self.cluster.url()) as connection:
            create_database(connection, name, template)
        return name

    def url(self, name: str) -> str:
        return self.cluster.url(name)

    def quiet(self, name: str) -> None:
        """Return when nobody is connected to a database: the server has noticed every death."""
        for backend in backends.backends(self.url(name)):
            backends.wait_gone(backend.pid)


class Apps:
    """Starts the app's processes, one after the other, quickly."""

    def __init__(self, leash: Leash) -> None:
        paths = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
        self._leash = leash
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.outage_app"],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        leash.kill_at_end(self._server.pid)
        self._address = reserved()
        self.port: int = self._address.getsockname()[1]
        """The address of the server for those who play here, one after the other."""

    def play(self, part: Part) -> int:
        """Let a process of its own play a part; how it ended."""
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None, "it was made with pipes"
        assert stdout is not None, "it was made with pipes"
        stdin.write(msgspec.json.encode(part) + b"\n")
        stdin.flush()
        self._leash.kill_at_end(json.loads(stdout.readline()))
        return json.loads(stdout.readline())

    def close(self) -> None:
        self._server.communicate()
        self._address.close()


class Scene:
    """One data directory, its database and the history of everything that happened to them."""

    def __init__(self, server: Server, apps: Apps, folder: Path, name: str, *, seed: int) -> None:
        self.server = server
        self.apps = apps
        self.folder = folder
        self.name = name
        self.seed = seed
        self.codes: list[int] = []

    @classmethod
    def fresh(cls, server: Server, apps: Apps, folder: Path, *, seed: int = 0) -> Self:
        folder.mkdir()
        return cls(server, apps, folder, server.database(), seed=seed)

    def copy(self, folder: Path, apps: Apps, *, seed: int) -> Scene:
        """The same again, elsewhere."""
        shutil.copytree(self.folder, folder)
        name = self.server.database(self.name)
        scene = Scene(self.server, apps, folder, name, seed=seed)
        scene.codes = list(self.codes)
        scene.replace_names(dict(zip(self._names(), scene._names(), strict=True)))
        return scene

    def _names(self) -> list[str]:
        """What the local files call the database: its address, and who it is (R22)."""
        with backends.looking(self.url) as connection:
            found = connection.execute(
                "SELECT system_identifier, oid FROM pg_control_system(), pg_database"
                " WHERE datname = current_database()"
            ).fetchone()
        assert found is not None
        system, oid = found
        address = f"@127.0.0.1:{self.apps.port}/{self.name}"
        return [address, f'"name":"{self.name}"', f'"database":"{oid}"', f"/{system}/{oid}/"]

    def replace_names(self, names: dict[str, str]) -> None:
        """Let the files, which a killed process has left, be those of this database from the first:
        a copy of a database is another one, and nothing that was meant for the first goes there."""
        assert all(len(old) == len(new) for old, new in names.items()), names

        def renamed(value: Any) -> Any:
            for old, new in names.items():
                if isinstance(value, bytes):
                    value = value.replace(old.encode(), new.encode())
                else:
                    value = value.replace(old, new)
            return value

        for file, columns in _NAMED.items():
            conn = apsw.Connection(str(self.data_dir / file))
            # Their logs stay as they are: to meet them is part of the story.
            conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            conn.create_scalar_function("renamed", renamed, 1)
            for table, column in columns:
                conn.execute(f"UPDATE {table} SET {column} = renamed({column})")
            conn.close()

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def play(self, role: str, failpoint: str = "") -> int:
        """The next process of the app; how it ended."""
        process = f"app.{len(self.codes)}"
        part = Part(
            role=role,
            process=process,
            url=self.url,
            port=self.server.cluster.port,
            address=self.apps.port,
            data_dir=str(self.data_dir),
            # Copied scenes tell of one directory.
            history=str(self.folder / f"{process}.jsonl"),
            log=str(self.folder / f"{process}.log"),
            failpoint=failpoint,
            seed=self.seed,
        )
        code = self.apps.play(part)
        self.codes.append(code)
        if code == -signal.SIGKILL:
            history = History(self.folder / f"{process}.end.jsonl", f"watcher-{process}")
            history.note("killed", victim=process)
            history.close()
        return code

    def age(self) -> None:
        """Make the files of lanes old enough to be swept, if nobody holds them."""
        for path in (self.data_dir / "lanes").glob("*.lock"):
            os.utime(path, (0, 0))

    def log(self) -> str:
        """What the last process printed."""
        path = self.folder / f"app.{len(self.codes) - 1}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # ---- what must hold

    def lines(self) -> list[dict[str, Any]]:
        """The histories, with all processes in one directory, wherever it was copied to."""
        lines = read_lines(sorted(self.folder.glob("*.jsonl")))
        return [line | {"directory": "A"} if "directory" in line else line for line in lines]

    def violations(self) -> list[str]:
        """Whatever is wrong after the last process has drained and closed."""
        lines = self.lines()
        run = run_of(lines)
        final = final_state(self.url, _TABLES)
        patched = final.documents.get((PATCHES, "p0"))
        if patched is not None:
            final.documents[PATCHES, "p0"] = list(patched)
        found = [*check(run, final), *_burst(lines, final), *_whole(final), *_gone(run, final)]
        return [*map(str, found), *self._left_behind(), *self._mirror_lies()]

    def _left_behind(self) -> Iterator[str]:
        """I2, R1: nothing is pending, and no lane of the directory can still commit."""
        journal = Journal(self.data_dir)
        try:
            pending, lanes = journal.totals(), journal.lanes()
            directory = journal.directory
        finally:
            journal.close()
        if pending.ops or pending.bytes:
            yield f"the journal is not empty: {pending}"
        if lanes:
            yield f"the journal still knows lanes: {lanes}"
        if files := list((self.data_dir / "lanes").iterdir()):
            yield f"files of lanes are left: {files}"
        with backends.looking(self.url) as connection:
            open_lanes = connection.execute(
                "SELECT lane, watermark FROM standfast.lanes"
                " WHERE directory = %s AND state = 'open'",
                (directory,),
            ).fetchall()
        if open_lanes:
            yield f"lanes are open on the primary: {open_lanes}"

    def _mirror_lies(self) -> Iterator[str]:
        """R5: what the mirror says of a version is what the primary says of it."""
        mirror = Mirror(self.data_dir / "mirror.db")
        try:
            for name, key, version, text in self._rows():
                row = mirror.get(name, key)
                if row is None or row.state.version < version:
                    continue
                told = row.state.text
                if row.state.version > version or told is None or json.loads(told) != text:
                    yield f"the mirror says of {name}/{key} version {row.state.version}: {told}"
        finally:
            mirror.close()

    def _rows(self) -> Iterator[tuple[str, str, int, Any]]:
        select = sql.SQL("SELECT key, version, coalesce(raw, data::text) FROM {}")
        with backends.looking(self.url) as connection:
            for name in _TABLES:
                try:
                    rows: Sequence[Any] = connection.execute(
                        select.format(sql.Identifier(name))
                    ).fetchall()
                except psycopg.errors.UndefinedTable:
                    continue
                for key, version, text in rows:
                    yield name, key, version, json.loads(text)


def _burst(lines: list[dict[str, Any]], final: Final) -> Iterator[Violation]:
    """I2: what several callers appended at once is there once, if they were told so."""
    there = list(map(str, final.documents.get(("lists", "l2")) or []))
    for line in lines:
        if line["type"] == "told" and line["token"] not in there:
            yield Violation("lost", "I2", f"{line['token']} of a burst")
    if len(set(there)) != len(there):
        yield Violation("doubled", "I2", f"in the list of the bursts: {there}")


def _whole(final: Final) -> Iterator[Violation]:
    """A batch is there as a whole or not at all."""
    parts = [final.documents.get(("lists", key)) or [] for key in BATCHED]
    if parts[0] != parts[1]:
        yield Violation("torn", "batch", f"{parts[0]} and {parts[1]}")


def _gone(run: Run, final: Final) -> Iterator[Violation]:
    """I2: what was deleted is gone, and what was only made is there."""
    deletes = {op.key: op for op in run.operations if op.f == "delete"}
    for op in run.operations:
        if op.f != "make" or op.type != "ok":
            continue
        delete = deletes.get(op.key)
        is_there = (GONE, op.key) in final.documents
        if delete is None and not is_there:
            yield Violation("lost", "I2", f"{op}")
        if delete is not None and delete.type == "ok" and is_there:
            yield Violation("lost", "I2", f"{delete}")
