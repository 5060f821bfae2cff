"""R26: an error that nothing foresees, in each thread of an engine, ends nothing."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from standfast.engine.health import Health
from standfast.engine.local_state import LocalState
from standfast.engine.replayer import Replayer
from standfast.engine.replicated import Connector, ReplicatedEngine
from standfast.engine.writer import Writer
from standfast.errors import DeadlineExceeded, StandfastError, Unavailable
from standfast.system import supervision
from support.faulty import GONE, Link, Open, Server, eventually, wait_direct


class Sometimes:
    """A method that raises OSError while it is told to."""

    def __init__(self, owner: type, name: str) -> None:
        self.fails = False
        self.failed = 0
        original = getattr(owner, name)

        def call(instance: Any, *args: Any, **options: Any) -> Any:
            if self.fails:
                self.failed += 1
                raise OSError(24, "too many open files")
            return original(instance, *args, **options)

        self.planted = patch.object(owner, name, call)


def in_trouble(engine: ReplicatedEngine, thread: str) -> Health:
    """The health once it names a thread."""

    def look() -> Health | None:
        health = engine.health()
        return health if any(thread in one for one in health.problems) else None

    return eventually(look)


def all_is_well(engine: ReplicatedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Healthy again: at once where a thread has worked since, else when its trouble is past."""
    monkeypatch.setattr(supervision, "TROUBLE_SHOWN_S", 0.5)
    eventually(lambda: engine.health().healthy)


@pytest.mark.parametrize("part", ["direct", "journaling", "transition", "handover"])
def test_the_writer_goes_on(
    open_it: Open, memory: Server, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R26: wherever the writer fails, its callers have an answer, and afterwards all is well."""
    at: dict[str, tuple[type, str]] = {
        "direct": (LocalState, "confirm"),
        "journaling": (Writer, "_journal"),
        "transition": (Writer, "_look_at_journal"),
        "handover": (Writer, "_hand_over"),
    }
    sometimes = Sometimes(*at[part])
    with sometimes.planted:
        link = Link(memory)
        store, engine = open_it(link)
        wait_direct(engine)
        store["c"].put("k", 1)
        if part != "direct":
            link.down = True
            store["c"].put("k", 2)
        sometimes.fails = True
        if part in ("direct", "journaling"):
            with pytest.raises(DeadlineExceeded) as caught:
                store["c"].put("k", 3)
            assert caught.value.code == "internal"
        else:
            link.down = False
        assert not in_trouble(engine, "standfast-writer").healthy
        sometimes.fails = False
        link.down = False
        wait_direct(engine)
        assert store["c"].put("k", 4).durable_on == "primary"
        all_is_well(engine, monkeypatch)


def test_the_reader_goes_on(open_it: Open, memory: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: a read in which the reader fails is answered with an error, the next one is read."""
    sometimes = Sometimes(LocalState, "take")
    with sometimes.planted:
        store, engine = open_it(Link(memory))
        wait_direct(engine)
        sometimes.fails = True
        with pytest.raises(Unavailable) as caught:
            store["c"].get("k")
        assert caught.value.code == "internal"
        assert not in_trouble(engine, "standfast-reader").healthy
        sometimes.fails = False
        assert store["c"].get("k", "none") == "none"
        all_is_well(engine, monkeypatch)


@pytest.mark.parametrize(
    ("owner", "name", "thread"),
    [
        (Connector, "_connect", "standfast-connector"),
        (Replayer, "drain", "standfast-replayer"),
        (Replayer, "_confirm", "standfast-replayer"),
    ],
)
def test_connector_and_replayer_go_on(
    open_it: Open, memory: Server, owner: type, name: str, thread: str
) -> None:
    """R26: after errors in the threads of the way back the store finds its way back by itself."""
    sometimes = Sometimes(owner, name)
    with sometimes.planted:
        link = Link(memory)
        store, engine = open_it(link)
        wait_direct(engine)
        link.down = True
        store["c"].increment("n", "")
        sometimes.fails = True
        link.down = False
        health = in_trouble(engine, thread)
        assert not health.healthy
        assert health.lag_ops == 1
        eventually(lambda: sometimes.failed >= 3)
        sometimes.fails = False
        wait_direct(engine)
        assert store["c"].get("n") == 1
        eventually(lambda: engine.health().healthy)


def test_close_ends_threads_that_fail(open_it: Open, memory: Server) -> None:
    """R26: a store whose threads fail all the time can be closed, and leaves none behind."""
    sometimes = Sometimes(Writer, "_handle")
    with sometimes.planted:
        link = Link(memory)
        store, engine = open_it(link)
        wait_direct(engine)
        sometimes.fails = True
        engine.post(type("Odd", (), {})())  # type: ignore[arg-type]
        in_trouble(engine, "standfast-writer")
        sometimes.fails = False
        store.close(timeout_s=0.0)
    assert not any(thread.is_alive() for thread in engine._threads())
    with pytest.raises(StandfastError):
        store["c"].put("k", GONE)
