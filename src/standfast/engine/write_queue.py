"""What waits for the writer thread: submissions of callers and events of the other threads."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from standfast.engine.promise import Promise
from standfast.engine.state_machine import Event
from standfast.errors import Unavailable
from standfast.limits import (
    MAX_QUEUE_BYTES,
    MAX_QUEUE_OPS,
    MAX_TRANSACTION_BYTES,
    MAX_TRANSACTION_OPS,
)
from standfast.ops.types import Op, Outcome, Receipt, Redacted


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of one op of a submission."""

    op: Op
    outcome: Outcome
    receipt: Receipt


def on_primary(ops: Sequence[Op], outcomes: Sequence[Outcome]) -> list[Result]:
    """What became of ops that the primary has, with their receipts."""
    return [
        Result(op, done, Receipt(done.version, "primary", op.lane, done.seq, done.changed))
        for op, done in zip(ops, outcomes, strict=True)
    ]


class Submission(msgspec.Struct, frozen=True):
    """The ops of one call, which are acknowledged together, and where the answer goes.

    `provisional`: conditions may be judged against local knowledge while the primary is away.
    `read_modify_write`: the condition is that of a read-modify-write; during an outage it is judged
    against local knowledge too, and the journal gets the difference that was made.
    `independent`: an op that is refused leaves the others as they are, also during an outage.
    """

    promise: Promise[list[Result]]
    ops: Sequence[Op]
    deadline: float
    size: int = 0
    provisional: bool = False
    read_modify_write: bool = False
    independent: bool = False

    @property
    def conditional(self) -> bool:
        """Whether only the primary can judge it."""
        return not self.read_modify_write and any(op.if_version is not None for op in self.ops)


class Wakeup(Redacted, frozen=True):
    """Something for the writer to look at: `nearly` nothing is pending, or a `close`."""

    what: str


class Collected(NamedTuple):
    """What the writer takes from the inbox at a time."""

    submissions: list[Submission]
    notes: list[Any]


class WriteQueue:
    """A bounded queue with one reader.  Thread-safe."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.is_empty = self._queue.empty
        """Whether nothing waits, as far as can be said."""
        self._lock = threading.Lock()
        self._ops = 0
        self._size = 0
        self._closed = False

    def submit(self, submission: Submission) -> None:
        """Queue a call; `Unavailable("queue_full")` when too much is waiting already (I7)."""
        with self._lock:
            if self._closed:
                raise closed()
            if self._ops > MAX_QUEUE_OPS or self._size > MAX_QUEUE_BYTES:
                raise Unavailable(
                    f"{self._ops} writes are waiting already",
                    code="queue_full",
                    hint="nothing was written; let fewer callers write at once",
                )
            self._ops += len(submission.ops)
            self._size += submission.size
            self._queue.put(submission)

    def post(self, note: Wakeup | Event) -> None:
        """Queue a message for the writer."""
        self._queue.put(note)

    def close(self) -> None:
        """Accept no more calls; those that wait are still served."""
        with self._lock:
            self._closed = True
            self._queue.put(Wakeup("close"))

    def wait(self) -> Submission | Wakeup | Event:
        """Block until something waits, and take it."""
        return self._queue.get()

    def collect(self, first: Submission | Wakeup | Event) -> Collected:
        """What was taken, and everything that waits behind it, up to a full batch."""
        collected = Collected([], [])
        ops = size = 0
        item: Any = first
        with contextlib.suppress(queue.Empty):
            while True:
                if isinstance(item, Submission):
                    collected.submissions.append(item)
                    ops, size = ops + len(item.ops), size + item.size
                    if ops >= MAX_TRANSACTION_OPS or size >= MAX_TRANSACTION_BYTES:
                        break
                else:
                    collected.notes.append(item)
                item = self._queue.get_nowait()
        if ops:
            with self._lock:
                self._ops -= ops
                self._size -= size
        return collected


def closed() -> Unavailable:
    """The error of a call on a closed store."""
    return Unavailable("the store is closed", code="closed", hint="open it again")
