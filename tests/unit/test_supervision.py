"""R26: a thread outlives its errors, and what is in trouble is known."""

from __future__ import annotations

import logging
import queue
import threading

import pytest

from standfast.engine.background import StateNotifier, Timer
from standfast.engine.state_machine import Mode
from standfast.system import supervision
from standfast.system.supervision import SupervisedThread, Supervisor


class Told(BaseException):
    """An error that nothing foresees."""


@pytest.mark.parametrize("kind", [Told, OSError, SystemExit, KeyboardInterrupt, MemoryError])
def test_a_thread_outlives_any_error(kind: type[BaseException]) -> None:
    """R26: whatever a piece of work raises, the thread does the next one."""
    wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
    done: list[bool] = []

    def work() -> bool:
        if (fails := wanted.get()) and len(done) < 2:
            done.append(fails)
            raise kind
        done.append(fails)
        return len(done) < 3

    thread = SupervisedThread("t", work, Supervisor())
    thread.start()
    for fails in (True, True, False):
        wanted.put(fails)
    thread.join(10)
    assert not thread.is_alive()
    assert done == [True, True, False]


def test_a_thread_outlives_an_error_of_its_recovery() -> None:
    """R26: neither what is called after a failure nor the record of it can end a thread."""
    calls: list[int] = []

    def work() -> bool:
        calls.append(1)
        if len(calls) == 1:
            raise OSError
        return False

    def failed(_: BaseException) -> None:
        raise Told

    thread = SupervisedThread("t", work, Supervisor(), failed=failed)
    thread.start()
    thread.join(10)
    assert len(calls) == 2


def test_trouble_is_known_until_work_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    """R26: a thread is in trouble from its error on until it did something; it is logged once."""
    supervisor = Supervisor()
    with caplog.at_level(logging.ERROR, "standfast"):
        pauses = [supervisor.failed("t", OSError(24, "x")) for _ in range(6)]
    assert len(caplog.records) == 1
    assert pauses == sorted(pauses)
    assert pauses[-1] <= supervision.LONGEST_PAUSE_S
    (trouble,) = supervisor.troubles()
    assert (trouble.thread, trouble.error, trouble.times) == ("t", "OSError 24", 6)
    supervisor.worked("another")
    assert supervisor.troubles()
    supervisor.worked("t")
    assert supervisor.troubles() == []


def test_trouble_of_a_thread_without_work_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: a thread that nobody has asked for anything since is not in trouble for ever."""
    monkeypatch.setattr(supervision, "TROUBLE_SHOWN_S", 0.0)
    supervisor = Supervisor()
    supervisor.failed("t", OSError())
    assert supervisor.troubles() == []


def test_a_timer_acts_again_after_an_error() -> None:
    """R26: what a timer's act failed to do, it tries again without being asked."""
    acted, done = [0], threading.Event()

    def act() -> None:
        acted[0] += 1
        if acted[0] < 3:
            raise OSError
        done.set()

    timer = Timer("t", act, Supervisor())
    timer.thread.start()
    timer.schedule(0.0)
    assert done.wait(10)
    timer.close()
    timer.thread.join(10)
    assert not timer.thread.is_alive()


def test_a_listener_that_exits_stops_no_other() -> None:
    """R26: an `on_state_change` function that raises SystemExit is called again, as are others."""
    heard: list[str] = []
    both = threading.Event()
    notifier = StateNotifier(Supervisor())

    def leave(_: object) -> None:
        heard.append("leaves")
        raise SystemExit

    def listen(_: object) -> None:
        heard.append("listens")
        if len(heard) == 4:
            both.set()

    notifier.listen(leave)
    notifier.listen(listen)
    for _ in range(2):
        notifier.announce(Mode.DIRECT, Mode.JOURNALING, "test", 0)
    assert both.wait(10)
    assert heard == ["leaves", "listens"] * 2
    notifier.close()
