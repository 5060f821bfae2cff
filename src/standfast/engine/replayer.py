"""Replays the journal: fences dead lanes, sends batch by batch, rejects what cannot be applied.

One process of a data directory replays at a time, for all of its lanes: the holder of the drain
lock.  Nothing here decides about modes: a round returns, or raises the error that ended it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence, Set
from functools import partial
from typing import Literal

import msgspec

from standfast.backends.base import Backend
from standfast.engine import clock, lanes
from standfast.engine.journal import Pending
from standfast.engine.lanes import Lane
from standfast.engine.local_state import LocalState
from standfast.engine.replay_batches import along_with, next_batch, place_of
from standfast.errors import ConfigError, DataError, StandfastError, Unavailable
from standfast.limits import (
    MAX_BATCH_OPS,
    MAX_JOURNAL_AGE_S,
    MAX_TRANSACTION_OPS,
)
from standfast.ops.batch import Place
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import Applied, Observed, Op
from standfast.system.failpoints import failpoint
from standfast.system.locks import FileLock

logger = logging.getLogger("standfast")

Progress = Literal["empty", "nearly", "waiting"]
"""empty: nothing is pending except ops that wait for a lock; nearly: less than one batch is;
waiting: another process replays."""

#: Attempts after which an op is rejected because its table or a right is missing.
MAX_CONFIG_ATTEMPTS = 5
#: Shortest time that a transaction gets, however little of the slice is left.
_SHORTEST_S = 0.2
#: How long a place is left alone after its row was found locked.
LOCK_PAUSE_S = 0.5
#: How long the server waits for a lock while the locked row of a batch is searched for.
PROBE_LOCK_TIMEOUT_S = 0.02


class Replayer:
    """The replay of one data directory into one primary.  Thread-safe: one round at a time."""

    def __init__(self, backend: Backend, local_state: LocalState, *, deadline_s: float) -> None:
        self.backend = backend
        self._local_state = local_state
        self._journal = local_state.journal
        self._data_dir = local_state.data_dir
        self._deadline_s = deadline_s
        self._on_conflict: OnConflict = local_state.options.on_conflict
        self._turn = threading.Lock()
        self._drain_lock = FileLock(local_state.data_dir / "drain.lock")
        self._blocked: dict[Place, float] = {}
        self._attempts: dict[int, int] = {}
        self._adopted: list[Lane] = []
        self._limit = 0.0
        self.indirect: set[str] = set()
        """Lanes of this process whose ops all go through the journal."""
        self.confirmed = False
        """Whether journals over the age limit may be replayed: the user has confirmed it."""

    def drain(self, *, until: Progress, deadline: float) -> Progress:
        """Replay until nothing, or less than a batch, is pending, or until the deadline.

        Raises the error that ended it: `Unavailable` or `DeadlineExceeded` if the primary does not
        answer.
        """
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return "waiting"
        try:
            if not self._drain_lock.acquire():
                return "waiting"
            failpoint("drain-locked")
            # A transaction of a short slice must not hold its caller up for a whole deadline.
            self._limit = max(deadline, time.monotonic() + _SHORTEST_S)
            try:
                while True:
                    self._fence_dead_lanes()
                    left = self._round()
                    if left is None:
                        return "empty"
                    if until == "nearly" and left < MAX_TRANSACTION_OPS:
                        return "nearly"
                    if time.monotonic() >= deadline:
                        return "nearly"
            finally:
                self._drain_lock.release()
        finally:
            self._turn.release()

    # ---- one round

    def _round(self) -> int | None:
        """Send one batch; returns the number of pending ops, None if none of them can be sent."""
        window = self._journal.first(2 * MAX_TRANSACTION_OPS)
        if not window:
            self._attempts.clear()
            self._close_adopted()
            return None
        self._local_state.refuse_foreign(one.op for one in window)
        self._refuse_old(window[0].op)
        now = time.monotonic()
        self._blocked = {place: until for place, until in self._blocked.items() if until > now}
        blocked = along_with(window, set(self._blocked))
        batch = self._select(window, blocked)
        if not batch:
            return None
        self._apply_units(batch, lock_timeout_s=None)
        return self._journal.totals().ops

    def _select(self, window: list[Pending], blocked: set[Place]) -> list[list[Pending]]:
        whole = len(window) < 2 * MAX_TRANSACTION_OPS
        batch = next_batch(window, blocked=blocked, whole=whole)
        if not whole and len(batch) == 1 and batch[0][-1].op.group:
            # The group may be longer than the window.
            window = self._journal.first(2 * MAX_BATCH_OPS)
            whole = len(window) < 2 * MAX_BATCH_OPS
            batch = next_batch(window, blocked=blocked, whole=whole)
        return batch

    def _refuse_old(self, oldest: Op) -> None:
        """Refuse an old journal: without confirmation it must not overwrite newer changes."""
        if self._confirmed_or_young(oldest):
            return
        raise Unavailable(
            "the journal has writes that are more than a day old; they are kept, and not replayed",
            code="journal_old",
            hint="look at them (standfast journal list), then: standfast journal drain --confirm",
        )

    def _confirmed_or_young(self, oldest: Op) -> bool:
        if self.confirmed or self._on_conflict != "mine":
            return True
        return clock.now_us() - oldest.at_us < MAX_JOURNAL_AGE_S * 1e6

    def _apply_units(self, batch: list[list[Pending]], *, lock_timeout_s: float | None) -> bool:
        """Send units of one lane; if the primary refuses, find out which unit it refuses.

        Returns False if a unit stays behind.  The ones after it on its lane must then wait for the
        next round, since the lane's watermark would pass it.
        """
        pending = [one for unit in batch for one in unit]
        try:
            applied = self._send(pending, lock_timeout_s)
        except Unavailable as error:
            if error.code == "fenced":
                self._adopt(pending[0].op.lane)
            elif error.code != "locked":
                raise
            elif len(batch) > 1:
                return self._halve(batch, lock_timeout_s=PROBE_LOCK_TIMEOUT_S)
            else:
                self._set_aside(batch[0])
            return False
        except (DataError, ConfigError) as error:
            if len(batch) > 1:
                return self._halve(batch, lock_timeout_s=lock_timeout_s)
            self._reject(batch[0], error)
            return False
        self._confirm(pending, applied)
        return True

    def _halve(self, batch: list[list[Pending]], *, lock_timeout_s: float | None) -> bool:
        middle = len(batch) // 2
        halves = (batch[:middle], batch[middle:])
        return all(self._apply_units(half, lock_timeout_s=lock_timeout_s) for half in halves)

    def _send(self, pending: Sequence[Pending], lock_timeout_s: float | None) -> Applied:
        now_us = clock.now_us()
        ops = [_aged(one.op, now_us) for one in pending]
        failpoint("replay-before-apply")
        applied = self.backend.apply(
            ops,
            expected_watermark=self._local_state.mirror.expected_watermark(ops[0].lane),
            deadline=min(time.monotonic() + self._deadline_s, self._limit),
            directory=self._journal.directory,
            on_conflict=self._on_conflict,
            lock_timeout_s=lock_timeout_s,
        )
        failpoint("replay-applied")
        return applied

    def _confirm(self, pending: Sequence[Pending], applied: Applied) -> None:
        """Update the mirror first, then the journal: readers go the other way and miss nothing."""
        versions = {outcome.seq: outcome.version for outcome in applied.outcomes}
        refused = {outcome.seq for outcome in applied.outcomes if outcome.status == "refused"}
        done = [one for one in pending if one.op.seq not in refused]
        if self._local_state.history is None:  # this batch has made the schema
            server_identity = self.backend.server_identity(time.monotonic() + self._deadline_s)
            self._local_state.recognise(server_identity)
        self._local_state.confirm(
            applied,
            lane=pending[0].op.lane,
            retained=[(one.op, versions.get(one.op.seq)) for one in done],
        )
        # Refused before it was acknowledged, by a lost reply: now it is sent like any other.
        self._reissue([one for one in pending if one.op.seq in refused])
        self._journal.remove(done)
        rejected = [outcome for outcome in applied.outcomes if outcome.status == "rejected"]
        if rejected:
            logger.warning("%d replayed writes were rejected: see the conflicts", len(rejected))

    # ---- what cannot be applied

    def _reject(self, unit: list[Pending], error: StandfastError) -> None:
        """Mark ops that the primary refuses, so that the next round records them as conflicts."""
        if unit[0].op.reject:
            raise error  # not even a conflict can be recorded: they stay, and the round is repeated
        if isinstance(error, ConfigError):
            tries = self._attempts[unit[0].id] = self._attempts.get(unit[0].id, 0) + 1
            if tries < MAX_CONFIG_ATTEMPTS:
                raise error
        self._journal.replace(unit, lambda op: msgspec.structs.replace(op, reject=error.code))

    def _set_aside(self, unit: list[Pending]) -> None:
        """Move a unit whose row is locked out of the way of the other ops of its lane."""
        lane = unit[0].op.lane
        window = self._journal.first(MAX_BATCH_OPS)
        places = along_with(window, set(map(place_of, unit)))
        alone = all(place_of(one) in places for one in window if one.op.lane == lane)
        # A lane that goes to the primary directly, too, would pass what waits here.
        waits = lane in self.indirect or any(mine.id == lane for mine in self._adopted)
        if not (alone and waits):
            self._adopt(lane, aside=places)
        until = time.monotonic() + LOCK_PAUSE_S
        self._blocked.update(dict.fromkeys(places, until))

    # ---- lanes of other processes

    def _fence_dead_lanes(self) -> None:
        """Fence the lanes whose processes are gone (R1): none of their ops can commit afterwards.

        A lane is fenced only when none of its ops is pending: they are replayed under their own
        names, so that another copy of the directory, which does the same, applies nothing twice.
        """
        for lane in self._journal.lanes():
            if lanes.is_dead(self._data_dir, lane) and not self._journal.holds(lane):
                self._adopt(lane)

    def _adopt(self, lane: str, *, aside: Set[Place] = frozenset()) -> None:
        """Fence a lane, and re-issue its unapplied ops on new lanes, in the same order.

        The fence returns the final watermark, so it is certain which ops took effect.  If the
        process is killed anywhere in here, the next replayer does it again.  Ops on the places
        `aside` get a lane of their own.
        """
        deadline = time.monotonic() + self._deadline_s
        failpoint("fence-before")
        final = self.backend.fence([lane], directory=self._journal.directory, deadline=deadline)
        failpoint("fence-done")
        mine = [one for one in self._journal.everything() if one.op.lane == lane]
        aside = along_with(mine, aside)
        refused: set[int] = set()
        if any(one.op.seq <= final[lane] for one in mine):
            refused = self._refused(lane)
        settled = [one for one in mine if one.op.seq <= final[lane] and one.op.seq not in refused]
        self._confirm_applied(settled, final[lane])
        rest = [one for one in mine if one.op.seq > final[lane] or one.op.seq in refused]
        self._reissue(rest, aside=aside)
        failpoint("fence-reissued")
        if self._journal.close_lane(lane):
            self._local_state.forget_lane(lane)
            lanes.forget(self._data_dir, lane)

    def _refused(self, lane: str) -> set[int]:
        """The ops that the lane's watermark has passed although they did not take effect (R18)."""
        deadline = time.monotonic() + self._deadline_s
        outcomes = self.backend.outcomes(lane, deadline=deadline)
        return {outcome.seq for outcome in outcomes if outcome.status == "refused"}

    def _reissue(self, rest: Sequence[Pending], *, aside: Set[Place] = frozenset()) -> None:
        """Give ops of one lane new names on fresh lanes, in the same order."""
        fresh: dict[bool, Lane] = {}
        names: dict[int, tuple[Lane, int]] = {}
        for one in rest:
            is_aside = place_of(one) in aside
            if is_aside not in fresh:
                fresh[is_aside] = Lane(self._data_dir)
                # Its lock is held from here on: a lane without a holder would be adopted again.
                self._adopted.append(fresh[is_aside])
                self._journal.open_lane(fresh[is_aside].id)
            names[one.op.seq] = (fresh[is_aside], fresh[is_aside].next_seq())

        def reissued(op: Op) -> Op:
            new, seq = names[op.seq]
            group = names[op.group][1] if op.group in names else op.group
            return msgspec.structs.replace(op, lane=new.id, seq=seq, group=group, origin=op.name)

        if rest:
            self._journal.replace(rest, reissued)

    def _close_adopted(self) -> None:
        """End the lanes that were opened for re-issued ops: nothing of them is pending."""
        for lane in self._adopted:
            deadline = time.monotonic() + self._deadline_s
            self.backend.fence([lane.id], directory=self._journal.directory, deadline=deadline)
            failpoint("adopted-fenced")
            self._journal.close_lane(lane.id)
            self._local_state.forget_lane(lane.id)
            lane.end()
        self._adopted.clear()
        lanes.remove_old_locks(self._data_dir, self._journal.lanes())

    def close(self) -> None:
        """Release the adopted lanes: the next process to replay adopts them again."""
        for lane in self._adopted:
            lane.lock.release()

    def _confirm_applied(self, applied: list[Pending], final: int) -> None:
        """Remove ops that took effect before their lane was closed, once the mirror has them."""
        for collection in sorted({one.op.collection for one in applied}):
            mine = [one for one in applied if one.op.collection == collection]
            for start in range(0, len(mine), MAX_TRANSACTION_OPS):
                page = mine[start : start + MAX_TRANSACTION_OPS]
                observe = partial(self._observe, collection)
                observed = observe(sorted({one.op.key for one in page}))
                watermarks = {**observed.watermarks, page[0].op.lane: final}
                taken = msgspec.structs.replace(observed, watermarks=watermarks)
                self._local_state.take(taken, seen_us=clock.now_us(), again=observe)
        if applied:
            self._journal.remove(applied)

    def _observe(self, collection: str, keys: list[str]) -> Observed:
        return self.backend.observe(
            collection,
            keys,
            directory=self._journal.directory,
            deadline=time.monotonic() + self._deadline_s,
        )


def _aged(op: Op, now_us: int) -> Op:
    """The op with the rest of its time to live; if that is over, what is left of it is a delete."""
    if not op.ttl_us:
        return op
    left_us = op.ttl_us - max(0, now_us - op.at_us)
    if left_us > 0:
        return msgspec.structs.replace(op, ttl_us=left_us)
    seen = "absent" if op.seen == "unknown" else op.seen  # what others wrote meanwhile stays
    return msgspec.structs.replace(op, kind="delete", body=None, pointer="", ttl_us=None, seen=seen)
