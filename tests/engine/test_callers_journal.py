"""C5: who writes alone during an outage journals it itself, and interrupting that is safe."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from standfast.engine.outage_writes import Journaling
from support.faulty import Link, Opened, eventually


def test_a_lone_caller_journals_its_write_itself(
    opened: Opened, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: during an outage, too, no other thread is woken for a write of the only caller."""
    c = opened[0]["c"]
    link.down = True
    assert c.put("k", 1).durable_on == "journal"
    names: list[str] = []
    journaled = Journaling.write

    def noted(self: Journaling, *args: Any) -> Any:
        names.append(threading.current_thread().name)
        return journaled(self, *args)

    monkeypatch.setattr(Journaling, "write", noted)
    # The writer's own thread has something else to do now and then.
    for number in range(100):
        assert c.put("k", number).durable_on == "journal"
    assert names.count(threading.current_thread().name) > 50, names


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_write_of_an_outage_takes_effect_at_most_once(
    opened: Opened, link: Link, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """C5, I2: what was interrupted is in the journal or is not; no lock is left, others write."""
    c = opened[0]["c"]
    c.put("n", 10)
    link.down = True
    number: Any = c.increment("n", "")
    journaled = Journaling.write

    def interrupted(self: Journaling, *args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return journaled(self, *args)
        monkeypatch.setattr(Journaling, "write", journaled)
        if when == "after":
            journaled(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journaling, "write", interrupted)

    def increment(times: int) -> None:
        nonlocal number
        for _ in range(times):
            number = c.increment("n", "")

    with pytest.raises(KeyboardInterrupt):
        increment(100)
    number = int(number) + (when == "after")
    assert c.increment("n", "") == number + 1
    link.down = False
    eventually(lambda: opened[0].health().state == "direct")
    assert c.get("n") == number + 1
