"""Sessions that end while they are idle, again and again, under load (R19)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import ConflictError, Receipt, StandfastError
from standfast.api.sync import Store
from support import backends
from support.hold import on_primary, soon, wait_direct

#: Not one that is being made just now: that is no session which has been idle.
_END_IDLE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname ="
    " current_database() AND application_name = 'standfast' AND state = 'idle'"
    " AND backend_start < clock_timestamp() - interval '200 ms'"
)


class Caller:
    """A thread that writes and reads in turn, and counts what the answers were."""

    def __init__(self, store: Store, name: str) -> None:
        self._c = store["c"]
        self._name = name
        self.calls = 0
        self.added = 0
        self.answers: Counter[str] = Counter()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name)

    def _run(self) -> None:
        c, name = self._c, self._name
        turns: list[Callable[[], Any]] = [
            lambda: c.put(name, {"n": self.calls}),
            lambda: c.increment("n", ""),
            lambda: c.read(name),
            lambda: c.put(f"{name}-{self.calls}", 1, if_absent=True),
            lambda: c.append(f"list-{name}", "", self.calls),
            c.count,
            lambda: c.delete(f"{name}-{self.calls - 3}"),
        ]
        while not self.stopped.is_set():
            turn = self.calls % len(turns)
            try:
                answer = turns[turn]()
            except ConflictError as error:
                self.answers[f"ConflictError {error.code}"] += 1
                self.added += turn == 1  # "moved": it took effect, and its value is not known
            except StandfastError as error:
                self.answers[f"{type(error).__name__} {error.code}"] += 1
            else:
                self.added += turn == 1
                if isinstance(answer, Receipt):
                    self.answers[answer.durable_on] += 1
                elif isinstance(answer, standfast.Document):
                    self.answers[answer.source] += 1
            self.calls += 1


def run_with_cuts(url: str, folder: Path, *, cuts: int) -> Counter[str]:
    """Load a store while every idle session of it is ended again and again; what was answered."""
    with (
        standfast.open(url, data_dir=folder / "data", deadline_s=5.0) as store,
        backends.looking(url) as connection,
    ):
        wait_direct(store)
        store["c"].put("n", 0)
        callers = [Caller(store, f"caller{number}") for number in range(4)]
        for caller in callers:
            caller.thread.start()
        ended = 0
        try:
            while ended < cuts:
                before = [caller.calls for caller in callers]
                ((found,),) = connection.execute(_END_IDLE).fetchall()
                ended += found
                for caller, calls in zip(callers, before, strict=True):
                    soon(lambda one=caller, n=calls: one.calls > n, within_s=20.0)
        finally:
            for caller in callers:
                caller.stopped.set()
            for caller in callers:
                caller.thread.join()
        assert store.health().lag_ops == 0
        answers = sum((caller.answers for caller in callers), Counter[str]())
        assert on_primary(url, "c")["n"] == sum(caller.added for caller in callers)
        return answers


def test_idle_cuts_are_no_outage(pg_database: str, tmp_path: Path) -> None:
    """R19, I2: 60 idle sessions end under load: no write is journaled, none refused, none lost."""
    answers = run_with_cuts(pg_database, tmp_path, cuts=60)
    assert set(answers) <= {"primary", "ConflictError moved"}


@pytest.mark.slow
def test_many_idle_cuts_are_no_outage(pg_database: str, tmp_path: Path) -> None:
    """R19, I2: the same 10,000 times."""
    answers = run_with_cuts(pg_database, tmp_path, cuts=10_000)
    assert set(answers) <= {"primary", "ConflictError moved"}
