"""Statements that take effect, if they do, long after their caller was answered otherwise."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from chaos.api import flush, open_patiently
from chaos.calls import COUNTERS, LISTS, REGISTERS, Calls, Ended
from chaos.checkers import Final, check
from chaos.history import History, read_lines, run_of
from chaos.world import final_state
from support import backends
from support.cluster import Cluster
from support.leash import Leash
from support.proxy import Proxy

_DEADLINE_S = 0.3
_FLUSH_S = 30.0
_NEW_NAME = "standfast-newer"
KINDS = ("put", "append", "increment")


class Stage:
    """Two data directories: `old` reaches the server through a proxy, `new` directly."""

    def __init__(self, cluster: Cluster, url: str, folder: Path) -> None:
        self.cluster = cluster
        self.url = url
        self.folder = folder
        self.proxy = Proxy(cluster.port)
        self.leash = Leash()
        self.paths = [folder / "old.jsonl", folder / "new.jsonl"]
        self.histories = [
            History(self.paths[0], "old.0", worker="old", directory="A"),
            History(self.paths[1], "new.0", worker="new", directory="B"),
        ]
        self.pool = ThreadPoolExecutor(1)
        self.new_store = open_patiently(
            f"{url}?application_name={_NEW_NAME}", folder / "data-new", deadline_s=2.0
        )
        self.new = Calls(self.new_store, self.histories[1])

    def close(self) -> None:
        self.proxy.heal()
        self.pool.shutdown()
        self.new_store.close()
        self.proxy.close()
        self.leash.close()
        for history in self.histories:
            history.close()

    def case(self, way: Way, kind: str, number: int) -> None:
        """One write of `old` becomes a zombie, `new` writes after it, and the zombie wakes."""
        url = self.proxy.url(self.url)
        with open_patiently(url, self.folder / "data-old", deadline_s=_DEADLINE_S) as store:
            old = Calls(store, self.histories[0])
            write(old, kind, number, "before")
            assert flush(store, timeout_s=_FLUSH_S)
            pids = [backend.pid for backend in backends.backends(self.url)]
            with way(self, lambda: write(old, kind, number, "old")) as pending:
                ended = pending.result(timeout=_FLUSH_S)
                assert ended.kind == "ok", ended
                drained = way is not stopped_at_the_commit and flush(store, timeout_s=_FLUSH_S)
                assert drained or way is stopped_at_the_commit
                newer = write(self.new, kind, number, "new")
                if drained:
                    assert newer.kind == "ok", newer
                    assert flush(self.new_store, timeout_s=_FLUSH_S)
            assert flush(store, timeout_s=_FLUSH_S)
            assert flush(self.new_store, timeout_s=_FLUSH_S)
        # With its client gone a backend ends when it has done all that it was sent.
        for pid in pids:
            backends.wait_gone(pid)
        if kind == "put" and drained:
            documents = final_state(self.url, [REGISTERS]).documents
            assert documents[REGISTERS, key_of(number)] == f"{number}:new"

    def final(self) -> Final:
        return final_state(self.url, [LISTS, COUNTERS, REGISTERS])

    def assert_clean(self) -> None:
        run, final = run_of(read_lines(self.paths)), self.final()
        assert list(map(str, check(run, final))) == []


def key_of(number: int) -> str:
    return f"k{number}"


def write(calls: Calls, kind: str, number: int, who: str) -> Ended:
    """One write to the document of a case, by a value of its own."""
    if kind == "increment":
        return calls.increment(key_of(number), {"before": 1, "old": 10, "new": 100}[who])
    return getattr(calls, kind)(key_of(number), f"{number}:{who}")


Writing = Callable[[], Ended]
Way = Callable[[Stage, Writing], AbstractContextManager[Future[Ended]]]


@contextmanager
def commit_on_the_line(stage: Stage, writing: Writing) -> Generator[Future[Ended]]:
    """The network holds the commit and delivers it at the end."""
    fired = stage.proxy.fired["hold_commit"]
    stage.proxy.hold_commits(1)
    pending = stage.pool.submit(writing)
    try:
        stage.proxy.wait_fired("hold_commit", fired + 1)
        yield pending
    finally:
        stage.proxy.thaw()


@contextmanager
def all_on_the_line(stage: Stage, writing: Writing) -> Generator[Future[Ended]]:
    """The network holds everything that the connections of that moment carry."""
    assert stage.proxy.freeze_links()
    try:
        yield stage.pool.submit(writing)
    finally:
        stage.proxy.thaw()


@contextmanager
def stopped_before(stage: Stage, writing: Writing) -> Generator[Future[Ended]]:
    """The backends stand still, with the whole of the statement in their sockets."""
    with ExitStack() as stack:
        freeze_all(stage, stack)
        yield stage.pool.submit(writing)


@contextmanager
def stopped_at_the_commit(stage: Stage, writing: Writing) -> Generator[Future[Ended]]:
    """The backend stands still with its locks, and with the commit in its socket."""
    fired = stage.proxy.fired["hold_commit"]
    stage.proxy.hold_commits(1)
    pending = stage.pool.submit(writing)
    with ExitStack() as stack:
        try:
            stage.proxy.wait_fired("hold_commit", fired + 1)
            freeze_all(stage, stack, in_transaction=True)
        finally:
            stage.proxy.thaw()
        yield pending


def freeze_all(stage: Stage, stack: ExitStack, *, in_transaction: bool = False) -> None:
    """Stop the backends of `old`: all, or where there are such, only those in a transaction."""
    found = backends.backends(stage.url)
    if in_transaction:
        found = [backend for backend in found if backend.in_transaction] or found
    for backend in found:
        # One that has given up by itself in this moment is no zombie.
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            stack.enter_context(backends.frozen(stage.cluster, backend.pid, leash=stage.leash))


WAYS = (commit_on_the_line, all_on_the_line, stopped_before, stopped_at_the_commit)


@pytest.fixture
def stage(mortal_cluster: Cluster, mortal_url: str, tmp_path: Path) -> Generator[Stage]:
    stage = Stage(mortal_cluster, mortal_url, tmp_path)
    try:
        yield stage
    finally:
        stage.close()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_is_held_goes_on(stage: Stage, way: Way) -> None:
    """Every way to hold a write holds it, and lets it take effect in the end: with a deadline that
    nothing reaches, it is just late."""
    url = stage.proxy.url(stage.url)
    with open_patiently(url, stage.folder / "data-old", deadline_s=60.0) as store:
        old = Calls(store, stage.histories[0])
        for number, kind in enumerate(KINDS):
            write(old, kind, number, "before")
            with way(stage, lambda k=kind, n=number: write(old, k, n, "old")) as pending:
                backends.wait_answering(stage.url)
                assert not pending.done()
                if kind == "put":
                    documents = stage.final().documents
                    assert documents[REGISTERS, key_of(number)] == f"{number}:before"
            assert pending.result(timeout=_FLUSH_S).kind == "ok"
        assert flush(store, timeout_s=_FLUSH_S)
    stage.assert_clean()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_zombies(stage: Stage, way: Way) -> None:
    """I2, I3: a write that its deadline overtook does not take effect a second time when it wakes,
    and does not overwrite what others wrote after its caller was answered."""
    for number, kind in enumerate(KINDS):
        stage.case(way, kind, number)
    stage.assert_clean()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_many_zombies(stage: Stage, way: Way) -> None:
    """I2, I3: the same, 30 times each way."""
    for number in range(30):
        stage.case(way, KINDS[number % 3], number)
    stage.assert_clean()
