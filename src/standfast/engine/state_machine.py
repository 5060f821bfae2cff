"""The modes of a store and the transitions between them: pure, without threads or clock.

JOURNALING: the primary does not answer, writes go into the journal.  DRAINING: it answers again,
what waits in the journal is replayed, new writes join it.  DIRECT: writes go to the primary.
`step(situation, event, now)` returns the next situation and the actions to take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, NamedTuple

from standfast.errors import StandfastError, Unavailable

Action = Literal["connect", "drain", "announce"]

#: Pauses between attempts to connect: a server that comes back is noticed well within two seconds.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5
#: The same when the answer was a refusal, such as a wrong password: that rarely changes by itself.
LONGEST_REFUSED_PAUSE_S = 10.0


class Mode(StrEnum):
    """Where writes go."""

    JOURNALING = "journaling"
    DRAINING = "draining"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Situation:
    """A mode with its cause, and when the next attempt at something is due (0: not scheduled).

    `attempts` counts failures since the store was last DIRECT.
    """

    mode: Mode
    cause: str
    attempts: int = 0
    connect_at: float = 0.0
    drain_at: float = 0.0


class Connected(NamedTuple):
    """A connection was made, and the database is the one that the journal belongs to."""


class NotConnected(NamedTuple):
    """An attempt to connect failed; `refused`: with an answer that waiting rarely changes."""

    cause: str
    refused: bool = False


class Lost(NamedTuple):
    """The primary cannot be reached: a lost connection, a missed deadline, a read-only server."""

    cause: str


class RoundFailed(NamedTuple):
    """A round of the replay failed although the primary answers: a lock, a full disk there."""

    cause: str


class Drained(NamedTuple):
    """Nothing is pending, and every lane of an earlier process is fenced."""


Event = Connected | NotConnected | Lost | RoundFailed | Drained


def begin(cause: str) -> Situation:
    """The situation of a store that has not reached its primary yet."""
    return Situation(Mode.JOURNALING, cause)


def step(
    now: Situation, event: Event, at: float, *, jitter: float = 1.0
) -> tuple[Situation, tuple[Action, ...]]:
    """The next situation after an event, and the actions to take.

    `at` is the time, `jitter` a factor for pauses, between 0.5 and 1: processes that lost the same
    server must not come back in step.
    """
    match event:
        case Connected():
            if now.mode is not Mode.JOURNALING:
                return now, ()
            next_ = Situation(Mode.DRAINING, "the primary answers", now.attempts)
            return next_, ("announce", "drain")
        case NotConnected(cause, refused):
            if (
                now.mode is Mode.DIRECT
            ):  # one more connection was wanted; calls judge for themselves
                return now, ()
            longest = LONGEST_REFUSED_PAUSE_S if refused else LONGEST_PAUSE_S
            due = at + _pause(now.attempts, longest) * jitter
            next_ = Situation(Mode.JOURNALING, cause, now.attempts + 1, connect_at=due)
            changed = now.mode is not Mode.JOURNALING or now.cause != cause
            return next_, ("announce",) if changed else ()
        case Lost(cause):
            if now.mode is Mode.JOURNALING:
                return now, ()
            # At once: a single slow or killed connection is not an outage.  From DRAINING with a
            # pause, since a server that answers and then hangs could be asked for ever.
            due = at if now.mode is Mode.DIRECT else at + _pause(now.attempts) * jitter
            next_ = Situation(Mode.JOURNALING, cause, now.attempts + 1, connect_at=due)
            return next_, ("announce", "connect") if due <= at else ("announce",)
        case RoundFailed(cause):
            due = at + _pause(now.attempts) * jitter
            draining = now.mode is Mode.DRAINING
            next_ = replace(now, attempts=now.attempts + 1, drain_at=due)
            if not draining or cause == now.cause:
                return next_, ()
            return replace(next_, cause=cause), ("announce",)
        case Drained():
            if now.mode is not Mode.DRAINING:
                return now, ()
            return Situation(Mode.DIRECT, "everything is on the primary"), ("announce",)


def _pause(attempts: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    return min(longest_s, FIRST_PAUSE_S * 2 ** min(attempts, 20))


def why_not_served(now: Situation) -> str:
    """Why the primary does not serve a call, as the middle of a sentence."""
    match now.mode:
        case Mode.JOURNALING:
            return f"the primary does not answer ({now.cause})"
        case Mode.DRAINING:
            return f"the primary answers, and the journal is still being sent to it ({now.cause})"
        case Mode.DIRECT:
            return "the primary did not answer in time"


#: Codes of errors after which it is unknown whether the batch took effect.
IN_DOUBT = frozenset({"deadline", "connection_lost", "server_io", "server_internal"})
#: Codes of a connection that has ended, before anything was sent on it or with a reply outstanding.
#: A fresh connection shows whether the primary is there (R19).
CUT = frozenset({"connection", "connection_lost"})
#: Codes that say that the primary is not there for writes in time, and that nothing took effect.
AWAY = frozenset({"connection", "shutdown", "read_only", "expired"})


def means_away(error: StandfastError) -> bool:
    """Whether the primary cannot be reached, or not in time (I4).

    A local file on a read-only disk says `read_only` too, as a ConfigError: that is not an outage.
    """
    return isinstance(error, Unavailable) and error.code in IN_DOUBT | AWAY


#: Codes that say that this is not the database that the journal is for, or no longer.
NOT_OURS = frozenset({"other_database", "went_back"})


def failure_of(error: StandfastError) -> Event:
    """What the error of a replay says about the primary (I4)."""
    lost = means_away(error) or error.code in NOT_OURS
    return Lost(error.code) if lost else RoundFailed(error.code)
