"""The replayer thread: drains the journal whenever the primary answers and something is pending."""

from __future__ import annotations

import time

from standfast.engine.background import Alarm
from standfast.engine.failures import failure_of
from standfast.engine.interfaces import Hub
from standfast.engine.state_machine import Mode
from standfast.engine.write_queue import Nudge
from standfast.errors import StandfastError

#: How long one slice of the replay lasts before it is looked whether the store is to be closed.
SLICE_S = 2.0
#: Pause before another look while another process replays, or a row is locked.
WAITING_PAUSE_S = 0.02
LOCKED_PAUSE_S = 0.2


class Replaying:
    """The thread that replays, and tells the writer how far it has come."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.alarm = Alarm("standfast-replayer", self._slice, failed=hub.fail)

    def _slice(self) -> None:
        hub = self._hub
        if hub.mode is Mode.JOURNALING:
            return
        draining = hub.mode is Mode.DRAINING
        try:
            progress = hub.replayer.drain(
                until="nearly" if draining else "empty", deadline=time.monotonic() + SLICE_S
            )
        except StandfastError as error:
            hub.post(failure_of(error))
            if hub.mode is Mode.DIRECT:
                self.alarm.want(time.monotonic() + LOCKED_PAUSE_S)
            return
        if progress == "waiting":
            self.alarm.want(time.monotonic() + WAITING_PAUSE_S)
        elif draining:
            hub.inbox.post(Nudge("nearly"))
        elif hub.hold.journal.totals().ops:
            self.alarm.want(time.monotonic() + LOCKED_PAUSE_S)
