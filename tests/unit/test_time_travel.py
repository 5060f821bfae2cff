"""What becomes of writes that a failover has lost: pure rules (R15)."""

from __future__ import annotations

from typing import Any

import pytest

from standfast.engine.histories import History
from standfast.engine.time_travel import (
    REASON,
    Retained,
    decide,
    is_failover,
    reaches_back,
    regained,
)
from standfast.ops.types import Op, ServerIdentity, State

PLACE = ("c", "k")


def op(kind: Any, body: str | None, seq: int, version: int, **how: Any) -> Op:
    """A write that was confirmed at 1000 us with this version."""
    plain = Op(lane="lane", seq=seq, kind=kind, collection="c", key="k", body=body, **how)
    return regained(Retained(plain, version, 900), history="h", ahead_us=100)


def found(text: str | None, version: int, updated_us: int) -> dict[tuple[str, str], State]:
    """What the primary holds now."""
    return {PLACE: State(*PLACE, text, version, updated_us=updated_us)}


def test_what_nobody_has_touched_is_written_again() -> None:
    """A put over the row that it once replaced: each knows the text that it meets."""
    first, second = decide([op("put", "2", 1, 5), op("put", "3", 2, 6)], found("1", 4, 900))
    assert [one.reject for one in (first, second)] == ["", ""]
    assert [(one.seen, one.base) for one in (first, second)] == [("present", "1"), ("present", "2")]
    assert first.regained is None


@pytest.mark.parametrize(
    ("version", "updated_us"),
    [pytest.param(5, 900, id="version"), pytest.param(4, 1001, id="time")],
)
def test_what_others_wrote_since_is_kept(version: int, updated_us: int) -> None:
    """A row of a version as high, or written later: replacements yield, additions do not."""
    ops = [op("put", "2", 1, 5), op("delete", None, 2, 6), op("append", "1", 3, 7)]
    done = decide(ops, found("[]", version, updated_us))
    assert [one.reject for one in done] == [REASON, REASON, ""]


def test_a_condition_from_before_yields_to_others() -> None:
    """A conditional write holds over the very row that it was made for, and no other."""
    ops = [op("put", "2", 1, 5, if_version=4)]
    assert [one.reject for one in decide(ops, found("1", 4, 900))] == [""]
    assert [one.reject for one in decide(ops, found("9", 5, 2000))] == [REASON]


def test_a_deleted_document_is_deleted_again() -> None:
    """A delete knows the text; a put after it knows that there is none."""
    ops = [op("delete", None, 1, 5), op("put", "3", 2, 6)]
    first, second = decide(ops, found("1", 4, 900))
    assert (first.seen, first.base) == ("present", "1")
    assert (second.seen, second.base) == ("absent", None)


def retained(*seqs: int) -> list[Retained]:
    return [Retained(op("put", "1", seq, 1), 1, 0) for seq in seqs]


@pytest.mark.parametrize(
    ("seqs", "left", "reaches"),
    [
        ((4, 5), {"lane": 3}, True),
        ((5,), {"lane": 3}, False),
        ((1, 2), {}, True),
        ((2,), {}, False),
        ((), {"lane": 5}, True),
    ],
)
def test_a_gap_beyond_the_retention_is_noticed(
    seqs: tuple[int, ...], left: dict[str, int], reaches: bool
) -> None:
    """Unless everything that is lost is retained, a person has to decide."""
    assert reaches_back(retained(*seqs), {"lane": 5}, left) is reaches


@pytest.mark.parametrize(
    ("system", "timeline", "epoch", "expected"),
    [("s", 2, 1, True), ("s", 1, 1, False), ("other", 2, 1, False), ("s", 2, 2, False)],
)
def test_only_a_newer_timeline_of_the_same_server_is_a_failover(
    system: str, timeline: int, epoch: int, expected: bool
) -> None:
    """A restore that somebody meant is not undone."""
    known = History("i", "s", "display", timeline=1, epoch=1)
    now = ServerIdentity("i", system, timeline=timeline, epoch=epoch)
    assert is_failover(known, now) is expected
