"""The modes of a store: every transition, pauses within bounds, and what is announced."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.engine.state_machine import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_REFUSED_PAUSE_S,
    Connected,
    Drained,
    Event,
    Lost,
    Mode,
    NotConnected,
    RoundFailed,
    Situation,
    begin,
    step,
    why_not_served,
)

CAUSES = st.sampled_from(["connection", "deadline", "auth", "locked"])
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(Connected()),
    st.builds(NotConnected, CAUSES, st.booleans()),
    st.builds(Lost, CAUSES),
    st.builds(RoundFailed, CAUSES),
    st.just(Drained()),
)
WALKS = st.lists(st.tuples(EVENTS, st.floats(0.0, 5.0), st.floats(0.5, 1.0)), max_size=40)

EXPECTED: list[tuple[Mode, Event, Mode]] = [
    (Mode.JOURNALING, Connected(), Mode.DRAINING),
    (Mode.JOURNALING, NotConnected("x"), Mode.JOURNALING),
    (Mode.JOURNALING, Lost("x"), Mode.JOURNALING),
    (Mode.JOURNALING, RoundFailed("x"), Mode.JOURNALING),
    (Mode.JOURNALING, Drained(), Mode.JOURNALING),
    (Mode.DRAINING, Connected(), Mode.DRAINING),
    (Mode.DRAINING, NotConnected("x"), Mode.JOURNALING),
    (Mode.DRAINING, Lost("x"), Mode.JOURNALING),
    (Mode.DRAINING, RoundFailed("x"), Mode.DRAINING),
    (Mode.DRAINING, Drained(), Mode.DIRECT),
    (Mode.DIRECT, Connected(), Mode.DIRECT),
    (Mode.DIRECT, NotConnected("x"), Mode.DIRECT),
    (Mode.DIRECT, Lost("x"), Mode.JOURNALING),
    (Mode.DIRECT, RoundFailed("x"), Mode.DIRECT),
    (Mode.DIRECT, Drained(), Mode.DIRECT),
]


@pytest.mark.parametrize(("mode", "event", "after"), EXPECTED, ids=str)
def test_every_transition(mode: Mode, event: Event, after: Mode) -> None:
    """R3, I4: each event of each mode leads where the design says, and to no other mode."""
    assert step(Situation(mode, "before"), event, 100.0)[0].mode is after


def test_a_store_begins_without_its_primary() -> None:
    """A store that has reached nobody journals, and says why."""
    assert begin("not yet") == Situation(Mode.JOURNALING, "not yet")


def test_what_is_to_be_done() -> None:
    """Each change asks for what moves the store on: to connect, to drain; and tells people."""
    now, actions = step(begin("not yet"), Connected(), 1.0)
    assert set(actions) == {"announce", "drain"}
    now, actions = step(now, Drained(), 2.0)
    assert actions == ("announce",)
    assert (now.connect_at, now.drain_at, now.attempts) == (0.0, 0.0, 0)
    now, actions = step(now, Lost("deadline"), 3.0)
    assert set(actions) == {"announce", "connect"}
    assert now == Situation(Mode.JOURNALING, "deadline", 1, connect_at=3.0)


def test_a_lost_drain_is_not_tried_again_at_once() -> None:
    """I7: a server that answers and then hangs is asked again after a pause, not for ever."""
    draining = Situation(Mode.DRAINING, "the primary answers", 3)
    now, actions = step(draining, Lost("deadline"), 50.0, jitter=0.5)
    assert actions == ("announce",)
    assert now.connect_at == 50.0 + FIRST_PAUSE_S * 2**3 * 0.5


@given(WALKS)
def test_pauses_stay_within_their_bounds(walk: list[tuple[Event, float, float]]) -> None:
    """I7: however often attempts fail, a server that comes back is asked within half a second."""
    now, at = begin("not yet"), 0.0
    for event, later, jitter in walk:
        at += later
        before = now
        now, _ = step(now, event, at, jitter=jitter)
        refused = isinstance(event, NotConnected) and event.refused
        longest = LONGEST_REFUSED_PAUSE_S if refused else LONGEST_PAUSE_S
        for due, old in ((now.connect_at, before.connect_at), (now.drain_at, before.drain_at)):
            if due and due != old:
                assert at <= due <= at + longest


def test_failures_in_a_row_wait_longer() -> None:
    """The pause doubles from the first to the longest, and does not overflow."""
    now, pauses = begin("not yet"), []
    for _ in range(200):
        now, _ = step(now, NotConnected("connection"), 0.0)
        pauses.append(now.connect_at)
    assert pauses[:3] == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    assert step(now, NotConnected("auth", True), 0.0)[0].connect_at == LONGEST_REFUSED_PAUSE_S


@given(WALKS)
def test_direct_only_after_everything_is_drained(walk: list[tuple[Event, float, float]]) -> None:
    """R3: the mode is DIRECT only when nothing was lost since the primary had everything."""
    now, at, drained = begin("not yet"), 0.0, False
    for event, later, jitter in walk:
        at += later
        was = now.mode
        now, _ = step(now, event, at, jitter=jitter)
        if isinstance(event, Drained) and was is not Mode.JOURNALING:
            drained = True
        if isinstance(event, Lost) or now.mode is Mode.JOURNALING:
            drained = False
        assert (now.mode is Mode.DIRECT) == drained


@given(WALKS)
def test_a_change_is_announced_exactly_when_there_is_one(
    walk: list[tuple[Event, float, float]],
) -> None:
    """A mode that changes, or a new reason not to reach the primary, is told once, no other."""
    now, at = begin("not yet"), 0.0
    for event, later, jitter in walk:
        at += later
        before = now
        now, actions = step(now, event, at, jitter=jitter)
        changed: Any = (before.mode, before.cause) != (now.mode, now.cause)
        assert ("announce" in actions) == changed
        if now.mode is before.mode:
            assert "drain" not in actions


def test_what_is_said_of_a_primary_that_does_not_serve_a_call() -> None:
    """That it does not answer is only said where it does not."""
    said = {mode: why_not_served(Situation(mode, "cause")) for mode in Mode}
    assert said == {
        Mode.JOURNALING: "the primary does not answer (cause)",
        Mode.DRAINING: "the primary answers, and the journal is still being sent to it (cause)",
        Mode.DIRECT: "the primary did not answer in time",
    }
