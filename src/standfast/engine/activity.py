"""What a store has done since it was opened: counts, latencies, refused writes, outages.

One object per engine.  The hot paths add to it; whoever asks gets a report, a plain struct that is
also what other processes read (`engine.reports`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from standfast.engine.outages import Outage, Outages
from standfast.engine.refusals import Refusal, Refusals, Refused
from standfast.engine.state_machine import Mode, Situation
from standfast.errors import StandfastError
from standfast.ops.types import Op

logger = logging.getLogger("standfast")

#: Upper ends of the classes in which latencies are counted, in seconds; one more has the rest.
LATENCY_BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)


class Latencies(msgspec.Struct):
    """How long calls took: how many in each class of `LATENCY_BOUNDS_S`, and seconds in all."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, begun: Sequence[float], now: float) -> None:
        """Count calls, one at least, that began at these instants, and end now."""
        latest, earliest = max(begun), min(begun)
        place = bisect_left(LATENCY_BOUNDS_S, now - latest)
        if latest <= now and place == bisect_left(LATENCY_BOUNDS_S, now - earliest):
            self.counts[place] += len(begun)  # those of a batch took about the same time
            self.sum_s += now * len(begun) - sum(begun)
            return
        for instant in begun:
            seconds = max(0.0, now - instant)
            self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
            self.sum_s += seconds

    def percentile_s(self, share: float) -> float | None:
        """The upper end of the class that the call at this share (0 to 1) is in; None of none."""
        total = sum(self.counts)
        if not total:
            return None
        left = share * total
        for bound, count in zip(LATENCY_BOUNDS_S, self.counts, strict=False):
            left -= count
            if left <= 0:
                return bound
        return float("inf")


class LastError(msgspec.Struct, frozen=True):
    """The last error of the primary or the local files, at `at` (`time.time()`)."""

    code: str
    message: str
    hint: str
    at: float


class Rejected(NamedTuple):
    """A replayed write that was not applied: it is a conflict now, and waits for a decision.

    `lane` and `seq` are those of its receipt.
    """

    collection: str
    key: str
    kind: str
    reason: str
    lane: str
    seq: int


class Report(msgspec.Struct, kw_only=True):
    """What one opened store says of itself.  Times are of `time.time()`, None for never.

    `since`: when the store came into its state.  `writes` counts by where they became durable
    (primary, journal, spool), `reads` by where they were answered from (primary, mirror, snapshot).
    `refusals` are the collections of which the last write was refused, `refused` counts refused
    writes by code.  `next_try`: when the primary is asked again.
    """

    id: str
    pid: int
    host: str
    opened_at: float
    written_at: float
    state: str
    cause: str
    since: float
    closed_at: float | None = None
    primary: str = ""
    lane: str = ""
    pending: int = 0
    attempts: int = 0
    next_try: float | None = None
    last_error: LastError | None = None
    writes: dict[str, int] = {}
    reads: dict[str, int] = {}
    refused: dict[str, int] = {}
    refusals: list[Refusal] = []
    rejected: int = 0
    sent: int = 0
    write_latency: Latencies = msgspec.field(default_factory=Latencies)
    read_latency: Latencies = msgspec.field(default_factory=Latencies)
    outages: list[Outage] = []
    problems: tuple[str, ...] = ()


class Activity:
    """The counts of one engine.  Thread-safe."""

    def __init__(
        self,
        id_: str,
        *,
        deadline_s: float = 1.0,
        display: str = "",
        kept_in: str = "",
        fallback: str = "read-write",
        notify: Callable[[Refused | Rejected], None] | None = None,
    ) -> None:
        self.id = id_
        self._deadline_s = deadline_s
        self._display = display
        self._lock = threading.Lock()
        self._notify = notify
        self._outages = Outages(display, kept_in, fallback)
        self._refusals = Refusals()
        self._writes: dict[str, int] = {}
        self._reads: dict[str, int] = {}
        self._write_latency = Latencies()
        self._read_latency = Latencies()
        self._last_error: LastError | None = None
        self._rejected = 0
        self._sent = self._sent_before = 0
        self._opened_at = self._since = time.time()
        self._mode: Mode | None = None
        self.version = 0
        """Grows with each change of what a report would say."""

    # ---- what the hot paths add

    def wrote(self, durable_on: str, calls: Sequence[tuple[float, Sequence[Op]]]) -> None:
        """The ops of these calls became durable there; each call with its deadline."""
        begun = [deadline - self._deadline_s for deadline, _ in calls]
        count = sum([len(ops) for _, ops in calls])
        lines: Iterable[str] = ()
        with self._lock:
            self.version += 1
            self._write_latency.add(begun, time.monotonic())
            self._writes[durable_on] = self._writes.get(durable_on, 0) + count
            if self._refusals.now:
                taken = {op.collection for _, ops in calls for op in ops}
                lines = self._refusals.taken(taken, time.time())
        for line in lines:
            logger.warning("%s", line)

    def read(self, source: str, deadlines: Iterable[float] = ()) -> None:
        """Reads with these deadlines were answered from there; without any, one at once."""
        begun = [deadline - self._deadline_s for deadline in deadlines]
        with self._lock:
            self.version += 1
            if begun:
                self._read_latency.add(begun, time.monotonic())
            self._reads[source] = self._reads.get(source, 0) + (len(begun) or 1)

    def read_one(self, source: str, begun: float) -> None:
        """One read that began at this instant was answered from there."""
        seconds = time.monotonic() - begun
        with self._lock:
            self.version += 1
            latency = self._read_latency
            latency.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
            latency.sum_s += seconds
            self._reads[source] = self._reads.get(source, 0) + 1

    # ---- what goes wrong

    def refused(self, op: Op, error: StandfastError) -> None:
        """A write was refused to its caller, and is not stored."""
        with self._lock:
            self.version += 1
            now = time.time()
            line = self._refusals.refused(op, error, now)
            self._last_error = LastError(error.code, error.message, error.hint, now)
        if line:
            logger.warning("%s", line)
        if self._notify is not None:
            refused = (op.collection, op.key, op.kind, error.code, error.message, error.hint)
            self._notify(Refused(*refused))

    def failed(self, error: StandfastError) -> None:
        """The primary, or the way to it, answered with this error."""
        with self._lock:
            self.version += 1
            self._last_error = LastError(error.code, error.message, error.hint, time.time())

    def rejected(self, op: Op, reason: str) -> None:
        """A replayed write was rejected."""
        with self._lock:
            self.version += 1
            self._rejected += 1
        lane, seq = op.origin or op.name
        if self._notify is not None:
            self._notify(Rejected(op.collection, op.key, op.kind, reason, lane, seq))

    def sent(self, count: int) -> None:
        """So many writes of the journal are on the primary now."""
        with self._lock:
            self.version += 1
            self._sent += count

    # ---- the state

    def changed(self, now: Situation, *, pending: int) -> None:
        """The store is in this mode, or has another cause for it: log what a person must know."""
        with self._lock:
            self.version += 1
            at = time.time()
            if now.mode is not self._mode:
                self._mode, self._since = now.mode, at
            if self._outages.current is None and now.mode is Mode.JOURNALING:
                self._sent_before = self._sent
            last, said = self._last_error, ("", "")
            if last is not None and last.code == now.cause:
                said = (last.message, last.hint)
            sent = self._sent - self._sent_before
            line = self._outages.changed(
                now.mode, now.cause, now=at, pending=pending, sent=sent, said=said
            )
            if now.mode is Mode.DIRECT:
                self._sent_before = self._sent
        if line is not None:
            logger.log(line.level, "%s", line.text)

    def report(
        self,
        situation: Situation,
        *,
        lane: str = "",
        pending: int = 0,
        problems: tuple[str, ...] = (),
        closed: bool = False,
    ) -> Report:
        """All of it as it is now; the caller's own copy."""
        now, monotonic = time.time(), time.monotonic()
        due = situation.connect_at or situation.drain_at
        waits = situation.mode is not Mode.DIRECT and due > 0
        with self._lock:
            report = Report(
                id=self.id,
                pid=os.getpid(),
                host=socket.gethostname(),
                opened_at=self._opened_at,
                written_at=now,
                closed_at=now if closed else None,
                state=str(situation.mode),
                cause=situation.cause,
                since=self._since,
                primary=self._display,
                lane=lane,
                pending=pending,
                attempts=situation.attempts,
                next_try=now + max(0.0, due - monotonic) if waits else None,
                last_error=self._last_error,
                writes=self._writes,
                reads=self._reads,
                refused=self._refusals.total,
                refusals=list(self._refusals.now.values()),
                rejected=self._rejected,
                sent=self._sent,
                write_latency=self._write_latency,
                read_latency=self._read_latency,
                outages=self._outages.past,
                problems=problems,
            )
            return msgspec.json.decode(msgspec.json.encode(report), type=Report)
