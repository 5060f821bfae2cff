"""What follows a commit on the primary: the mirror, then the answers (R6).

While the next batch is on its way to the primary, a thread of its own does this for the last one.
The order of such batches does not matter: the mirror takes the newer version of every row.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import NamedTuple

from holdfast.engine.hold import Hold
from holdfast.engine.inbox import Result, Submission
from holdfast.engine.promise import Settling
from holdfast.failpoints import failpoint
from holdfast.types import Applied, Op, Receipt

#: Batches that may wait for the mirror; then the next one waits for them.
MAX_WAITING = 4

Sent = tuple[Submission, list[Op]]
"""A submission, and its ops with the names under which they were sent."""


class Committed(NamedTuple):
    """A batch that the primary has committed."""

    sent: list[Sent]
    applied: Applied
    lane: str


class Confirming:
    """Confirms batches, in the caller's thread or in its own."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._queue: queue.Queue[Committed | None] = queue.Queue(MAX_WAITING)
        self._failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="holdfast-confirmer", daemon=True)

    def later(self, batch: Committed) -> None:
        """Confirm it while the caller goes on."""
        if self._failure is not None:
            raise self._failure
        self._queue.put(batch)
        failpoint("confirm-handed-over")

    def now(self, batch: Committed) -> None:
        """Confirm it: a caller that has its receipt reads its write here too."""
        versions = [outcome.version for outcome in batch.applied.outcomes]
        ops = [op for _, own in batch.sent for op in own]
        self._hold.confirm(
            batch.applied, lane=batch.lane, retained=list(zip(ops, versions, strict=True))
        )
        with Settling() as settling:
            outcomes = iter(batch.applied.outcomes)
            for submission, own in batch.sent:
                results = [
                    Result(op, told, Receipt(told.version, "primary", op.lane, op.seq))
                    for op, told in zip(own, outcomes, strict=False)
                ]
                settling.value(submission.promise, results)
        failpoint("confirm-answered")

    def wait(self) -> None:
        """Return when every batch is confirmed: from here on the mirror has them all."""
        self._queue.join()
        if self._failure is not None:
            raise self._failure

    def close(self, timeout_s: float) -> None:
        """Let the thread end when everything is confirmed, and wait for that."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self.thread.join(timeout_s)

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                self.now(batch)
            except BaseException as error:
                # A bug; the writer, which would run on for ever, is told.
                self._failure = error
            finally:
                self._queue.task_done()
        self._queue.task_done()
