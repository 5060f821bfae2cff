"""What waits for the writer: bounded, in order, and completed together."""

from __future__ import annotations

from typing import Any

import pytest

from standfast import Unavailable
from standfast.engine import write_queue as inbox_module
from standfast.engine.promise import Promise
from standfast.engine.state_machine import Connected
from standfast.engine.write_queue import Submission, Wakeup, WriteQueue
from standfast.ops.types import Op


def submission(*keys: str, size: int = 1, **options: Any) -> Submission:
    ops = [Op(lane="", seq=0, kind="put", collection="c", key=key, body="1") for key in keys]
    return Submission(Promise(), ops, 0.0, size, **options)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> WriteQueue:
    monkeypatch.setattr(inbox_module, "MAX_QUEUE_OPS", 3)
    monkeypatch.setattr(inbox_module, "MAX_QUEUE_BYTES", 100)
    return WriteQueue()


def test_a_full_queue_refuses(small: WriteQueue) -> None:
    """I7: beyond its maximum of ops the queue refuses, before anything is written."""
    small.submit(submission("1", "2"))
    small.submit(submission("3", "4"))
    with pytest.raises(Unavailable) as caught:
        small.submit(submission("5"))
    assert caught.value.code == "queue_full"
    assert caught.value.hint
    assert len(small.collect(small.wait()).submissions) == 2
    small.submit(submission("5"))


def test_a_queue_of_large_documents_refuses(small: WriteQueue) -> None:
    """I7: beyond its maximum of bytes, too; what was taken out makes room again."""
    small.submit(submission("1", size=101))
    with pytest.raises(Unavailable) as caught:
        small.submit(submission("2"))
    assert caught.value.code == "queue_full"
    small.collect(small.wait())
    small.submit(submission("2"))


def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: one transaction takes no more than its maximum of ops and of bytes."""
    monkeypatch.setattr(inbox_module, "MAX_TRANSACTION_OPS", 3)
    monkeypatch.setattr(inbox_module, "MAX_TRANSACTION_BYTES", 50)
    inbox = WriteQueue()
    for key in "1234":
        inbox.submit(submission(key))
    assert len(inbox.collect(inbox.wait()).submissions) == 3
    assert len(inbox.collect(inbox.wait()).submissions) == 1
    for key in "123":
        inbox.submit(submission(key, size=30))
    assert len(inbox.collect(inbox.wait()).submissions) == 2


def test_what_is_told_does_not_wait_behind_calls(small: WriteQueue) -> None:
    """Events come out beside the calls, each kind in its order."""
    first, second = submission("1"), submission("2")
    small.submit(first)
    small.post(Wakeup("nearly"))
    small.submit(second)
    small.post(Connected())
    collected = small.collect(small.wait())
    assert collected.submissions == [first, second]
    assert collected.notes == [Wakeup("nearly"), Connected()]
    assert small.is_empty()


def test_a_closed_inbox_takes_no_more_and_serves_what_waits(small: WriteQueue) -> None:
    """Closing loses no call: what waits is served, what comes is Unavailable("closed")."""
    small.submit(submission("1"))
    small.close()
    with pytest.raises(Unavailable) as caught:
        small.submit(submission("2"))
    assert caught.value.code == "closed"
    collected = small.collect(small.wait())
    assert len(collected.submissions) == 1
    assert collected.notes == [Wakeup("close")]


def test_only_a_condition_that_must_hold_needs_the_primary() -> None:
    """A read-modify-write is no condition that only the primary can judge."""
    plain = submission("1")
    op = Op(lane="", seq=0, kind="put", collection="c", key="1", body="1", if_version=0)
    assert not plain.conditional
    assert Submission(Promise(), [op], 0.0).conditional
    assert not Submission(Promise(), [op], 0.0, read_modify_write=True).conditional
