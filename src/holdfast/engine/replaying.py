"""The replayer thread: drains the journal whenever the primary answers and something is pending."""

from __future__ import annotations

import threading
import time

from holdfast.engine.hub import Hub
from holdfast.engine.inbox import Nudge
from holdfast.engine.modes import Mode
from holdfast.engine.writer import failure_of
from holdfast.errors import HoldfastError

#: How long one slice of the replay lasts before it is looked whether the store is to be closed.
SLICE_S = 2.0
#: Pause before another look while another process replays, or a row is locked.
WAITING_PAUSE_S = 0.02
LOCKED_PAUSE_S = 0.2


class Replaying:
    """The thread that replays, and tells the writer how far it has come."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._changed = threading.Condition()
        self._due: float | None = None
        self._closing = False
        self.thread = threading.Thread(target=self._run, name="holdfast-replayer", daemon=True)

    def want(self, at: float) -> None:
        """Replay at this time or earlier."""
        with self._changed:
            if self._due is None or at < self._due:
                self._due = at
                self._changed.notify()

    def close(self) -> None:
        """Let the thread end after the slice that it is at."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closing and (self._due is None or self._due > time.monotonic()):
                    pause = None if self._due is None else self._due - time.monotonic()
                    self._changed.wait(pause)
                if self._closing:
                    return
                self._due = None
            if self._hub.mode is not Mode.JOURNALING:
                self._slice()

    def _slice(self) -> None:
        hub = self._hub
        draining = hub.mode is Mode.DRAINING
        try:
            progress = hub.replayer.drain(
                until="nearly" if draining else "empty", deadline=time.monotonic() + SLICE_S
            )
        except HoldfastError as error:
            hub.post(failure_of(error))
            if hub.mode is Mode.DIRECT:
                self.want(time.monotonic() + LOCKED_PAUSE_S)
            return
        if progress == "waiting":
            self.want(time.monotonic() + WAITING_PAUSE_S)
        elif draining:
            hub.inbox.post(Nudge("nearly"))
        elif hub.hold.journal.totals().ops:
            self.want(time.monotonic() + LOCKED_PAUSE_S)
