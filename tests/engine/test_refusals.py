"""What the primary answers to a batch, and what becomes of each of its writes."""

from __future__ import annotations

from typing import Any

import pytest

from standfast import (
    ConfigError,
    CorruptData,
    DataError,
    DeadlineExceeded,
    StandfastError,
    Unavailable,
)
from standfast.api.sync import Collection, Store
from standfast.engine import writer as writer_module
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.replicated import ReplicatedEngine
from standfast.engine.state_machine import Mode
from support.faulty import (
    GONE,
    LOST,
    Fault,
    Link,
    Open,
    Server,
    after,
    at_once,
    before,
    cut_off,
    eventually,
    wait_direct,
    wait_mode,
)

POISON = DataError("a CHECK refuses it", code="check")
IN_DOUBT = ["deadline", "connection_lost", "server_io", "server_internal"]
AWAY = ["connection", "shutdown", "read_only"]


@pytest.fixture
def link(server: Server) -> Link:
    return Link(server)


@pytest.fixture
def opened(link: Link, open_it: Open) -> tuple[Store, ReplicatedEngine]:
    store, engine = open_it(link)
    wait_direct(engine)
    return store, engine


@pytest.fixture
def c(opened: tuple[Store, ReplicatedEngine]) -> Collection:
    return opened[0]["c"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("code", IN_DOUBT)
def test_a_batch_in_doubt_takes_effect_exactly_once(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection, when: str, code: str
) -> None:
    """I2, R2: the same ops go into the journal under the same names, whether applied or not."""
    c.put("n", 0)
    link.script = [Fault(when, Unavailable("?", code=code))]  # type: ignore[arg-type]
    assert c.increment("n", "") == 1
    wait_direct(opened[1])
    assert c.get("n") == 1
    sent = link.server.sent("c", "n")
    assert len({(op.lane, op.seq) for op in sent}) == 2
    assert opened[0].health().conflicts == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_many_in_doubt_keep_their_order(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection, when: str
) -> None:
    """I2, I3: all ops of a batch in doubt arrive once each, in the order of the calls."""
    c.put("l", [])
    link.script = [Fault("before"), Fault(when, LOST)]  # type: ignore[arg-type]
    calls = [lambda n=n: c.append("l", "", n) for n in range(5)]
    results = at_once(opened, link, calls)
    assert results == [list(range(n + 1)) for n in range(5)]
    wait_direct(opened[1])
    assert c.get("l") == list(range(5))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_condition_in_doubt_is_an_unknown_outcome(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection, when: str
) -> None:
    """I2: a conditional write whose reply is lost is not acknowledged; its neighbours are."""
    c.put("k", 1)
    link.script = [Fault("before"), cut_off(link, when)]  # type: ignore[arg-type]
    lost, kept = at_once(
        opened, link, [lambda: c.put("k", 2, if_version=1), lambda: c.put("other", 1)]
    )
    assert isinstance(lost, DeadlineExceeded)
    assert lost.code == "unknown_outcome"
    assert kept.durable_on == "journal"
    wait_direct(opened[1])
    assert c.get("k") == (2 if when == "after" else 1)
    assert c.get("other") == 1


@pytest.mark.parametrize("code", AWAY)
def test_what_was_surely_not_applied_is_journaled_anew(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection, code: str
) -> None:
    """I4: a primary that takes no writes is an outage: they go on, and arrive once."""
    link.script = [cut_off(link, "before", code)]
    receipt = c.put("k", 1)
    assert receipt.durable_on == "journal"
    wait_direct(opened[1])
    assert c.read("k").version == 1  # type: ignore[union-attr]


def test_a_refusal_is_its_callers_alone(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I6, R2: of a batch, the poisoned write fails; its neighbours are resent in order, once."""
    link.server.poison[("c", "3")] = POISON
    results = at_once(
        opened, link, [lambda n=n: c.increment(str(n), "") for n in (0, 1, 2, 3, 4, 0, 3, 5)]
    )
    assert [type(results[3]), results[6].code] == [DataError, "check"]
    assert [one for n, one in enumerate(results) if n not in (3, 6)] == [1, 1, 1, 1, 2, 1]
    assert opened[1].mode is Mode.DIRECT
    assert opened[1].local_state.journal.totals().ops == 0
    assert dict(c.items()) == {"0": 2, "1": 1, "2": 1, "4": 1, "5": 1}
    del link.server.poison[("c", "3")]
    assert c.increment("3", "") == 1


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("no right", code="no_rights"),
        Unavailable("disk full there", code="disk_full"),
        CorruptData("damaged", code="corrupt"),
    ],
    ids=lambda error: error.code,
)
def test_an_answer_goes_to_the_caller(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection, error: StandfastError
) -> None:
    """I4: whatever else the primary answers is the caller's error, and no outage."""
    link.script = [before(error)]
    with pytest.raises(type(error)) as caught:
        c.put("k", 1)
    assert (caught.value.code, caught.value.message) == (error.code, error.message)
    assert opened[1].mode is Mode.DIRECT
    assert c.put("k", 2).version == 1


def test_a_group_is_refused_as_a_whole(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """All or nothing: a batch with one poisoned write leaves nothing, and its neighbours go on."""
    link.server.poison[("c", "2")] = POISON

    def batch() -> Any:
        with opened[0].batch() as batch:
            for key in "123":
                batch.put("c", key, key)
        return batch.receipts

    refused, kept = at_once(opened, link, [batch, lambda: c.put("4", 4)])
    assert refused.code == "check"
    assert kept.durable_on == "primary"
    assert dict(c.items()) == {"4": 4}


def test_a_locked_row_holds_up_only_its_own(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """A write to a locked row waits on a side lane, with what comes after it on its key; the others
    go straight to the primary, the mode does not change, and the order of the key is kept (I3)."""
    store, engine = opened
    c.put("k", [])
    link.server.locked.add(("c", "k"))
    first, other = at_once(opened, link, [lambda: c.append("k", "", 1), lambda: c.put("other", 1)])
    assert first == [1]
    assert other.durable_on == "primary"
    assert c.append("k", "", 2) == [1, 2]  # behind the first one, without asking the primary
    assert c.get("k") == [1, 2]
    assert c.put("free", 1).durable_on == "primary"
    assert engine.mode is Mode.DIRECT
    with pytest.raises(Unavailable):
        c.put("k", 0, if_version=1)
    with store.batch() as batch:
        batch.append("c", "k", "", 3)
        batch.put("c", "with", 1)
    assert [one.durable_on for one in batch.receipts] == ["journal", "journal"]
    assert store.health().lag_ops == 4
    link.server.locked.clear()
    wait_direct(engine)
    assert c.get("k") == [1, 2, 3]
    assert c.get("with") == 1
    assert c.append("k", "", 4) == [1, 2, 3, 4]


def test_what_comes_behind_a_group_that_waits_keeps_its_order(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I3: a write behind a batch that has to wait does not overtake it on any of its keys."""
    store, engine = opened
    link.server.locked.add(("c", "k"))
    assert c.put("k", 1).durable_on == "journal"

    def batch() -> Any:
        with store.batch() as batch:
            batch.append("c", "k2", "", 1)
            batch.put("c", "k", 2)

    at_once(opened, link, [batch, lambda: c.append("k2", "", 2)])
    link.server.locked.clear()
    wait_direct(engine)
    assert c.get("k2") == [1, 2]


def test_what_comes_behind_a_locked_row_keeps_its_order(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I3: a lock that is let go while its culprit is looked for makes nobody overtake."""
    server, original = link.server, link.server.refuse

    def refuse(ops: Any) -> None:
        if [(op.key, op.body) for op in ops] == [("k", "1")] and not ops[0].replay:
            server.locked.clear()  # just now, the second one is tried by itself
        original(ops)

    c.put("k", [])
    server.refuse = refuse  # type: ignore[method-assign]
    server.locked.add(("c", "k"))
    results = at_once(opened, link, [lambda n=n: c.append("k", "", n) for n in range(4)])
    assert results == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    server.locked.clear()
    wait_direct(opened[1])
    assert c.get("k") == [0, 1, 2, 3]


def test_a_fenced_lane_is_left_for_a_fresh_one(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """R1: a store whose lane somebody closed goes on under a new one; nothing lost or doubled."""
    receipt = c.put("n", 0)
    link.server.database.fence([receipt.lane])
    results = at_once(opened, link, [lambda: c.increment("n", "") for _ in range(3)])
    assert sorted(results) == [1, 2, 3]
    assert opened[1].mode is Mode.DIRECT
    again = c.put("k", 1)
    assert again.lane != receipt.lane
    assert again.durable_on == "primary"
    assert c.get("n") == 3


def test_a_primary_that_went_back_is_written_to_no_more(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I10: a database that has forgotten what it confirmed is held off; writes are journaled."""
    c.put("k", 1)
    link.script = [before(CorruptData("went back", code="went_back"))]
    assert c.put("k", 2).durable_on == "journal"
    connects = link.connects
    wait_mode(opened[1], Mode.JOURNALING)
    eventually(lambda: opened[1].situation.attempts > 2)
    assert opened[0].health().cause == "went_back"
    assert link.connects == connects
    assert c.get("k") == 2


def test_an_update_in_doubt_is_merged(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I2: an acknowledged `update` arrives although its condition was refused in a lost reply."""
    others = Store(EmbeddedEngine(link.server.database))["c"]
    c.put("k", {"n": 1})
    link.script = [cut_off(link, "after")]
    original = link.server.refuse

    def overtake(_: Any) -> None:
        link.server.refuse = original  # type: ignore[method-assign]
        others.patch("k", {"theirs": 1})

    link.server.refuse = overtake  # type: ignore[method-assign]
    assert c.update("k", lambda value: {**value, "n": 2}) == {"n": 2}
    wait_direct(opened[1])
    assert c.get("k") == {"n": 2, "theirs": 1}


def test_an_op_that_does_not_fit_is_not_acknowledged_in_doubt(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I2: what the primary would refuse is not acknowledged because the refusal was lost."""
    c.put("k", "text")
    link.script = [cut_off(link, "after")]
    with pytest.raises(DeadlineExceeded) as caught:
        c.increment("k", "")
    assert caught.value.code == "unknown_outcome"
    wait_direct(opened[1])
    assert c.get("k") == "text"


def test_a_refusal_that_was_lost_is_ledgered(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I2, R12: an op that was acknowledged in doubt, and had been refused, is a conflict."""
    Store(EmbeddedEngine(link.server.database))["c"].put("k", "text")  # not known here
    link.script = [cut_off(link, "after")]
    assert c.increment("k", "") is None
    wait_direct(opened[1])
    assert c.get("k") == "text"
    assert opened[0].health().conflicts == {"open": 1}


def test_a_lane_does_not_live_for_ever(
    link: Link,
    opened: tuple[Store, ReplicatedEngine],
    c: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I7: after a number of batches a new lane begins, and the old one is fenced."""
    monkeypatch.setattr(writer_module, "MAX_LANE_BATCHES", 3)
    receipts = [c.put("k", number) for number in range(8)]
    assert len({receipt.lane for receipt in receipts}) == 3
    assert [receipt.version for receipt in receipts] == list(range(1, 9))
    assert len(list((opened[1].local_state.data_dir / "lanes").iterdir())) == 1


def test_the_first_write_of_all_may_lose_its_connection(open_it: Open) -> None:
    """I2, I9: a new database that is lost before it said who it is has the write exactly once."""
    server = Server(has_schema=False)
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    link.script = [after(hook=lambda: setattr(link, "connected", False))]
    store["c"].increment("n", "")
    wait_direct(engine)
    assert store["c"].get("n") == 1
    assert engine.local_state.history is not None


def test_a_primary_that_is_gone_before_and_behind(
    link: Link, opened: tuple[Store, ReplicatedEngine], c: Collection
) -> None:
    """I2: lost again and again, during the replay too, each write arrives exactly once."""
    c.put("n", 0)
    link.script = [after(LOST), before(GONE), after(LOST), before(LOST), after(LOST)]
    for number in range(1, 6):
        assert c.increment("n", "") == number
    wait_direct(opened[1])
    assert c.get("n") == 5
