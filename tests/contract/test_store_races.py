"""Several writers at once: threads, stores, processes, and a writer who comes in between."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from standfast import ConflictError
from standfast.api import drive as calls
from standfast.api.sync import Collection, Store
from standfast.backends.base import Backend
from standfast.backends.memory import MemoryBackend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.engine.embedded import EmbeddedEngine
from standfast.limits import MAX_UPDATE_ATTEMPTS
from standfast.ops.types import Applied, Op, Row

Meddle: TypeAlias = Callable[[Collection], Any]

THREADS = 8
TIMES = 25


def run_threads(jobs: Sequence[Callable[[], None]]) -> None:
    """Run all jobs at once, and raise what any of them raised."""
    barrier = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def work(job: Callable[[], None]) -> None:
        barrier.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_of_one_store_lose_nothing(store: Store) -> None:
    """I2, I3: increments and updates of many threads are all counted, and no number comes twice."""
    counters = store["counters"]
    numbers: list[list[int]] = [[] for _ in range(THREADS)]

    def job(index: int) -> None:
        for _ in range(TIMES):
            numbers[index].append(counters.increment("1", "/n"))
            counters.update("2", lambda value: {"n": value["n"] + 1}, default={"n": 0})

    run_threads([lambda i=i: job(i) for i in range(THREADS)])
    assert counters.get_many(["1", "2"]) == {
        "1": {"n": THREADS * TIMES},
        "2": {"n": THREADS * TIMES},
    }
    assert sorted(itertools.chain(*numbers)) == list(range(1, THREADS * TIMES + 1))
    assert all(mine == sorted(mine) for mine in numbers)
    document = counters.read("2")
    assert document is not None
    assert document.version == THREADS * TIMES


def test_stores_of_one_database_lose_nothing(make_backend: Callable[[], Backend]) -> None:
    """Stores that share a file or a database see each other's writes; all writes are counted."""
    stores = [Store(EmbeddedEngine(make_backend())) for _ in range(4)]

    def job(store: Store) -> None:
        for number in range(15):
            store["counters"].increment("1", "")
            store["counters"].update("2", lambda value, n=number: [*value, n], default=[])
            store["counters"].append("3", "", number)
            store[f"own_{number}"].put("1", number)  # its first use creates the collection

    run_threads([lambda s=s: job(s) for s in stores])
    found = [store["counters"].get_many(["1", "2", "3"]) for store in stores]
    assert found == [found[0]] * 4
    assert found[0]["1"] == 60
    assert sorted(found[0]["2"]) == sorted(found[0]["3"]) == sorted(list(range(15)) * 4)
    assert len(stores[0].collections()) == 16
    stores[1]["counters"].delete("1")
    assert stores[2]["counters"].get("1") is None


def test_only_one_of_many_wins(make_backend: Callable[[], Backend]) -> None:
    """Of callers at once, one creates (`if_absent`) and one takes (`pop`) each document."""
    stores = [Store(EmbeddedEngine(make_backend())) for _ in range(4)]
    created: list[int] = []
    popped: list[Any] = []

    def create(index: int) -> None:
        for number in range(10):
            try:
                stores[index]["claims"].put(number, index, if_absent=True)
            except ConflictError:
                continue
            created.append(number)

    def take(index: int) -> None:
        for number in range(10):
            value = stores[index]["claims"].pop(number, "gone")
            if value != "gone":
                popped.append(number)

    run_threads([lambda i=i: create(i) for i in range(4)])
    assert sorted(created) == list(range(10))
    run_threads([lambda i=i: take(i) for i in range(4)])
    assert sorted(popped) == list(range(10))
    assert stores[0]["claims"].count() == 0


_PROCESS = """
import sys
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.engine.embedded import EmbeddedEngine
from standfast.api.sync import Store

sys.stdout.write("ready\\n"), sys.stdout.flush(), sys.stdin.readline()
with Store(EmbeddedEngine(SqliteBackend(sys.argv[1]))) as store:
    for number in range(40):
        store["counters"].increment("1", "")
        store["counters"].update("2", lambda value: value + 1, default=0)
        store["own"].put(f"{sys.argv[2]}-{number}", number)
"""


@pytest.mark.process
def test_processes_share_a_sqlite_file(tmp_path: Path) -> None:
    """Two processes that create one file and write to it at once lose nothing of each other."""
    path = tmp_path / "new" / "fallback.db"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, path, str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        for index in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0]
    with Store(EmbeddedEngine(SqliteBackend(path))) as store:
        assert store["counters"].get_many(["1", "2"]) == {"1": 80, "2": 80}
        assert store["own"].count() == 80


# ---- a writer who comes in between


class Interposed(MemoryBackend):
    """Before its next writes or reads, another writer does something, once for each."""

    def __init__(self) -> None:
        super().__init__()
        self.before_write: Iterator[Meddle] = iter(())
        self.before_read: Iterator[Meddle] = iter(())
        self._meddling = False

    def apply(self, ops: Sequence[Op], *, expected_watermark: int = 0) -> Applied:
        self._meddle(self.before_write)
        return super().apply(ops, expected_watermark=expected_watermark)

    def read(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        self._meddle(self.before_read)
        return super().read(collection, keys)

    def _meddle(self, meddlers: Iterator[Meddle]) -> None:
        if self._meddling:
            return
        self._meddling = True
        try:
            next(meddlers, lambda _: None)(Store(EmbeddedEngine(self))["c"])
        finally:
            self._meddling = False


@pytest.fixture
def interposed(monkeypatch: pytest.MonkeyPatch) -> Interposed:
    monkeypatch.setattr(calls, "_LONGEST_PAUSE_S", 0.0)
    return Interposed()


@pytest.fixture
def mine(interposed: Interposed) -> Collection:
    return Store(EmbeddedEngine(interposed))["c"]


def test_get_or_create_takes_what_came_first(interposed: Interposed, mine: Collection) -> None:
    """Who is overtaken by another creator gets the other's value, and overwrites nothing."""
    interposed.before_write = iter([lambda c: c.put("1", "theirs")])
    assert mine.get_or_create("1", "mine") == "theirs"
    assert mine.get("1") == "theirs"


def test_get_or_create_when_it_comes_and_goes(interposed: Interposed, mine: Collection) -> None:
    """A document that came and went in between is created after all."""
    interposed.before_write = iter([lambda c: c.put("1", "theirs")])
    interposed.before_read = iter([lambda c: None, lambda c: c.delete("1")])
    assert mine.get_or_create("1", "mine") == "mine"
    assert mine.get("1") == "mine"


def test_pop_takes_what_is_there_at_last(interposed: Interposed, mine: Collection) -> None:
    """A value that changed in between is popped as changed; one that was popped is the default."""
    mine.put("1", "old")
    interposed.before_write = iter([lambda c: c.put("1", "new")])
    assert mine.pop("1") == "new"
    mine.put("1", "old")
    interposed.before_write = iter([lambda c: c.pop("1")])
    assert mine.pop("1", "default") == "default"


def test_update_sees_what_came_between(interposed: Interposed, mine: Collection) -> None:
    """The function is called again with the value that the other writer left."""
    mine.put("1", [])
    seen: list[Any] = []

    def change(value: list[str]) -> list[str]:
        seen.append(list(value))
        return [*value, "mine"]

    interposed.before_write = iter([lambda c: c.append("1", "", "x"), lambda c: c.delete("1")])
    mine.update("1", change, default=["default"])
    assert seen == [[], ["x"], ["default"]]
    assert mine.get("1") == ["default", "mine"]


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.update("1", lambda value: value, default=1),
        lambda c: c.pop("1"),
        lambda c: c.get_or_create("1", "mine"),
    ],
    ids=["update", "pop", "get_or_create"],
)
def test_who_always_loses_is_told(
    interposed: Interposed, mine: Collection, call: Callable[[Collection], Any]
) -> None:
    """I7: attempts are bounded: ConflictError("contended") after the last one, and no loop."""
    meddled = 0

    def come(c: Collection) -> None:
        nonlocal meddled
        meddled += 1
        c.put("1", "theirs")

    def go(c: Collection) -> None:
        c.delete("1")

    creating = call(mine) == "mine"
    if creating:
        mine.delete("1")
        interposed.before_read = itertools.repeat(go)
    else:
        mine.put("1", "first")
    interposed.before_write = itertools.repeat(come)
    with pytest.raises(ConflictError) as caught:
        call(mine)
    assert caught.value.code == "contended"
    assert caught.value.hint
    assert meddled == MAX_UPDATE_ATTEMPTS
    interposed.before_read = iter(())
    assert mine.get("1") == "theirs"
