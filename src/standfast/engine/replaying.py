"""The replayer thread: drains the journal whenever the primary answers and something is pending."""

from __future__ import annotations

import time

from standfast.engine.background import Timer
from standfast.engine.failures import failure_of
from standfast.engine.interfaces import EngineContext
from standfast.engine.state_machine import Mode
from standfast.engine.write_queue import Wakeup
from standfast.errors import StandfastError

#: How long one slice of the replay lasts before it is looked whether the store is to be closed.
SLICE_S = 2.0
#: Pause before another look while another process replays, or a row is locked.
WAITING_PAUSE_S = 0.02
LOCKED_PAUSE_S = 0.2


class Replaying:
    """The thread that replays, and reports to the writer how far it has come."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self.timer = Timer("standfast-replayer", self._slice, failed=context.fail)

    def _slice(self) -> None:
        context = self._context
        if context.mode is Mode.JOURNALING:
            return
        draining = context.mode is Mode.DRAINING
        try:
            progress = context.replayer.drain(
                until="nearly" if draining else "empty", deadline=time.monotonic() + SLICE_S
            )
        except StandfastError as error:
            context.post(failure_of(error))
            if context.mode is Mode.DIRECT:
                self.timer.schedule(time.monotonic() + LOCKED_PAUSE_S)
            return
        if progress == "waiting":
            self.timer.schedule(time.monotonic() + WAITING_PAUSE_S)
        elif draining:
            context.write_queue.post(Wakeup("nearly"))
        elif context.local_state.journal.totals().ops:
            self.timer.schedule(time.monotonic() + LOCKED_PAUSE_S)
