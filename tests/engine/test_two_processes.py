"""Several processes of one data directory: none waits for what another goes on writing."""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import pytest

from standfast.engine import replayer
from standfast.engine.state_machine import Mode
from standfast.errors import DeadlineExceeded
from support.faulty import LOCKED, Link, Open, Server, eventually, fresh, wait_direct


def test_a_process_returns_before_another_has_ended_its_writes(
    memory: Server, open_it: Open
) -> None:
    """R3: a store is direct, and flushed, when its own writes are on the primary; those of another
    live process of the directory, which is cut off, may wait, and keep their keys in order."""
    links = [Link(memory), Link(memory)]
    (mine, engine), (theirs, other) = open_it(links[0]), open_it(links[1])
    for one in (engine, other):
        wait_direct(one)
    for link in links:
        link.down = True
    mine["c"].put("mine", 1)
    theirs["c"].append("shared", "", 1)
    memory.locked.add(("c", "shared"))  # so it stays
    links[0].down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    assert mine["c"].put("more", 1).durable_on == "primary"
    mine["c"].append("shared", "", 2)
    memory.locked.clear()
    wait_direct(engine)
    links[1].down = False
    wait_direct(other)
    assert mine["c"].get("shared") == theirs["c"].get("shared") == [1, 2]


def test_a_flush_waits_for_what_was_pending(memory: Server, open_it: Open) -> None:
    """What another process writes after a flush has begun is not waited for."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    link.down = True
    store["c"].put("k", 1)
    journal = engine.local_state.journal
    last = journal.newest()
    store["c"].put("later", 1)
    assert journal.is_pending_through(last)
    journal.remove(journal.first(1))  # the primary has it
    assert not journal.is_pending_through(last)
    assert journal.totals().ops == 1


def test_dead_lanes_that_took_turns_are_sent_as_one(memory: Server, open_it: Open) -> None:
    """R1, I2, I3: what two killed processes wrote to one key in turns arrives in order, once, and
    in few transactions, since a far primary answers each of them late."""
    stores = [open_it(Link(memory)) for _ in range(2)]
    for _, engine in stores:
        wait_direct(engine)
    stores[0][0]["c"].append("k", "", 0)
    for _, engine in stores:
        engine.primary.down = True  # type: ignore[attr-defined]
    count = 4 * replayer._MAX_TURNS
    for number in range(1, count):
        stores[number % 2][0]["c"].append("k", "", number)
    for store, _ in stores:
        store.close(timeout_s=0)
    before = len(memory.applied)
    third, engine = open_it(Link(memory))
    wait_direct(engine)
    assert third["c"].get("k") == list(range(count))
    assert len(memory.applied) - before <= 4


def test_callers_are_not_held_up_again_for_a_batch_that_is_cut_off(
    memory: Server, open_it: Open
) -> None:
    """R20: a handover whose batch takes too long costs the connection; the next one does not begin
    it, so the replay sends it, for which nobody waits."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    link.down = True
    store["c"].put("k", 1)

    def too_slow(*_: Any, deadline: float, **__: Any) -> None:
        while time.monotonic() < deadline:
            time.sleep(0.01)
        raise DeadlineExceeded("no answer in time", hint="")

    slow = mock.Mock(apply=mock.Mock(side_effect=too_slow))
    own = [engine._writer.lane.id]
    with mock.patch.object(engine.replayer, "backend", slow):
        with pytest.raises(DeadlineExceeded):
            engine.replayer.finish(own, deadline=time.monotonic() + 0.05)
        assert not engine.replayer.finish(own, deadline=time.monotonic() + 0.05)
    assert slow.apply.call_count == 1
    link.down = False
    wait_direct(engine)


def test_what_a_locked_row_keeps_is_named(memory: Server, open_it: Open) -> None:
    """R26: a write that waits for somebody's lock is named by its key, and not when it has gone."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    memory.locked.add(("c", "k"))
    link.down = True
    store["c"].put("k", 1)
    link.down = False
    assert fresh(LOCKED).code == "locked"
    said = eventually(lambda: [one for one in store.health().problems if "locked" in one])
    assert "'k'" in said[0]
    assert "`c`" in said[0]
    memory.locked.clear()
    wait_direct(engine)
    eventually(lambda: not store.health().problems)
