"""What the log says of outages and refused writes: pure, by the state machine's own changes."""

from __future__ import annotations

import logging

import pytest

from standfast import ConfigError
from standfast.engine.outages import Outages, duration
from standfast.engine.refusals import Refusals
from standfast.engine.state_machine import Mode
from standfast.limits import MAX_OUTAGES, MAX_REFUSING_COLLECTIONS
from standfast.ops.types import Op

AWAY, DRAIN, DIRECT = Mode.JOURNALING, Mode.DRAINING, Mode.DIRECT


@pytest.fixture
def outages() -> Outages:
    return Outages("postgresql://app@db/bot", "/data/journal.db")


def test_a_healthy_start_says_nothing(outages: Outages) -> None:
    """A store that finds its primary says nothing, however it got there."""
    assert outages.changed(DRAIN, "the primary answers", now=1.0) is None
    assert outages.changed(DIRECT, "everything is on the primary", now=2.0, sent=3) is None
    assert outages.past == []


def test_an_outage_is_two_lines_of_one_level(outages: Outages) -> None:
    """One line at its beginning, with what is safe; one at its end, with how long and how many."""
    said = ("connecting to db: connection refused", "check the server")
    begun = outages.changed(AWAY, "connection", now=100.0, said=said)
    assert begun is not None
    assert begun.text == (
        "postgresql://app@db/bot does not answer (connecting to db: connection refused). Writes go"
        " into /data/journal.db, and are sent when it is back. Details: standfast status"
    )
    assert outages.changed(AWAY, "deadline", now=110.0, pending=7) is None
    assert outages.changed(DRAIN, "the primary answers", now=150.0, pending=9) is None
    assert outages.changed(AWAY, "shutdown", now=151.0, pending=9) is None
    assert outages.changed(DRAIN, "more writes came meanwhile", now=280.0) is None
    over = outages.changed(DIRECT, "everything is on the primary", now=285.0, sent=9)
    assert over is not None
    assert begun.level == over.level == logging.WARNING
    assert over.text == (
        "postgresql://app@db/bot is back after 3 min 5 s: 9 write(s) were sent from the journal,"
        " and none is pending. Nothing has to be done."
    )
    (one,) = outages.past
    assert (one.began, one.answered, one.ended, one.most_pending, one.sent) == (
        *(100.0, 280.0, 285.0),
        *(9, 9),
    )


def test_a_cause_that_needs_a_person_is_another_line(outages: Outages) -> None:
    """A refused password after a lost connection is said, with what to do, and so is its end."""
    assert outages.changed(AWAY, "connection", now=1.0) is not None
    line = outages.changed(AWAY, "auth", now=2.0, said=("the password is refused", "correct it"))
    assert line is not None
    assert "cannot be used (the password is refused)" in line.text
    assert "To do: correct it." in line.text
    assert outages.changed(AWAY, "auth", now=3.0) is None
    line = outages.changed(AWAY, "connection", now=4.0)
    assert line is not None
    assert "does not answer (there is no connection to the server)" in line.text


def test_a_replay_that_is_stuck_is_said_once(outages: Outages) -> None:
    """The primary answers and takes nothing: one line a cause, and one when it is over."""
    line = outages.changed(DRAIN, "disk_full", now=1.0)
    assert line is not None
    assert "answers, but writes of the journal are not sent: the disk is full" in line.text
    assert outages.changed(DRAIN, "disk_full", now=2.0) is None
    assert outages.changed(DIRECT, "everything is on the primary", now=3.0, sent=4) is not None
    assert outages.changed(DIRECT, "everything is on the primary", now=4.0) is None


@pytest.mark.parametrize(
    ("fallback", "words"),
    [("read-only", "Writes are refused"), ("off", "Reads and writes are refused")],
)
def test_what_the_fallback_refuses(fallback: str, words: str) -> None:
    """Where nothing is journaled, the line does not say that it is."""
    line = Outages("x", "j", fallback).changed(AWAY, "connection", now=1.0)
    assert line is not None
    assert words in line.text
    assert "go into" not in line.text


def test_outages_are_bounded(outages: Outages) -> None:
    """I7: the newest are kept, the current one among them."""
    for number in range(MAX_OUTAGES + 10):
        outages.changed(AWAY, "connection", now=float(number))
        outages.changed(DIRECT, "", now=number + 0.5)
    assert len(outages.past) == MAX_OUTAGES
    assert outages.past[-1].began == MAX_OUTAGES + 9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (60, "1 min")),
        *((185, "3 min 5 s"), (3599.6, "1 h"), (7900, "2 h 11 min"), (200_000, "2 d 7 h")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """At most two units, rounded."""
    assert duration(seconds) == text


# ---- refused writes


def op(collection: str = "views") -> Op:
    return Op(lane="l", seq=1, kind="put", collection=collection, key="a", body='"c4n4ry"')


NO_RIGHT = ConfigError(
    "put of key 'a' in `views`: PostgreSQL answered 42501", code="no_rights", hint="GRANT it"
)


def test_refused_writes_are_logged_at_a_bounded_rate() -> None:
    """The first at once, then one line a minute with how many; never contents."""
    refusals = Refusals()
    first = refusals.refused(op(), NO_RIGHT, 100.0)
    assert "refused and is not stored" in first
    assert "To do: GRANT it." in first
    assert [refusals.refused(op(), NO_RIGHT, 100.0 + i) for i in range(1, 60)] == [""] * 59
    later = refusals.refused(op(), NO_RIGHT, 161.0)
    assert "(59 more since the last such line)" in later
    assert refusals.total == {"no_rights": 61}
    assert "c4n4ry" not in first + later


def test_a_new_reason_is_logged_at_once_and_so_is_the_end() -> None:
    """Another code is another line; the first write that is taken is the last line."""
    refusals = Refusals()
    refusals.refused(op(), NO_RIGHT, 1.0)
    assert refusals.refused(op(), ConfigError("gone", code="no_table"), 2.0)
    assert refusals.taken(["other"], 3.0) == []
    assert refusals.taken(["views"], 63.0) == [
        "writes to `views` are taken again after 1 min 2 s: 2 were refused meanwhile, and are not"
        " stored"
    ]
    assert refusals.now == {}
    assert refusals.total == {"no_rights": 1, "no_table": 1}


def test_refusing_collections_are_bounded() -> None:
    """I7: a program that makes up names of collections does not fill the memory."""
    refusals = Refusals()
    for number in range(MAX_REFUSING_COLLECTIONS + 10):
        refusals.refused(op(f"c{number}"), NO_RIGHT, 1.0)
    assert len(refusals.now) == MAX_REFUSING_COLLECTIONS
    assert refusals.total["no_rights"] == MAX_REFUSING_COLLECTIONS + 10
