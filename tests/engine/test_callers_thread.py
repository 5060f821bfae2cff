"""C5: who writes or reads alone does it in its own thread, and interrupting that is safe."""

from __future__ import annotations

import _thread
import gc
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast.engine.replicated import ReplicatedEngine
from support.faulty import Fault, Link, Opened, at_once, eventually


class Interruption(Fault):
    """What a signal handler raises, before the primary has seen the write or after."""

    def strike(self) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def of_its_own() -> Iterator[None]:
    """The program handles a signal itself, and may write to the store there."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    yield
    signal.signal(signal.SIGUSR1, before)


def threads_of(link: Link, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that ask the primary, in order, from now on."""
    names: list[str] = []
    for what in ("apply", "observe"):
        original = getattr(link, what)

        def noted(*args: Any, original: Any = original, **options: Any) -> Any:
            names.append(threading.current_thread().name)
            return original(*args, **options)

        monkeypatch.setattr(link, what, noted)
    return names


def alone(engine: ReplicatedEngine) -> None:
    """Return when the threads of the engine have done what opening gave them to do."""
    writer, waiting = engine._writer, engine.write_queue
    eventually(lambda: waiting.is_empty() and not writer._wanted and not writer._role.locked())
    eventually(lambda: not engine._reader._role.locked() and not engine._reader._wanted)


def test_a_lone_caller_does_it_itself(
    opened: Opened, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: no other thread is woken for a write or a read of the only caller."""
    alone(opened[1])
    names = threads_of(link, monkeypatch)
    c = opened[0]["c"]
    c.put("k", 1)
    assert c.get("k") == 1
    assert names == [threading.current_thread().name] * 2


@pytest.mark.usefixtures("of_its_own")
def test_not_where_a_handler_may_come_in_between(
    opened: Opened, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: a signal handler that writes never finds its own thread in the middle of a write."""
    names = threads_of(link, monkeypatch)
    c = opened[0]["c"]
    c.put("k", 1)
    assert c.get("k") == 1
    assert names == ["standfast-writer", "standfast-reader"]


def test_who_writes_in_the_middle_of_a_write_is_told(opened: Opened, link: Link) -> None:
    """C5: a finalizer that writes gets an error at once, and the write it came into goes on."""
    c = opened[0]["c"]
    errors: list[standfast.Unavailable] = []

    def nested() -> None:
        with pytest.raises(standfast.Unavailable) as caught:
            c.put("k", 2)
        errors.append(caught.value)

    link.gate = nested
    assert c.put("k", 1).durable_on == "primary"
    assert [error.code for error in errors] == ["busy"]
    assert c.get("k") == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_write_takes_effect_once(opened: Opened, link: Link, when: Any) -> None:
    """C5, R19: what an interruption left in doubt is sent again under its name, by another."""
    c = opened[0]["c"]
    c.put("n", 10)
    link.script = [Interruption(when)]
    with pytest.raises(KeyboardInterrupt):
        c.increment("n", "")
    eventually(lambda: c.get("n") == 11)
    assert c.increment("n", "") == 12
    assert opened[1].health().healthy
    assert c.get("n", consistency="local") == 12


def test_others_write_while_a_caller_does(opened: Opened, link: Link) -> None:
    """C5: who comes while another caller writes is served next, all of them in one batch."""
    c = opened[0]["c"]
    before = len(link.server.applied)
    at_once(opened, link, [lambda n=n: c.put(str(n), n) for n in range(5)])
    assert [len(batch) for batch in link.server.applied[before:]] == [1, 5]


class Interrupting:
    """Interrupts the main thread at any moment while it is on."""

    def __init__(self) -> None:
        self.on = threading.Event()
        self.sent = 0
        self._end = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not self._end:
            pause.wait(0.0007 + self.sent % 17 * 0.0003)
            if self.on.is_set():
                self.sent += 1
                _thread.interrupt_main()

    def close(self) -> None:
        self._end = True
        self._thread.join()


def interrupted_adds(collection: Any, interrupting: Interrupting, times: int) -> tuple[int, int]:
    """Add 1 so often, being interrupted all the while: how many were acknowledged, how many not."""
    acknowledged = unknown = 0
    while acknowledged + unknown < times:
        try:
            interrupting.on.set()
            try:
                collection.increment("n", "")
                collection.get("n")
                collection.put("k", acknowledged)
            finally:
                interrupting.on.clear()
            acknowledged += 1
        except KeyboardInterrupt:
            unknown += 1
    return acknowledged, unknown


@pytest.mark.slow
@pytest.mark.pg
def test_interruptions_at_any_moment(
    pg_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: wherever interruptions come, no lock is left, and nothing acknowledged is lost."""
    # Where they come while a connection is closed, the collector finds its socket and reports it.
    monkeypatch.setattr(sys, "unraisablehook", lambda *_: None)
    interrupting = Interrupting()
    try:
        with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
            c = store["c"]
            c.put("n", 0)
            acknowledged, unknown = interrupted_adds(c, interrupting, 250)
            assert unknown > 20
            eventually(lambda: store.health().state == "direct")
            store.flush(timeout_s=20)
            assert acknowledged <= c.get("n") <= acknowledged + unknown
            assert c.put("k", "end").durable_on == "primary"
            assert c.get("k", consistency="local") == "end"
    finally:
        interrupting.close()
        gc.collect()
