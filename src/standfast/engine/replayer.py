"""Replays the journal: fences dead lanes, sends batch by batch, rejects what cannot be applied.

One process of a data directory replays at a time, for all of its lanes: the holder of the drain
lock.  Nothing here decides about modes: a round returns, or raises the error that ended it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Generator, Sequence, Set
from functools import partial
from itertools import islice, pairwise, takewhile
from typing import Literal

import msgspec

from standfast.backends.base import Backend
from standfast.backends.sqlite.errors import mapped
from standfast.engine import clock, lanes
from standfast.engine.activity import Activity
from standfast.engine.journal import Pending
from standfast.engine.lanes import Lane
from standfast.engine.local_state import LocalState
from standfast.engine.replay_batches import next_batch, place_of, rebased, size_of, units
from standfast.engine.set_aside import clear_place
from standfast.engine.time_travel import decide
from standfast.engine.waiting import GRACE_S, Kinds, Waiting
from standfast.errors import ConfigError, DataError, StandfastError, Unavailable
from standfast.limits import (
    MAX_BATCH_OPS,
    MAX_JOURNAL_AGE_S,
    MAX_READ_KEYS,
    MAX_TRANSACTION_OPS,
    MAX_WINDOW_BYTES,
    REPLAY_BYTES_S,
    REPLAY_FIRST_S,
    REPLAY_LONGEST_S,
)
from standfast.ops.batch import Place
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import KEEP_EXPIRY, Applied, Identity, Observed, Op, State
from standfast.system.failpoints import failpoint
from standfast.system.locks import FileLock

logger = logging.getLogger("standfast")

Progress = Literal["empty", "nearly", "waiting"]
"""empty: nothing is pending except what waits (`waiting`); nearly: less than one batch is; waiting:
another process replays."""

#: Shortest time that a transaction gets, however little of the slice is left.
_SHORTEST_S = 0.2
#: How often lanes may take turns in a window before those of dead processes are merged.
_MAX_TURNS = 8
#: How often it is looked whether another thread or process has replayed what callers wait for.
_LOOK_AGAIN_S = 0.005
#: How long the queue is held for the last ops of the journal before the store is DIRECT again: at
#: the least, and the share of the callers' deadline that it never exceeds.
HANDOVER_S = 0.25
HANDOVER_SHARE = 0.6
#: How long the server waits for a lock while the locked row of a batch is searched for.
PROBE_LOCK_TIMEOUT_S = 0.02
#: Unavailable, but the server answers: it may be one write that it fails on.
_FAILS = frozenset(
    {"server_internal", "server_io", "timeout", "contended", "resources", "disk_full", "retry"}
    | {"expired"}
)
#: The transaction took too long, or the connection did not last.
_MISSES = frozenset({"deadline", "connection_lost"})
#: Refusals of a rule of the table, which may refuse one document or all of them.
_RULES = frozenset({"trigger", "constraint"})
#: Faults of the database as a whole.
_OF_ALL = frozenset(
    {"no_database", "no_schema", "schema", "schema_newer", "server_too_old", "server_encoding"}
    | {"tls"}
)


class Replayer:
    """The replay of one data directory into one primary.  Thread-safe: one round at a time."""

    def __init__(
        self,
        backend: Backend,
        local_state: LocalState,
        *,
        deadline_s: float,
        activity: Activity | None = None,
    ) -> None:
        self.backend = backend
        self.waiting = Waiting()
        self.waiting.resume(local_state.journal.held())
        self._local_state = local_state
        self._journal = local_state.journal
        self._data_dir = local_state.data_dir
        self._deadline_s = deadline_s
        self._on_conflict: OnConflict = local_state.options.on_conflict
        self._turn = threading.Lock()
        self._drain_lock = FileLock(local_state.data_dir / "drain.lock")
        self._most = MAX_TRANSACTION_OPS
        self._adopted: list[Lane] = []
        self._held_lanes: dict[str, str] = {}
        self._limit: float | None = None
        self._took_s = 0.0
        self._searched: set[str] = set()
        """Collections that are halved at once when a batch fails: others went first already."""
        self._activity = activity
        self.indirect: set[str] = set()
        """Lanes of this process whose ops all go through the journal."""
        self.replayed_ops = 0
        """Writes that were settled since something began to be pending: how far it has come."""
        self.confirmed = False
        """Whether journals over the age limit may be replayed: the user has confirmed it."""

    def drain(self, *, until: Progress, deadline: float) -> Progress:
        """Replay until nothing, or less than a batch, is pending, or until the deadline.

        No caller waits for a transaction, so it has a limit of its own (R20), and may end after the
        deadline.  Raises the error that ended it: `Unavailable` or `DeadlineExceeded` if the
        primary does not answer.
        """
        return self._drain(until, deadline, ())

    def finish(self, own: Collection[str], *, deadline: float) -> bool:
        """Replay the rest of these lanes, whose callers are held up; whether nothing of it is left.

        Nothing is begun that takes until after the deadline.  What other processes of the directory
        write meanwhile is not waited for (each lane is a stream of its own), nor is what waits here
        for a reason (`waiting`).
        """
        while True:
            if self._is_finished(own):
                return True
            progress = self._drain("empty", deadline, own)
            if progress != "waiting":
                return progress == "empty"
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN_S)  # somebody else replays them

    def _is_finished(self, own: Collection[str]) -> bool:
        """Whether nothing of these lanes is pending, and no lane is left to be fenced (R1, R3)."""
        # What was moved here to other lanes is this process's, too.
        if any(map(self._journal.holds, [*own, *(lane.id for lane in self._adopted)])):
            return False
        first = self._journal.first(1)
        if first and first[0].op.regained:
            return False
        return not any(lanes.is_dead(self._data_dir, lane) for lane in self._journal.lanes())

    def _drain(self, until: Progress, deadline: float, own: Collection[str]) -> Progress:
        wait_s = _LOOK_AGAIN_S if own else max(0.0, deadline - time.monotonic())
        if not self._turn.acquire(timeout=wait_s):
            return "waiting"
        try:
            with mapped(f"locking the replay of {self._data_dir}"):
                clear_place(self._drain_lock.path)
                if not self._drain_lock.acquire():
                    return "waiting"
            failpoint("drain-locked")
            self._limit = max(deadline, time.monotonic() + _SHORTEST_S) if own else None
            try:
                while True:
                    if own and self._is_to_fence():
                        return "nearly"  # which takes several round trips
                    if own and time.monotonic() + self._took_s > deadline:
                        return "nearly"  # one that is cut off would cost the connection
                    self._regain()
                    self._fence_dead_lanes()
                    left = self._round()
                    if left is None or (own and self._is_finished(own)):
                        return "empty"
                    if until == "nearly" and left < MAX_TRANSACTION_OPS and not self._is_slow():
                        return "nearly"
                    if time.monotonic() >= deadline:
                        return "nearly"
            finally:
                self._drain_lock.release()
        finally:
            self._turn.release()

    def is_under_way(self) -> bool:
        """Whether a round is under way, which needs the connection."""
        return self._turn.locked()

    @property
    def handover_s(self) -> float:
        """How long callers are held up for the last ops: a few times what the last batch took."""
        return max(HANDOVER_S, min(3 * self._took_s, HANDOVER_SHARE * self._deadline_s))

    def _is_to_fence(self) -> bool:
        """Whether lanes have to be fenced before anything may go direct (R1)."""
        first = self._journal.first(1)
        return bool(first and first[0].op.regained) or any(self._dead_lanes())

    def _dead_lanes(self) -> Generator[str]:
        """Lanes whose processes are gone, and of which nothing is pending."""
        for lane in self._journal.lanes():
            if lanes.is_dead(self._data_dir, lane) and not self._journal.holds(lane):
                yield lane

    def _is_slow(self) -> bool:
        """Whether what is left takes too long for callers to be held up by it."""
        return self._most < MAX_TRANSACTION_OPS

    # ---- one round

    def _round(self) -> int | None:
        """Send one batch; returns the number of pending ops, None if none of them can be sent."""
        window, batch = self._batch()
        if not window:
            if not self._held_lanes:
                if self.waiting.held:
                    self._journal.set_held({})
                self.waiting.clear()
                self.replayed_ops = 0
                self._searched.clear()
                self._most = MAX_TRANSACTION_OPS
        elif batch is None:  # something was moved out of the way
            return self._journal.totals().ops
        if not batch:
            if self._limit is None:
                self._close_adopted()
            return None
        self._apply_units(batch, lock_timeout_s=None)
        return self._journal.totals().ops

    def _batch(self) -> tuple[list[Pending], list[list[Pending]] | None]:
        """What is looked at, and what of it to send; None instead of that when it has moved.

        What failed before goes last, and not while callers are held up.
        """
        now = time.monotonic()
        doubted = self.waiting.doubted
        held = set(self.waiting.held)
        window = self._first(2 * MAX_TRANSACTION_OPS, MAX_WINDOW_BYTES, held)
        if window:
            self._refuse_old(window[0].op)
            if self._limit is None and self._merge(window):
                return window, None
            if self._separate(window, self._kinds()):
                return window, None
        turns: list[tuple[float, frozenset[str]]] = [(float("-inf"), doubted)]
        if self._limit is None:
            turns = [
                (now - GRACE_S, doubted),
                (now - GRACE_S, frozenset[str]()),
                (now, frozenset()),
            ]
        for at, without in turns:
            held = self.waiting.held_now(at) | without
            window = self._first(2 * MAX_TRANSACTION_OPS, MAX_WINDOW_BYTES, held)
            if window and (batch := self._select(window, held, set(self.waiting.blocked(at)))):
                return window, batch
        return window, []

    def _first(self, limit: int, max_bytes: float, held: Set[str]) -> list[Pending]:
        asleep = [lane for lane, name in self._held_lanes.items() if name in held]
        window = self._journal.first(limit, max_bytes=max_bytes, without=asleep)
        self._local_state.refuse_foreign(one.op for one in window)
        return window

    def _select(
        self, window: list[Pending], held: Set[str], blocked: Set[Place]
    ) -> list[list[Pending]]:
        whole = not window[-1].op.group or not self._journal.first(1, after=window[-1].id)
        found = self._next(window, held, blocked, whole=whole)
        if not whole and (not found or (len(found) == 1 and found[0][-1].op.group)):
            # The group may be longer than the window.
            window = self._first(2 * MAX_BATCH_OPS, float("inf"), held)
            found = self._next(window, held, blocked, whole=len(window) < 2 * MAX_BATCH_OPS)
        return found

    def _next(
        self, window: list[Pending], held: Set[str], blocked: Set[Place], *, whole: bool
    ) -> list[list[Pending]]:
        batch = next_batch(window, blocked=blocked, held=held, max_units=self._most, whole=whole)
        alone = self.waiting.is_tried_alone
        if batch and alone(batch[0]):
            return batch[:1]
        return list(takewhile(lambda unit: not alone(unit), batch))

    def _merge(self, window: list[Pending]) -> bool:
        """Move what dead lanes have written in turns to one lane; whether anything was moved.

        A transaction is of one lane, and ops of one place keep their order: it would end at each
        turn, and a far primary would get a few ops in a round trip.
        """
        owners = [one.op.lane for one in window]
        turns = sum(one != other for one, other in pairwise(owners))
        if turns <= _MAX_TURNS:
            return False
        known = {lane.id for lane in self._adopted}
        dead = [one for one in set(owners) - known if lanes.is_dead(self._data_dir, one)]
        if len(dead) > 1:
            self._adopt(*sorted(dead), kinds=self._kinds())
        return len(dead) > 1

    def _separate(self, window: list[Pending], kinds: Kinds) -> bool:
        """Move what waits to lanes of its own (R21), so that it holds up nothing else.

        Returns whether anything was moved.
        """
        if not kinds:
            return False
        # A lane that goes to the primary directly, too, would pass what waits here.
        only_replayed = self.indirect | {lane.id for lane in self._adopted}
        mixed = [
            lane
            for lane, found in kinds.of_lanes(window).items()
            if len(found) > 1 or ("" not in found and lane not in only_replayed)
        ]
        for lane in mixed:
            self._adopt(lane, kinds=kinds.anew())
        return bool(mixed)

    def _kinds(self) -> Kinds:
        waiting = self.waiting
        return Kinds(set(waiting.held), waiting.blocked(float("-inf")), waiting.doubted)

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
            applied = self._send(batch, lock_timeout_s)
        except StandfastError as error:
            if error.code == "fenced":
                self._adopt(pending[0].op.lane, kinds=self._kinds())
                return False
            if error.code in _MISSES:
                self._missed(batch, error)
            if not self._is_of_one_write(error):
                raise
            if len(batch) > 1:
                probing = error.code == "locked"
                if not probing and self._gives_way(batch, error):
                    return False
                limit_s = PROBE_LOCK_TIMEOUT_S if probing else lock_timeout_s
                return self._halve(batch, lock_timeout_s=limit_s)
            self._stays(batch[0], error)
            return False
        self._most = min(MAX_TRANSACTION_OPS, self._most * 2)
        self._confirm(pending, applied)
        now = time.monotonic()
        for unit in batch:
            mended = self.waiting.gone(unit, applied=not unit[0].op.reject, now=now)
            if mended:
                self._journal.set_held(self.waiting.notes())
            for name in mended:
                # At the level of what it is the end of.
                logger.warning("collection `%s` is not held any more: its writes are sent", name)
        return True

    def _is_of_one_write(self, error: StandfastError) -> bool:
        """Whether an error may be about one write or collection, so that others may go."""
        if isinstance(error, Unavailable):
            return error.code == "locked" or error.code in _FAILS
        return isinstance(error, DataError | ConfigError) and error.code not in _OF_ALL

    def _gives_way(self, batch: list[list[Pending]], error: StandfastError) -> bool:
        """Whether a batch that failed is left for later, so that the others go first (R21).

        The collections in it are set apart, each on a lane of its own; the one that fails then is
        searched, by halving, when nothing else is left to send.
        """
        collections = {one.op.collection for unit in batch for one in unit}
        kinds = Kinds(doubted=collections)
        if len(set(map(kinds.of, batch))) > 1:
            self._adopt(batch[0][0].op.lane, kinds=kinds.anew())
            return True
        if len(collections) > 1 or collections <= self._searched:
            return False
        self._searched |= collections
        self.waiting.doubt(collections, error.message)
        return True

    def _halve(self, batch: list[list[Pending]], *, lock_timeout_s: float | None) -> bool:
        middle = len(batch) // 2
        halves = (batch[:middle], batch[middle:])
        return all(self._apply_units(half, lock_timeout_s=lock_timeout_s) for half in halves)

    def _send(self, batch: list[list[Pending]], lock_timeout_s: float | None) -> Applied:
        now_us = clock.now_us()
        ops = [_aged(one.op, now_us) for unit in batch for one in unit]
        suspect = self.waiting.suspects.get(batch[0][0].id)
        failpoint("replay-before-apply")
        begun = time.monotonic()
        try:
            applied = self.backend.apply(
                ops,
                expected_watermark=self._local_state.mirror.expected_watermark(ops[0].lane),
                deadline=self._within(size_of(ops), misses=suspect.misses if suspect else 0),
                directory=self._journal.directory,
                on_conflict=self._on_conflict,
                lock_timeout_s=lock_timeout_s,
            )
        except StandfastError:
            # At least: callers are not held up again for what is cut off then.
            self._took_s = max(self._took_s, time.monotonic() - begun)
            raise
        self._took_s = time.monotonic() - begun
        failpoint("replay-applied")
        return applied

    def _within(self, size: int = 0, *, misses: int = 0) -> float:
        """When a transaction must have ended (R20): more time for more bytes, and after a miss."""
        if self._limit is not None:
            return max(self._limit, time.monotonic() + _SHORTEST_S)
        limit_s = max(self._deadline_s, REPLAY_FIRST_S) + size / REPLAY_BYTES_S
        return time.monotonic() + min(REPLAY_LONGEST_S, limit_s * 2 ** min(misses, 20))

    def _confirm(self, pending: Sequence[Pending], applied: Applied) -> None:
        """Update the mirror first, then the journal: readers go the other way and miss nothing."""
        versions = {outcome.seq: outcome.version for outcome in applied.outcomes}
        refused = {outcome.seq for outcome in applied.outcomes if outcome.status == "refused"}
        done = [one for one in pending if one.op.seq not in refused]
        if self._local_state.history is None:  # this batch has made the schema
            server_identity = self.backend.server_identity(self._within())
            self._local_state.recognise(server_identity)
        # Refused before it was acknowledged, by a lost reply: now it is sent like any other. First,
        # since the mirror will have passed its first name: in between nobody would see it.
        self._reissue([one for one in pending if one.op.seq in refused], Kinds(), {})
        self._local_state.confirm(
            applied,
            lane=pending[0].op.lane,
            retained=[(one.op, versions.get(one.op.seq)) for one in done],
        )
        self._journal.remove(done)
        self.replayed_ops += len(done)
        self._report(done, applied)

    def _report(self, done: Sequence[Pending], applied: Applied) -> None:
        """Count what was sent, and say which of it was rejected."""
        rejected = {one.seq: one for one in applied.outcomes if one.status == "rejected"}
        if self._activity is not None:
            self._activity.sent(len(done))
            for op in (one.op for one in done if one.op.seq in rejected):
                self._activity.rejected(op, op.reject or rejected[op.seq].code)
        if rejected:
            logger.warning(
                "%d replayed write(s) were rejected, and are conflicts: standfast conflicts list",
                len(rejected),
            )

    # ---- what does not go

    def _missed(self, batch: list[list[Pending]], error: StandfastError) -> None:
        """A transaction took too long: the next is smaller, or has more time if it was one unit."""
        if self._limit is not None:
            return
        if len(batch) > 1:
            self._most = max(1, min(self._most, len(batch)) // 2)
        else:
            self.waiting.suspect(batch[0], error, time.monotonic()).misses += 1

    def _stays(self, unit: list[Pending], error: StandfastError) -> None:
        """One unit does not go: it waits, or is marked, so that the next round records a conflict.

        A fault of the table is never a reason to reject; one of the document is, at once; where
        that is not known, it is after a number of attempts.
        """
        now = time.monotonic()
        if unit[0].op.reject:
            raise error  # not even a conflict can be recorded: they stay, and the round is repeated
        if error.code == "locked":
            self.waiting.lock(unit, now)
        elif isinstance(error, DataError) and self._is_of_document(unit, error):
            self._reject(unit, error)
        elif isinstance(error, ConfigError) and len({one.op.collection for one in unit}) == 1:
            self._hold(unit[0].op.collection, error)
        else:
            suspect = self.waiting.suspect(unit, error, now)
            if isinstance(error, ConfigError):
                return
            suspect.attempts += 1
            self.waiting.doubt(suspect.collections, error.message)
            failing = [name for name in suspect.collections if self.waiting.all_fail(name)]
            for name in failing:
                self._hold(name, error)
            if not failing and self.waiting.is_hopeless(suspect):
                self._reject(unit, error)

    def _is_of_document(self, unit: list[Pending], error: DataError) -> bool:
        """Whether the document cannot be stored: not a rule that may refuse all of them."""
        if error.code not in _RULES:
            return True
        return self.waiting.is_refused(unit, self.waiting.suspects.get(unit[0].id))

    def _hold(self, collection: str, error: StandfastError) -> None:
        if self.waiting.hold(collection, error, time.monotonic()):
            self._journal.set_held(self.waiting.notes())
            logger.warning("collection `%s` is held: %s (%s)", collection, error, error.hint)

    def _reject(self, unit: list[Pending], error: StandfastError) -> None:
        """Mark ops that the primary refuses, so that the next round records them as conflicts.

        What was written after them here is based on what was there without them, from now on.
        """
        self.waiting.gone(unit, applied=False, now=time.monotonic())
        names = {(one.op.lane, one.op.seq) for one in unit}
        changed: dict[Identity, Op] = {}
        for place in set(map(place_of, unit)):
            changed |= rebased(self._journal.at(*place), names)
        behind = self._journal.everything() if changed else ()
        behind = [one for one in behind if (one.op.lane, one.op.seq) in changed]

        def change(op: Op) -> Op:
            return changed.get((op.lane, op.seq)) or msgspec.structs.replace(op, reject=error.code)

        self._journal.replace([*unit, *behind], change)

    # ---- what a failover has lost (R13-R16)

    def _regain(self) -> None:
        """Decide what becomes of writes that the primary confirmed and lost, before any is sent.

        They are the first of the journal.  A fence of their lanes says which ones it has all the
        same; the others move to a fresh lane, under their first names.
        """
        finals: dict[str, int] = {}
        fresh = dict[str, Lane]()
        while page := self._regained_page():
            lanes_of = {one.op.lane for one in page} - finals.keys()
            if lanes_of:
                finals |= self.backend.fence(
                    sorted(lanes_of), directory=self._journal.directory, deadline=self._within()
                )
            there = [one for one in page if one.op.seq <= finals[one.op.lane]]
            lost = [one for one in page if one.op.seq > finals[one.op.lane]]
            decided = decide([one.op for one in lost], self._found_at(lost))
            anew = [one._replace(op=op) for one, op in zip(lost, decided, strict=True)]
            self._reissue(anew, Kinds(), fresh)
            self._journal.remove(there, durable=True)
            failpoint("regained-page")

    def _regained_page(self) -> list[Pending]:
        """The next of them, whole batches only unless one is larger than a page."""
        window = self._journal.first(MAX_BATCH_OPS, max_bytes=MAX_WINDOW_BYTES)
        page = list(takewhile(lambda one: one.op.regained is not None, window))
        cut = units(page)
        if len(cut) > 1 and len(page) == len(window):
            cut.pop()
        return [one for unit in cut for one in unit]

    def _found_at(self, pending: list[Pending]) -> dict[Place, State]:
        """What the primary holds now at the places of these ops."""
        keys: dict[str, set[str]] = {}
        for one in pending:
            keys.setdefault(one.op.collection, set()).add(one.op.key)
        states: dict[Place, State] = {}
        for collection, wanted in keys.items():
            each = iter(sorted(wanted))
            while page := list(islice(each, MAX_READ_KEYS)):
                found = self._observe(collection, page, size=0).states
                states |= {(one.collection, one.key): one for one in found}
        return states

    # ---- lanes of other processes

    def _fence_dead_lanes(self) -> None:
        """Fence the lanes whose processes are gone (R1): none of their ops can commit afterwards.

        A lane is fenced only when none of its ops is pending: they are replayed under their own
        names, so that another copy of the directory, which does the same, applies nothing twice.
        """
        for lane in self._dead_lanes():
            self._adopt(lane)

    def _adopt(self, *closed: str, kinds: Kinds | None = None) -> None:
        """Fence lanes, and re-issue their unapplied ops on new lanes, in the same order.

        The fence returns the final watermarks, so it is certain which ops took effect.  If the
        process is killed anywhere in here, the next replayer does it again.  What waits gets
        lanes of its own, by `kinds`.
        """
        failpoint("fence-before")
        directory = self._journal.directory
        finals = self.backend.fence(closed, directory=directory, deadline=self._within())
        failpoint("fence-done")
        refused: dict[str, set[int]] = {}
        fresh, kinds = dict[str, Lane](), kinds or Kinds()
        for page in self._pages(closed):
            rest: list[Pending] = []
            settled: dict[str, list[Pending]] = {}
            for one in page:
                lane, seq = one.op.lane, one.op.seq
                if seq <= finals[lane] and lane not in refused:
                    refused[lane] = self._refused(lane)
                if seq > finals[lane] or seq in refused[lane]:
                    rest.append(one)
                else:
                    settled.setdefault(lane, []).append(one)
            for lane, applied in settled.items():
                self._confirm_applied(applied, finals[lane])
            self._reissue(rest, kinds, fresh)
        failpoint("fence-reissued")
        for lane in closed:
            if self._journal.close_lane(lane):
                self._local_state.forget_lane(lane)
                lanes.forget(self._data_dir, lane)

    def _pages(self, of: Collection[str]) -> Generator[list[Pending]]:
        """The pending ops of these lanes in order, in pages that cut no batch."""
        page: list[Pending] = []
        size = 0
        for one in self._journal.everything():
            if one.op.lane not in of:
                continue
            full = len(page) >= MAX_TRANSACTION_OPS or size > MAX_WINDOW_BYTES
            if full and len(units([page[-1], one])) == 2:
                yield page
                page, size = [], 0
            page.append(one)
            size += size_of([one.op])
        if page:
            yield page

    def _refused(self, lane: str) -> set[int]:
        """The ops that the lane's watermark has passed although they did not take effect (R18)."""
        outcomes = self.backend.outcomes(lane, deadline=self._within())
        return {outcome.seq for outcome in outcomes if outcome.status == "refused"}

    def _reissue(self, rest: Sequence[Pending], kinds: Kinds, fresh: dict[str, Lane]) -> None:
        """Give ops new names in the same order, on a fresh lane for each kind."""
        moved: dict[int, tuple[Lane, int, int]] = {}
        for unit in units(rest):
            kind = kinds.of(unit)
            lane = fresh.get(kind) or fresh.setdefault(kind, self._open_lane(kind))
            seqs = [lane.next_seq() for _ in unit]
            for one, seq in zip(unit, seqs, strict=True):
                moved[one.id] = (lane, seq, seqs[0] if one.op.group else 0)

        def reissued(pending: Pending) -> Op:
            op, (lane, seq, group) = pending.op, moved[pending.id]
            return msgspec.structs.replace(op, lane=lane.id, seq=seq, group=group, origin=op.name)

        if rest:
            named = {(one.op.lane, one.op.seq): reissued(one) for one in rest}
            self._journal.replace(rest, lambda op: named[op.lane, op.seq])

    def _open_lane(self, kind: str) -> Lane:
        lane = Lane(self._data_dir)
        # Its lock is held from here on: a lane without a holder would be adopted again.
        self._adopted.append(lane)
        self._journal.open_lane(lane.id)
        if kind.startswith("held "):
            self._held_lanes[lane.id] = kind.removeprefix("held ")
        return lane

    def _close_adopted(self) -> None:
        """End the lanes that were opened for re-issued ops and of which nothing is pending."""
        for lane in [one for one in self._adopted if not self._journal.holds(one.id)]:
            directory = self._journal.directory
            self.backend.fence([lane.id], directory=directory, deadline=self._within())
            failpoint("adopted-fenced")
            self._journal.close_lane(lane.id)
            self._local_state.forget_lane(lane.id)
            lane.end()
            self._adopted.remove(lane)
            self._held_lanes.pop(lane.id, None)
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
                observe = partial(self._observe, collection, size=size_of([one.op for one in page]))
                observed = observe(sorted({one.op.key for one in page}))
                watermarks = {**observed.watermarks, page[0].op.lane: final}
                taken = msgspec.structs.replace(observed, watermarks=watermarks)
                self._local_state.take(taken, seen_us=clock.now_us(), again=observe)
        if applied:
            self._journal.remove(applied)

    def _observe(self, collection: str, keys: list[str], *, size: int) -> Observed:
        return self.backend.observe(
            collection, keys, directory=self._journal.directory, deadline=self._within(size)
        )


def _aged(op: Op, now_us: int) -> Op:
    """The op with the rest of its time to live; if that is over, what is left of it is a delete."""
    if not op.ttl_us or op.ttl_us == KEEP_EXPIRY:
        return op
    left_us = op.ttl_us - max(0, now_us - op.at_us)
    if left_us > 0:
        return msgspec.structs.replace(op, ttl_us=left_us)
    if op.kind == "touch":  # the document ends at once, and one that has ended is not put back
        return msgspec.structs.replace(op, ttl_us=1, seen="unknown", base=None)
    seen = "absent" if op.seen == "unknown" else op.seen  # what others wrote meanwhile stays
    return msgspec.structs.replace(op, kind="delete", body=None, pointer="", ttl_us=None, seen=seen)
