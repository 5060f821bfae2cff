"""A primary that goes away: writes go on, reads tell what is known, and all of it arrives."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from standfast import (
    ConflictError,
    DataError,
    DeadlineExceeded,
    ProvisionalVersion,
    StateChange,
    Unavailable,
)
from standfast.api.sync import Store
from standfast.backends.memory import MemoryBackend
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.state_machine import Mode
from support.faulty import Link, Open, Server, cut_off, eventually, wait_direct, wait_mode


def others(server: Server) -> Store:
    """Another program that writes to the same database."""
    return Store(EmbeddedEngine(server.database))


def test_every_acknowledged_write_arrives_once(server: Server, open_it: Open) -> None:
    """I2, I3: what was acknowledged without the primary is there when it is back, in order."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    views = store["views"]
    assert views.put("1", {"n": 0, "l": []}).durable_on == "primary"
    link.down = True
    for number in range(1, 6):
        receipt = views.patch("1", {"m": number})
        assert (receipt.durable_on, receipt.version) == ("journal", None)
        assert views.increment("1", "/n") == number
        assert views.append("1", "/l", number) == list(range(1, number + 1))
    views.put("2", "gone")
    views.delete("2")
    assert store.health().lag_ops == 17
    link.down = False
    wait_direct(engine)
    found = others(server)["views"].read("1")
    assert found is not None
    assert found.value == {"n": 5, "l": [1, 2, 3, 4, 5], "m": 5}
    assert found.version == 16
    assert others(server)["views"].get("2") is None
    assert store.health().healthy
    assert views.increment("1", "/n") == 6


def test_each_process_reads_its_own_writes(server: Server, open_it: Open) -> None:
    """I12, R11: in every mode; in an outage with a version that names what is pending."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", {"a": 1})
    document = store["c"].read("k")
    assert document is not None
    assert (document.source, document.age_s) == ("primary", 0.0)
    link.down = True
    receipt = store["c"].patch("k", {"b": 2})
    document = store["c"].read("k")
    assert document is not None
    assert (document.value, document.source) == ({"a": 1, "b": 2}, "mirror")
    assert isinstance(document.version, ProvisionalVersion)
    assert document.version.pending == ((receipt.lane, receipt.seq),)
    assert store["c"].get("k", consistency="local") == {"a": 1, "b": 2}
    assert store["c"].get_many(["k"]) == {"k": {"a": 1, "b": 2}}
    store["c"].delete("k")
    assert store["c"].get("k", "default") == "default"
    link.down = False
    wait_direct(engine)
    assert store["c"].read("k") is None


def test_what_is_not_known_is_not_missing(memory: Server, open_it: Open) -> None:
    """I4, R24: in an outage an unknown key is Unavailable; a key that was absent is the default
    for the only writer."""
    link = Link(memory)
    store, engine = open_it(link, sole_writer=True)
    wait_direct(engine)
    assert store["c"].get("absent", "default") == "default"
    link.down = True
    store["c"].put("new", 1)
    assert store["c"].get("absent", "default") == "default"
    assert store["c"].get("new") == 1
    for call in (store["c"].get, store["c"].read, lambda key: store["c"].get_many(["new", key])):
        with pytest.raises(Unavailable) as caught:
            call("unknown")
        assert caught.value.code == "not_mirrored"
    with pytest.raises(Unavailable):
        store["c"].update("unknown", lambda v: v, default=1)
    store["c"].patch("unknown", {"a": 1})
    assert store["c"].append("unknown", "/l", 1) is None
    with pytest.raises(Unavailable):
        store["c"].get("unknown")
    scans = (lambda: list(store["c"].keys()), lambda: list(store["c"].items()))
    for scan in (store["c"].count, *scans, lambda: store["c"].first()):
        with pytest.raises(Unavailable) as caught:
            scan()
        assert caught.value.code == "not_mirrored"


def test_a_read_that_misses_the_primary_is_answered_here(memory: Server, open_it: Open) -> None:
    """I4, I12: the read that notices the outage gets what is known, and the store is told."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    connects = link.connects
    link.read_error = DeadlineExceeded("no answer")
    document = store["c"].read("k")
    assert document is not None
    assert (document.value, document.source) == (1, "mirror")
    link.read_error = None
    eventually(lambda: link.connects > connects)
    wait_direct(engine)
    document = store["c"].read("k")
    assert document is not None
    assert document.source == "primary"


def test_only_one_read_waits_for_a_primary_that_hangs(memory: Server, open_it: Open) -> None:
    """I8: after a missed deadline the next reads are answered here, before the writer knows."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    reached, go = threading.Event(), threading.Event()
    link.gate = lambda: (reached.set(), go.wait(20))
    writing = threading.Thread(target=lambda: store["c"].put("other", 1))
    writing.start()
    assert reached.wait(20)
    link.read_error, link.reads = DeadlineExceeded("no answer"), 0
    try:
        assert [store["c"].get("k") for _ in range(3)] == [1, 1, 1]
        assert link.reads == 1
        assert engine.mode is Mode.DIRECT
    finally:
        go.set()
        writing.join()


def test_an_answer_is_no_outage(memory: Server, open_it: Open) -> None:
    """I4: an error that the primary answers a read with is the caller's, and opens no breaker."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    link.read_error = DataError("no such thing", code="odd")
    with pytest.raises(DataError):
        store["c"].get("k")
    assert engine.mode is Mode.DIRECT


def test_conditions_need_the_primary(memory: Server, open_it: Open) -> None:
    """Whatever only the primary can decide is refused in an outage, and nothing is written."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    link.down = True
    calls: list[Any] = [
        lambda: store["c"].put("k", 2, if_version=1),
        lambda: store["c"].put("x", 2, if_absent=True),
        lambda: store["c"].patch("k", {}, if_version=1),
        lambda: store["c"].delete("k", if_version=1),
        lambda: store["c"].pop("k"),
    ]
    store["c"].put("notice", 1)
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "needs_primary"
        assert caught.value.hint
    assert store["c"].get("k") == 1
    assert store.health().lag_ops == 1


def test_an_update_in_an_outage_merges_its_difference(server: Server, open_it: Open) -> None:
    """I5: what `update` changed is merged with what others changed meanwhile, field by field."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", {"mine": 1, "theirs": 1})
    link.down = True

    def change(value: dict[str, int]) -> dict[str, int]:
        value["mine"] += 1  # in place: the base must not change with it
        return value

    assert store["c"].update("k", change) == {"mine": 2, "theirs": 1}
    assert store["c"].update("k", change) == {"mine": 3, "theirs": 1}
    assert engine.health().lag_ops == 2
    others(server)["c"].patch("k", {"theirs": 2})
    link.down = False
    wait_direct(engine)
    assert store["c"].get("k") == {"mine": 3, "theirs": 2}


def test_a_store_that_only_reads_in_an_outage(memory: Server, open_it: Open) -> None:
    """`fallback="read-only"`: what is known is read, nothing is written."""
    link = Link(memory)
    store, engine = open_it(link, fallback="read-only")
    wait_direct(engine)
    store["c"].put("k", 1)
    link.down = True
    with pytest.raises(Unavailable):
        store["c"].put("k", 2)
    with pytest.raises(Unavailable) as caught:
        store["c"].put("k", 2)
    assert caught.value.code == "unavailable"
    assert "read-only" in caught.value.hint
    assert store["c"].get("k") == 1
    assert engine.local_state.journal.totals().ops == 0
    link.down = False
    wait_direct(engine)
    assert store["c"].get("k") == 1
    assert store["c"].put("k", 3).version == 2


def test_a_store_that_fails_closed(memory: Server, open_it: Open) -> None:
    """`fallback="off"`: nothing is read or written while the primary is away."""
    link = Link(memory)
    store, engine = open_it(link, fallback="off")
    wait_direct(engine)
    store["c"].put("k", 1)
    assert store["c"].get("k", consistency="local") == 1
    link.down = True
    for call in (lambda: store["c"].put("k", 2), lambda: store["c"].get("k")):
        with pytest.raises(Unavailable):
            call()
    assert engine.local_state.journal.totals().ops == 0
    with pytest.raises(Unavailable):
        open_it(Link(memory, down=True), fallback="off")


@pytest.mark.parametrize("lost", ["before", "after"])
def test_without_a_journal_a_lost_reply_is_an_unknown_outcome(
    memory: Server, open_it: Open, lost: str
) -> None:
    """I2: what may have taken effect, and cannot be journaled, is reported as just that."""
    link = Link(memory)
    store, engine = open_it(link, fallback="off")
    wait_direct(engine)
    link.script = [cut_off(link, lost)]  # type: ignore[arg-type]
    with pytest.raises(DeadlineExceeded) as caught:
        store["c"].put("k", 1)
    assert caught.value.code == "unknown_outcome"
    wait_direct(engine)
    assert store["c"].get("k") == (1 if lost == "after" else None)


def test_what_is_too_old_is_not_told(memory: Server, open_it: Open) -> None:
    """`max_stale_s`: local knowledge over that age is Unavailable, own pending writes too."""
    link = Link(memory)
    store, engine = open_it(link, max_stale_s=0.000001)
    wait_direct(engine)
    store["c"].put("k", 1)
    assert store["c"].get("k", consistency="local") == 1  # asked of the primary
    link.down = True
    store["c"].put("notice", 1)
    with pytest.raises(Unavailable) as caught:
        store["c"].get("k")
    assert caught.value.code == "too_stale"
    assert store["c"].get("notice") == 1


def test_a_full_journal_refuses_the_next_write(memory: Server, open_it: Open) -> None:
    """I7: at its limit the journal refuses, before it acknowledges; small ones still fit."""
    link = Link(memory, down=True)
    store, engine = open_it(link, max_journal_ops=2, max_journal_bytes=1000)
    store["c"].put("1", 1)
    with pytest.raises(Unavailable) as caught:
        store["c"].put("2", "x" * 1000)
    assert caught.value.code == "journal_full"
    store["c"].put("3", 3)
    with pytest.raises(Unavailable):
        store["c"].put("4", 4)
    with pytest.raises(Unavailable), store.batch() as batch:
        batch.put("c", "5", 5)
    assert store["c"].get("3") == 3
    link.down = False
    wait_direct(engine)
    assert dict(store["c"].items()) == {"1": 1, "3": 3}
    store["c"].put("4", 4)


def test_changes_of_state_are_told_once(memory: Server, open_it: Open) -> None:
    """Each change of state is one call, in order, with its cause and what is pending."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    told: list[StateChange] = []
    done = threading.Event()

    def listener(change: StateChange) -> None:
        told.append(change)
        if change.after == "direct":
            done.set()
        raise RuntimeError("a listener that fails is called again")

    store.on_state_change(listener)
    link.down = True
    store["c"].put("k", 1)
    connects = link.connects
    eventually(lambda: link.connects > connects + 2)
    assert [change.after for change in told] == ["journaling"]
    link.down = False
    assert done.wait(20)
    assert [(change.before, change.after) for change in told] == [
        ("direct", "journaling"),
        ("journaling", "draining"),
        ("draining", "direct"),
    ]
    assert told[0].cause == "connection"
    assert [change.lag_ops for change in told] == [0, 1, 0]


def test_health_tells_state_and_lag(memory: Server, open_it: Open) -> None:
    """Health costs no primary: state with cause, what waits and for how long, lane and history."""
    link = Link(memory, down=True)
    store, engine = open_it(link)
    before = store.health()
    assert (before.state, before.cause, before.lag_ops) == ("journaling", "connection", 0)
    assert (before.history, before.oldest_pending, before.conflicts) == (None, None, None)
    receipt = store["c"].put("k", "x" * 50)
    waiting = store.health()
    assert not waiting.healthy
    assert waiting.lag_ops == 1
    assert waiting.lag_bytes > 50
    assert waiting.oldest_pending is not None
    assert waiting.lane == receipt.lane
    eventually(lambda: store.health().attempts > 1)
    link.down = False
    wait_direct(engine)
    after = store.health()
    assert after.healthy
    assert (after.lag_bytes, after.lag_s, after.attempts) == (0, 0.0, 0)
    assert after.history == memory.database.identity()
    assert after.mirrored == 1
    assert after.conflicts == {}
    assert "x" * 10 not in repr(after)


def test_flush_waits_until_everything_is_there(memory: Server, open_it: Open) -> None:
    """`flush` returns when nothing is pending, and says how much is when its time is over."""
    link = Link(memory, down=True)
    store, _ = open_it(link)
    store["c"].put("k", 1)
    with pytest.raises(DeadlineExceeded) as caught:
        store.flush(timeout_s=0.01)
    assert caught.value.code == "not_flushed"
    link.down = False
    store.flush(timeout_s=20)
    assert memory.database.read("c", ["k"])


def test_what_waits_at_the_end_is_replayed_by_the_next(server: Server, open_it: Open) -> None:
    """I2: `close` tells how much is pending; whoever opens the directory next delivers it."""
    store, engine = open_it(Link(server, down=True))
    for number in range(3):
        store["c"].increment("k", "", number)
    assert store.close(timeout_s=0.0) == 3
    assert store.close() == 0
    for call in (
        lambda: store["c"].put("k", 1),
        lambda: store["c"].get("k"),
        lambda: store["c"].count(),
        store.health,
        store.flush,
        store.batch,
        store.collections,
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "closed"
    again, engine = open_it(Link(server))
    wait_direct(engine)
    assert again["c"].get("k") == 3
    assert engine.local_state.journal.lanes() == [engine._writer.lane.id]
    assert again.close() == 0


def test_a_closed_store_leaves_no_lane_behind(memory: Server, open_it: Open) -> None:
    """R1: a store that ends in order has its lane fenced, and its files are gone."""
    store, engine = open_it(Link(memory))
    wait_direct(engine)
    receipt = store["c"].put("k", 1)
    assert store.close() == 0
    assert list((engine.local_state.data_dir / "lanes").iterdir()) == []
    assert memory.database.fence([receipt.lane]) == {receipt.lane: 1}
    assert isinstance(memory.database, MemoryBackend)
    assert memory.database._lanes[receipt.lane][1] == "fenced"


def test_a_conflict_is_told_in_direct_mode(server: Server, open_it: Open) -> None:
    """While the primary answers, a condition that does not hold is ConflictError at once."""
    store, engine = open_it(Link(server))
    wait_direct(engine)
    store["c"].put("k", 1)
    with pytest.raises(ConflictError) as caught:
        store["c"].put("k", 2, if_version=5)
    assert (caught.value.expected, caught.value.actual) == (5, 1)
    assert store["c"].pop("k") == 1
    assert store["c"].get_or_create("k", [1]) == [1]
    wait_mode(engine, Mode.DIRECT)
