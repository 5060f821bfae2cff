"""The inline engine: a reply that is lost on the way is asked for again, and nothing is doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from standfast import (
    ConfigError,
    ConflictError,
    CorruptData,
    DataError,
    DeadlineExceeded,
    Unavailable,
)
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.backends.memory import MemoryBackend
from standfast.engine.embedded import EmbeddedEngine
from standfast.ops.types import Applied, Op

LOST = Unavailable("the reply was lost", code="connection")


class Flaky:
    """A backend whose `apply` fails before or after the work is done, as its script says."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.script: list[str | Callable[[], Any]] = []
        self.error: Exception = LOST
        self.calls = 0

    def apply(self, ops: Sequence[Op], *, expected_watermark: int = 0) -> Applied:
        self.calls += 1
        step = self.script.pop(0) if self.script else "fine"
        if step == "before":
            raise self.error
        applied = self._backend.apply(ops, expected_watermark=expected_watermark)
        if step == "after":
            raise self.error
        if callable(step):
            step()
            raise self.error
        return applied

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@pytest.fixture
def flaky(make_backend: Callable[[], Backend]) -> Flaky:
    return Flaky(make_backend())


@pytest.fixture
def flaky_store(flaky: Flaky) -> Iterator[Store]:
    with Store(EmbeddedEngine(flaky)) as store:  # type: ignore[arg-type]
        yield store


@pytest.mark.parametrize("lost", ["before", "after"])
def test_every_write_takes_effect_exactly_once(flaky: Flaky, flaky_store: Store, lost: str) -> None:
    """I2: whether the connection broke before or after the commit, each write happens once."""
    views = flaky_store["views"]
    for number in range(1, 4):
        flaky.script = [lost]
        assert views.increment("n", "") == number
        flaky.script = [lost]
        assert views.append("l", "", number) == list(range(1, number + 1))
    flaky.script = [lost]
    receipt = views.put("p", 1, if_absent=True)
    assert receipt.version == 1
    flaky.script = [lost]
    assert views.delete("p", if_version=1).version == 2
    flaky.script = [lost]
    assert views.update("n", lambda value: value * 10) == 30
    flaky.script = [lost]
    assert views.pop("l") == [1, 2, 3]
    assert dict(views.items()) == {"n": 30}


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_batch_takes_effect_exactly_once(flaky: Flaky, flaky_store: Store, lost: str) -> None:
    """I2: batches and put_many, too, are applied once and get their true receipts."""
    flaky.script = [lost]
    with flaky_store.batch() as batch:
        batch.increment("views", "1", "/n")
        batch.increment("views", "1", "/n")
        batch.append("others", "1", "", "x")
    assert [receipt.version for receipt in batch.receipts] == [1, 2, 1]
    assert flaky_store["views"].get("1") == {"n": 2}
    flaky.script = [lost, "fine", lost]
    receipts = flaky_store["views"].put_many({str(n): n for n in range(1500)})
    assert {receipt.version for key, receipt in receipts.items() if key != "1"} == {1}
    assert receipts["1"].version == 3


def test_a_refusal_is_told_truly(flaky: Flaky, flaky_store: Store) -> None:
    """R12: a conflict or a refusal whose reply was lost is raised, not taken for a success."""
    views = flaky_store["views"]
    views.put("1", "text")
    flaky.script = ["after"]
    with pytest.raises(ConflictError) as conflict:
        views.put("1", "lost", if_version=5)
    assert (conflict.value.expected, conflict.value.actual) == (5, 1)
    flaky.script = ["after"]
    with pytest.raises(DataError) as data:
        views.increment("1", "")
    assert data.value.code == "wrong_type"
    flaky.script = ["after"]

    def conflicting() -> None:
        with flaky_store.batch() as batch:
            batch.put("views", "2", 1)
            batch.put("views", "1", 1, if_absent=True)

    with pytest.raises(ConflictError):
        conflicting()
    assert dict(views.items()) == {"1": "text"}


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_connection_that_stays_lost_is_told(flaky: Flaky, flaky_store: Store, lost: str) -> None:
    """I2: lost twice is Unavailable; the write took effect at most once, and the next ones go."""
    views = flaky_store["views"]
    views.put("1", 10)
    flaky.script = [lost, "before"]
    with pytest.raises(Unavailable) as caught:
        views.increment("1", "")
    assert caught.value.retryable
    assert flaky.calls == 3
    happened = 1 if lost == "after" else 0
    assert views.increment("1", "", 100) == 110 + happened


@pytest.mark.parametrize("changed", ["put", "delete"])
def test_a_value_that_nobody_can_tell_is_not_made_up(
    flaky: Flaky, flaky_store: Store, make_backend: Callable[[], Backend], changed: str
) -> None:
    """No two callers get one number: after a lost reply, a document that moved is "moved"."""
    views = flaky_store["views"]
    others = Store(EmbeddedEngine(make_backend()))["views"]
    for call, value in (
        (lambda: views.increment("n", ""), 7),
        (lambda: views.append("l", "", 1), [7]),
    ):
        key = "n" if value == 7 else "l"
        flaky.script = [
            lambda k=key, v=value: others.put(k, v) if changed == "put" else others.delete(k)
        ]
        with pytest.raises(ConflictError) as caught:
            call()
        assert caught.value.code == "moved"
        assert (caught.value.expected, caught.value.actual) == (1, 2 if changed == "put" else 0)
        assert "do not repeat" in caught.value.hint


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("busy", code="locked"),
        Unavailable("fenced", code="fenced"),
        CorruptData("went back", code="went_back"),
        ConfigError("no rights", code="no_rights"),
    ],
    ids=lambda error: error.code,
)
def test_only_a_lost_connection_is_tried_again(
    flaky: Flaky, flaky_store: Store, error: Exception
) -> None:
    """An answer is an answer: what the database refused is not sent twice behind the caller."""
    flaky.script, flaky.error = ["before"], error
    with pytest.raises(type(error)) as caught:
        flaky_store["views"].put("1", 1)
    assert caught.value is error
    assert flaky.calls == 1
    assert flaky_store["views"].put("1", 2).version == 1


def test_a_full_disk_is_tried_again_when_room_was_made(flaky: Flaky, flaky_store: Store) -> None:
    """What a full disk refused left nothing behind: it is sent once more, and takes effect once."""
    flaky.script, flaky.error = ["before"], Unavailable("full", code="disk_full")
    assert flaky_store["views"].increment("1", "") == 1
    flaky.script = ["before", "before"]
    with pytest.raises(Unavailable, match="full"):
        flaky_store["views"].increment("1", "")
    assert flaky.calls == 4
    assert flaky_store["views"].get("1") == 1


@pytest.mark.parametrize(
    "error",
    [LOST, CorruptData("gone", code="file_gone"), ConfigError("dropped", code="no_table")],
    ids=lambda error: error.code,
)
def test_closing_never_raises_because_of_the_database(error: Exception) -> None:
    """`close` releases everything even when the lane cannot be closed any more."""
    closed: list[bool] = []

    class Failing(MemoryBackend):
        def close_lane(self, lane: str) -> None:
            raise error

        def close(self) -> None:
            closed.append(True)

    store = Store(EmbeddedEngine(Failing()))
    store["views"].put("1", 1)
    store.close()
    store.close()
    assert closed == [True]


def test_closing_forgets_the_lane(make_backend: Callable[[], Backend]) -> None:
    """A closed store leaves no row of its lane behind."""
    backend = make_backend()
    engine = EmbeddedEngine(backend)
    store = Store(engine)
    receipt = store["views"].put("1", 1)
    store.close()
    op = Op(lane=receipt.lane, seq=1, kind="put", collection="views", key="1", body="2")
    (outcome,) = make_backend().apply([op]).outcomes
    assert outcome.status == "applied"


def test_a_fenced_store_says_so() -> None:
    """R1: a store whose lane another process closed is Unavailable("fenced") from then on."""
    backend = MemoryBackend()
    with Store(EmbeddedEngine(backend)) as store:
        receipt = store["views"].put("1", 1)
        backend.fence([receipt.lane])
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                store["views"].put("1", 2)
            assert caught.value.code == "fenced"
        assert store["views"].get("1") == 1


@pytest.mark.parametrize("codes", [("connection_lost",) * 2, ("connection", "connection_lost")])
def test_a_reply_that_is_lost_for_good_is_an_unknown_outcome(
    flaky: Flaky, flaky_store: Store, codes: tuple[str, str]
) -> None:
    """I2: what may have taken effect is never reported as surely failed, or as done."""
    for code in codes:
        flaky.script.append(lambda code=code: setattr(flaky, "error", Unavailable("x", code=code)))
    with pytest.raises(DeadlineExceeded) as caught:
        flaky_store["views"].put("1", 1)
    assert caught.value.code == "unknown_outcome"
    assert flaky_store["views"].get("1") == 1
    assert flaky.calls == 2


def test_a_database_that_was_never_reached_is_no_unknown_outcome(
    flaky: Flaky, flaky_store: Store
) -> None:
    """A write that was surely not sent says so: trying again doubles nothing."""
    flaky.script = ["before", "before"]
    with pytest.raises(Unavailable) as caught:
        flaky_store["views"].put("1", 1)
    assert not isinstance(caught.value, DeadlineExceeded)
    assert flaky_store["views"].get("1") is None
