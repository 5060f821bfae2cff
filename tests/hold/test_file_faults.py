"""Each operation on a local file fails in each phase of a store (R26, I1, I12).

Its threads go on, or have ended where it could not be opened; health says what is wrong while it
is, and nothing that was acknowledged is lost or read in an older state.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

import standfast
from standfast import StandfastError
from standfast.api.sync import Store
from standfast.engine import replicated
from support.far import Far
from support.file_faults import Faults, PackageFaults, Site, SqliteFaults
from support.hold import on_primary, soon, wait_direct

PHASES = ("open", "healthy", "outage", "drain", "close", "reopen")
#: What is tried by default.
SAMPLE: tuple[tuple[type[Faults], Site, Sequence[str]], ...] = (
    (PackageFaults, ("fstat", "files.read_regular"), ("outage", "drain", "close")),
    (SqliteFaults, ("xSync", "journal.db-wal"), ("outage",)),
)


class Scene:
    """A store through a direct time, an outage with a locked journal, a replay and a restart."""

    def __init__(self, line: Far, near_url: str, data_dir: Path, faults: Faults) -> None:
        self.line, self.near_url, self.data_dir, self.faults = line, near_url, data_dir, faults
        self.name = data_dir.name.replace("-", "_")
        self.acknowledged: dict[str, int] = {}
        self.tried: dict[str, int] = {}

    def open(self) -> Store:
        url = self.line.url(self.near_url)
        return standfast.open(url, data_dir=self.data_dir, deadline_s=0.4)

    def write(self, store: Store) -> None:
        for key in ("a", "b"):
            number = self.tried[key] = self.tried.get(key, 0) + 1
            with contextlib.suppress(StandfastError):
                store[self.name].put(key, number)
                self.acknowledged[key] = number
            with contextlib.suppress(StandfastError):
                found = store[self.name].get(key, 0)
                assert self.acknowledged.get(key, 0) <= found <= number, "an older state was read"

    def list(self, store: Store) -> None:
        with contextlib.suppress(StandfastError):
            list(store[self.name].items())

    def play(self) -> None:
        """What fails, fails with an error of ours; afterwards everything works."""
        try:
            with self.faults.installed():
                self._play()
        finally:
            self.faults.phase = ""
        with self.open() as store:
            wait_direct(store)
            self.write(store)
            soon(lambda: store.health().healthy, within_s=15, what=str(store.health().problems))
        found = on_primary(self.near_url, self.name)
        for key, last in self.acknowledged.items():
            assert last <= found[key] <= self.tried[key], (key, found, self.acknowledged)

    def _play(self) -> None:
        store = self._opened("open") or self._opened("")
        assert store is not None
        try:
            self._healthy(store)
            before = alive()
            self._outage(store)
            assert alive() >= before, before - alive()
            self.faults.phase = "close"
            with self.line.down():
                self.write(store)
                store.close(timeout_s=0)
        finally:
            self.faults.phase = ""
            store.close(timeout_s=0)
        assert_none_alive()
        again = self._opened("reopen")
        if again is not None:
            try:
                self.write(again)
                again.close(timeout_s=0)
            finally:
                self.faults.phase = ""
                again.close(timeout_s=0)
            assert_none_alive()

    def _opened(self, phase: str) -> Store | None:
        self.faults.phase = phase
        try:
            return self.open()
        except StandfastError:
            self.faults.phase = ""
            assert phase, "nothing failed"
            assert_none_alive()
            return None

    def _healthy(self, store: Store) -> None:
        self.faults.phase = ""
        wait_direct(store)
        self.faults.phase = "healthy"
        self.write(store)
        self.list(store)
        for _ in range(3):  # turns of the housekeeper, which writes snapshots when it is quiet
            store.health()
            time.sleep(0.1)

    def _outage(self, store: Store) -> None:
        self.faults.phase = "outage"
        with self.line.down():
            self.write(store)
            with locked(self.data_dir / "journal.db"):
                self.write(store)
            self.write(store)
            store.health()
        self.faults.phase = "drain"
        with contextlib.suppress(AssertionError):
            wait_direct(store, within_s=1.0)
        self.list(store)
        self.write(store)
        store.health()


def alive() -> set[str]:
    """The threads of engines, but for those that come and go."""
    names = {one.name for one in threading.enumerate() if one.name.startswith("standfast-")}
    return names - {f"standfast-{one}" for one in ("connect", "tables", "checkpointer", "watchdog")}


def assert_none_alive() -> None:
    soon(lambda: not alive(), within_s=30, what=f"{alive()} are left")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's write transaction on a SQLite file, which nothing keeps from it."""
    connection = apsw.Connection(str(path), vfs="unix")
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def sites(kind: type[Faults], line: Far, url: str, folder: Path) -> list[tuple[Site, str]]:
    """Every operation on a file that is seen, with each phase in which it is."""
    faults = kind()
    Scene(line, url, folder / "watched", faults).play()
    found = [(site, phase) for site, seen in faults.seen.items() for phase in seen if phase]
    return sorted(found)


def run_faults(
    url: str, folder: Path, chosen: Sequence[tuple[type[Faults], Site, Sequence[str]]]
) -> int:
    """Let these fail, one after the other; how many did."""
    struck = 0
    with Far.to(url) as line:
        for number, (kind, site, phases) in enumerate(chosen):
            faults = kind()
            faults.fail(site, at=phases)
            try:
                Scene(line, url, folder / f"fault{number}", faults).play()
            except BaseException as error:
                error.add_note(f"{site[0]} failed at {site[1]} in {phases}")
                raise
            logging.getLogger(__name__).info("%s %s %s: %d", *site, phases, faults.struck)
            struck += faults.struck > 0
    return struck


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The housekeeper has its turn often."""
    monkeypatch.setattr(replicated, "SNAPSHOT_PAUSE_S", 0.1)


def test_an_operation_on_a_file_fails(pg_database: str, tmp_path: Path) -> None:
    """R26, I1, I12: some of them, each in a phase in which that went wrong once."""
    assert run_faults(pg_database, tmp_path, SAMPLE) == len(SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("kind", [PackageFaults, SqliteFaults])
def test_each_operation_on_a_file_fails(
    pg_database: str, tmp_path: Path, kind: type[Faults], part: int
) -> None:
    """R26, I1, I12: every operation that there is, in each phase, and in all of them."""
    with Far.to(pg_database) as line:
        found = sites(kind, line, pg_database, tmp_path)
    every: list[tuple[type[Faults], Site, Sequence[str]]] = [
        *((kind, site, (phase,)) for site, phase in found),
        *((kind, site, PHASES) for site in sorted({site for site, _ in found})),
    ]
    assert len(every) >= 60
    assert run_faults(pg_database, tmp_path, every[part::6]) >= 8
