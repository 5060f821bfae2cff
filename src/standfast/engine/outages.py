"""The outages of a store, and what the log says of them: pure, times are given.

One line when an outage begins, one at the same level when it is over; one more when its cause
becomes something that waiting does not mend.  A start at which all is well says nothing.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec

from standfast.engine.state_machine import Mode
from standfast.errors import CODES
from standfast.limits import MAX_OUTAGES

#: Causes that waiting does not mend: a person has to act.
NEEDS_ACTION = frozenset(
    {
        *("auth", "tls", "not_postgresql", "no_database", "no_schema", "no_rights"),
        *("no_identity", "timeout"),  # a time limit that cuts off what is asked at connect
        *("foreign_owner", "schema", "schema_newer", "server_too_old", "server_encoding"),
        *("other_database", "went_back", "directory_in_use", "journal_old", "database"),
    }
)


class Outage(msgspec.Struct):
    """One outage, in seconds of `time.time()`; None for what has not happened yet.

    `answered`: the primary answered again, and the replay began; `ended`: everything was on it.
    `most_pending` is the largest number of writes that waited, as far as it was looked at, `sent`
    how many this process has sent from the journal.
    """

    began: float
    cause: str
    answered: float | None = None
    ended: float | None = None
    most_pending: int = 0
    sent: int = 0


class LogLine(NamedTuple):
    """What is to be logged, and at which level."""

    level: int
    text: str


class Outages:
    """What happened to the primary of one store.  Used by its writer thread alone."""

    def __init__(self, display: str, kept_in: str, fallback: str = "read-write") -> None:
        self._display = display
        self._kept_in = kept_in
        self._fallback = fallback
        self._stuck = ""
        self.past: list[Outage] = []

    @property
    def current(self) -> Outage | None:
        """The outage that is not over yet."""
        return self.past[-1] if self.past and self.past[-1].ended is None else None

    def changed(
        self,
        after: Mode,
        cause: str,
        *,
        now: float,
        pending: int = 0,
        sent: int = 0,
        said: tuple[str, str] = ("", ""),
    ) -> LogLine | None:
        """Note that the store is in this mode for this cause; returns the line for the log.

        `said` is the last error with this cause: what happened, and what to do.
        """
        outage = self.current
        if outage is not None:
            outage.most_pending = max(outage.most_pending, pending)
        if after is Mode.JOURNALING:
            return self._away(cause, said, now=now, pending=pending)
        if after is Mode.DIRECT:
            return self._over(now=now, sent=sent, pending=pending)
        if outage is not None:
            outage.answered = now
        if cause not in CODES or cause == self._stuck:
            return None
        self._stuck = cause
        return LogLine(
            logging.WARNING,
            f"{self._display} answers, but writes of the journal are not sent: {_why(cause, said)};"
            f" they are safe in {self._kept_in}. {_todo(said)}",
        )

    def _away(
        self, cause: str, said: tuple[str, str], *, now: float, pending: int
    ) -> LogLine | None:
        outage = self.current
        before = "" if outage is None else outage.cause
        if outage is None:
            outage = Outage(began=now, cause=cause, most_pending=pending)
            self.past = [*self.past[1 - MAX_OUTAGES :], outage]
        elif cause in NEEDS_ACTION or before in NEEDS_ACTION:
            outage.cause = cause
        outage.answered = None
        if before and (before == cause or {before, cause}.isdisjoint(NEEDS_ACTION)):
            return None
        what = "cannot be used" if cause in NEEDS_ACTION else "does not answer"
        text = f"{self._display} {what} ({_why(cause, said)}). {self._meanwhile()}"
        return LogLine(logging.WARNING, f"{text} {_todo(said, cause)}")

    def _meanwhile(self) -> str:
        if self._fallback == "read-write":
            return f"Writes go into {self._kept_in}, and are sent when it is back."
        what = "Writes are" if self._fallback == "read-only" else "Reads and writes are"
        return f"{what} refused until it is back (fallback={self._fallback!r})."

    def _over(self, *, now: float, sent: int, pending: int) -> LogLine | None:
        outage, stuck = self.current, self._stuck
        self._stuck = ""
        if outage is not None:
            outage.answered = outage.answered or now
            outage.ended, outage.sent = now, sent
        if outage is None and not stuck:
            return None
        lasted = f" after {duration(now - outage.began)}" if outage else ""
        rest = "none is pending. Nothing has to be done."
        if pending:  # of a collection that is held, or on a row that is locked
            rest = f"{pending} still wait, safe in {self._kept_in}. Details: standfast status"
        return LogLine(
            logging.WARNING,
            f"{self._display} is back{lasted}: {sent} write(s) were sent from the journal, and"
            f" {rest}",
        )


def _why(cause: str, said: tuple[str, str]) -> str:
    return said[0] or (CODES[cause].meaning if cause in CODES else cause)


def _todo(said: tuple[str, str], cause: str = "") -> str:
    if cause in NEEDS_ACTION and said[1]:
        return f"To do: {said[1]}. Details: standfast status"
    return "Details: standfast status"


def duration(seconds: float) -> str:
    """A time span for people: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"
