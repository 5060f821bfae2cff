"""What the engine's threads see of each other: the part of the engine that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from standfast.backends.base import Backend
from standfast.engine.activity import Activity, Report
from standfast.engine.background import StateNotifier
from standfast.engine.full_scan import FullScan, Pages
from standfast.engine.health import Health
from standfast.engine.lanes import Lane
from standfast.engine.local_state import LocalState
from standfast.engine.overlay import View
from standfast.engine.promise import Promise
from standfast.engine.replayer import Replayer
from standfast.engine.state_machine import CUT, Action, Event, Mode, Situation
from standfast.engine.write_queue import Result, WriteQueue
from standfast.errors import StandfastError, Unavailable
from standfast.limits import MAX_FRESH_CONNECTIONS
from standfast.ops.types import Op, Redacted
from standfast.system.supervision import Supervisor

T = TypeVar("T")


class ReadResult(Redacted, frozen=True):
    """What a read found: a view of the place, and whether it came from the primary."""

    content = frozenset()

    view: View
    from_primary: bool


class Engine(Protocol):
    """What the API needs of an engine, whether its primary is local or elsewhere."""

    primary: Backend
    situation: Situation
    notifier: StateNotifier
    activity: Activity

    @property
    def mode(self) -> Mode:
        """Where writes go now."""
        ...

    @property
    def call_timeout_s(self) -> float:
        """The longest time that a caller waits for an answer of the engine."""
        ...

    @property
    def sole_writer(self) -> bool:
        """Whether what is known here decides while the primary is away."""
        ...

    def submit(
        self,
        ops: Sequence[Op],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        provisional: bool = False,
        read_modify_write: bool = False,
        independent: bool = False,
    ) -> Promise[list[Result]]:
        """Write the ops of one call, which are acknowledged together."""
        ...

    def read_one(
        self,
        collection: str,
        key: str,
        *,
        local: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> ReadResult | Promise[ReadResult]:
        """Read one place: at once, or as a promise."""
        ...

    def scan(
        self,
        work: Callable[[Backend, float], T],
        *,
        what: str,
        is_long: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Promise[T]:
        """Run a piece of work on the primary, with a deadline of its own.

        `is_long`: it may go on for longer, and scans do not wait behind it.
        """
        ...

    def drop(
        self,
        collection: str,
        *,
        if_empty: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Promise[bool]:
        """Drop a collection on the primary, with `if_empty` only when it has no documents; whether
        there was one."""
        ...

    def full_scan(self, collection: str) -> FullScan | None:
        """A scan of all of a collection that the mirror follows; None where there is none."""
        ...

    def pages(
        self,
        collection: str,
        work: Callable[[Pages, float], T],
        *,
        what: str,
        full_scan: FullScan | None = None,
        by_primary: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Promise[T]:
        """Read a whole collection on the primary, or in the mirror while it is away.

        Not there with `by_primary`: `Unavailable("not_mirrored")`.
        """
        ...

    def pending_views(self, collection: str) -> dict[str, View]:
        """The documents of a collection on which something is pending, as they are known here."""
        ...

    def health(self) -> Health:
        """How the store is doing, from local knowledge."""
        ...

    def report(self) -> Report:
        """What this store has done since it was opened: counts, latencies, outages."""
        ...

    def is_pending(self, lane: str, seq: int) -> bool:
        """Whether the op that a receipt names still waits in the journal."""
        ...

    def discarded_in(self, lane: str, seq: int) -> str:
        """The file with that op if it was given up before it was sent; else empty."""
        ...

    def flush(self, timeout_s: float) -> int:
        """Wait until everything is on the primary; returns how many writes still are not."""
        ...

    def server_now_us(self) -> int:
        """What the database's clock shows now, as far as is known here."""
        ...

    def require_open(self) -> None:
        """Raise when the store was closed."""
        ...

    def close(self, timeout_s: float) -> int:
        """Stop; returns how many acknowledged writes still wait for the primary."""
        ...


class EngineContext(Protocol):
    """The engine as its threads know it.  Only the writer sets the situation."""

    situation: Situation
    supervisor: Supervisor
    activity: Activity

    @property
    def mode(self) -> Mode:
        """Where writes go now."""
        ...

    @property
    def write_queue(self) -> WriteQueue:
        """What waits for the writer."""
        ...

    @property
    def local_state(self) -> LocalState:
        """The local files."""
        ...

    @property
    def replayer(self) -> Replayer:
        """The replay of the journal."""
        ...

    def thread_failed(self, error: BaseException) -> None:
        """An unexpected error in a thread: do what it may have left undone."""
        ...

    def post(self, event: Event) -> None:
        """Send an event to the writer."""
        ...

    def situation_changed(self, before: Situation, actions: tuple[Action, ...]) -> None:
        """Do what follows from a step: announce it, connect, replay."""
        ...

    def recognise(self, backend: Backend) -> None:
        """Note whose history this is, after the first write has made it."""
        ...

    def hold_off(self, error: StandfastError | None) -> None:
        """Write nothing pending to this primary, which went back, until a person has decided.

        None: it is used as it is now.
        """
        ...

    def refuse_held(self) -> None:
        """Raise while nothing may be written to this primary."""
        ...

    def away(self, op: Op) -> Unavailable:
        """The error of a write that the fallback does not take."""
        ...

    def replay_soon(self) -> None:
        """Something is pending although the store is DIRECT."""
        ...

    def end_lane(self, backend: Backend, lane: Lane) -> None:
        """Close a lane of ours with nothing in flight and nothing pending."""
        ...

    def reconnect(self, backend: Backend, deadline: float) -> bool:
        """Replace a connection that has ended; False when that fails, or is not done in time."""
        ...

    def answer_late_soon(self) -> None:
        """A reply is still arriving: reads that wait behind it are answered when it is time."""
        ...

    def primary_missed(self, cause: str) -> None:
        """A read found the primary away."""
        ...

    def read_locally(self, collection: str, key: str) -> ReadResult:
        """What this directory knows of a place; raises where that is nothing."""
        ...


def read_again(work: Callable[[], T], reconnect: Callable[[], bool]) -> T:
    """Read, and read once more on a fresh connection when the one that was there has ended (R19).

    Only for what may be done twice.  Raises the last error when `reconnect` fails.
    """
    for _ in range(MAX_FRESH_CONNECTIONS):
        try:
            return work()
        except Unavailable as error:
            if error.code not in CUT or not reconnect():
                raise
    return work()
