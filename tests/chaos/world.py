"""The stage of a drill: a server that may fail, a proxy before it, and writer processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from chaos.api import drain_directory, open_patiently
from chaos.calls import COLLECTIONS
from chaos.checkers import Final, LedgerLine, Place
from chaos.history import History, Run, read_lines, run_of
from support import backends
from support.cluster import Cluster
from support.far import Far
from support.leash import Leash
from support.proxy import Proxy

_TESTS = Path(__file__).parents[1]
#: After healing, everything that was acknowledged is on the primary within this time.
DRAIN_LIMIT_S = 30.0
_OPEN_LIMIT_S = 60.0


class Writer:
    """One writer: a process, and after each kill the next one in the same data directory."""

    def __init__(self, world: World, name: str, directory: str) -> None:
        self.world = world
        self.name = name
        self.directory = directory
        self.incarnation = -1
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def opened(self) -> bool:
        """Whether its present process has opened the store."""
        return self.path.exists() and b'"type": "open"' in self.path.read_bytes()

    @property
    def path(self) -> Path:
        """The history of the present process."""
        return self.world.folder / f"{self.name}.{self.incarnation}.jsonl"

    def start(self) -> None:
        """The next process; it opens the store in its own time."""
        self.incarnation += 1
        world = self.world
        arguments = {
            "seed": world.seed,
            "worker": self.name,
            "incarnation": self.incarnation,
            "data-dir": world.data_dir(self.directory),
            "directory": self.directory,
            "history": self.path,
            "deadline-s": world.deadline_s,
        }
        self.process = spawn(world.proxied, self.path.with_suffix(".log"), **arguments)
        world.leash.kill_at_end(self.process.pid)

    def kill(self) -> None:
        """kill -9; what it had told its history by then is all that is known."""
        if self.process is None or not self.alive:
            return
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self.world.history.note("killed", victim=f"{self.name}.{self.incarnation}")

    def stop(self, *, timeout_s: float) -> int:
        """Let it flush, close and end; its exit code."""
        assert self.process is not None, "it was started"
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None, "it was made with a pipe"
            self.process.stdin.write(b"stop\n")
            self.process.stdin.flush()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            self.kill()
            self.process.communicate()

    def log(self) -> str:
        """What its processes wrote to their standard outputs."""
        files = sorted(self.world.folder.glob(f"{self.name}.*.log"))
        return "\n".join(text for path in files if (text := path.read_text(errors="replace")))


def spawn(url: str, log: Path, **arguments: object) -> subprocess.Popen[bytes]:
    """A process of `chaos.worker` with these arguments, controlled through its stdin."""
    command = [sys.executable, "-m", "chaos.worker"]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    paths = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env={**os.environ, "CHAOS_URL": url, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )


class World:
    """Everything that one drill needs, in a folder of its own; nothing of it outlives the block."""

    def __init__(
        self,
        cluster: Cluster,
        url: str,
        folder: Path,
        *,
        seed: str,
        deadline_s: float = 0.5,
        rtt_ms: float = 0.0,
    ) -> None:
        self.cluster = cluster
        self.url = url
        self.folder = folder
        self.seed = seed
        self.deadline_s = deadline_s
        self.history = History(folder / "nemesis.jsonl", "nemesis")
        self.leash = Leash()
        self.line = Far(cluster.port, rtt_ms=rtt_ms) if rtt_ms else None
        self.proxy = Proxy(self.line.port if self.line else cluster.port)
        self.proxied = self.proxy.url(url)
        self.writers = [
            Writer(self, "w0", "A"),
            Writer(self, "w1", "A"),
            Writer(self, "w2", "B"),
        ]

    def __enter__(self) -> Self:
        try:
            with open_patiently(self.url, self.data_dir("setup"), deadline_s=5.0) as store:
                for name in COLLECTIONS:
                    store[name].put("setup", 0)
            for writer in self.writers:
                writer.start()
            self._wait_open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the writers, heal the server and close the proxy; again is harmless."""
        for writer in self.writers:
            writer.kill()
        self.cluster.thaw()
        self.cluster.start()
        self.proxy.close()
        if self.line is not None:
            self.line.close()
        self.leash.close()

    def data_dir(self, directory: str) -> Path:
        return self.folder / f"data-{directory}"

    def _wait_open(self) -> None:
        limit = time.monotonic() + _OPEN_LIMIT_S
        for writer in self.writers:
            while b'"type": "open"' not in (
                writer.path.read_bytes() if writer.path.exists() else b""
            ):
                if not writer.alive or time.monotonic() > limit:
                    raise RuntimeError(f"{writer.name} does not start: {writer.log()}")
                time.sleep(0.01)

    def drain(self) -> list[str]:
        """Let every writer end, then drain each directory once more; what did not work."""
        problems: list[str] = []
        limit = time.monotonic() + DRAIN_LIMIT_S
        for writer in self.writers:
            left_s = max(1.0, limit - time.monotonic())
            if not writer.alive:
                writer.kill()
                problems.append(f"{writer.name} ended by itself: {writer.log()}")
            elif code := writer.stop(timeout_s=left_s):
                problems.append(f"{writer.name} ended with {code}: {writer.log()}")
        for directory in sorted({writer.directory for writer in self.writers}):
            left_s = max(5.0, limit - time.monotonic())
            if not drain_directory(self.url, self.data_dir(directory), timeout_s=left_s):
                problems.append(f"directory {directory} is not drained in {left_s:.0f} s")
        return problems

    def run(self) -> Run:
        """The history of all processes."""
        return run_of(read_lines(sorted(self.folder.glob("*.jsonl"))))

    def final(self) -> Final:
        """What the primary holds, but for what `__enter__` put there."""
        return final_state(self.url, COLLECTIONS, without=("setup",))


def final_state(url: str, collections: Iterable[str], *, without: Iterable[str] = ()) -> Final:
    """The documents of these collections and all conflicts, by plain SQL."""
    documents: dict[Place, Any] = {}
    skipped = set(without)
    with backends.looking(url) as connection:
        for name in collections:
            select = sql.SQL("SELECT key, coalesce(raw, data::text) FROM {}")
            try:
                rows = connection.execute(select.format(sql.Identifier(name))).fetchall()
            except psycopg.errors.UndefinedTable:
                continue
            for key, text in rows:
                if key not in skipped:
                    documents[name, str(key)] = json.loads(str(text))
        found = connection.execute(
            "SELECT collection, key, kind, reason, mine FROM standfast.conflicts ORDER BY id"
        ).fetchall()
    conflicts = [
        LedgerLine(str(name), str(key), str(kind), str(reason), _decoded(mine))
        for name, key, kind, reason, mine in found
    ]
    return Final(documents, conflicts)


def _decoded(text: Any) -> Any:
    return None if text is None else json.loads(str(text))
