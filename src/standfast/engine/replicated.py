"""The engine of a store whose primary is elsewhere: its threads, its local files, its calls.

A writer thread owns the mode and every write, a reader asks the primary, a replayer drains the
journal, a connector makes connections.  Local reads run in the caller's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from standfast.backends.base import Backend
from standfast.engine.activity import Activity, Report
from standfast.engine.background import StateNotifier, Timer
from standfast.engine.connector import Connector
from standfast.engine.dropping import Drop
from standfast.engine.full_scan import FullScan, Pages, local_pages, not_complete
from standfast.engine.health import Health, health_of, health_without_files, with_activity
from standfast.engine.interfaces import EngineContext, ReadResult
from standfast.engine.journal import FILE as JOURNAL_FILE
from standfast.engine.lanes import Lane
from standfast.engine.local_state import LocalState
from standfast.engine.overlay import View
from standfast.engine.promise import Promise
from standfast.engine.reader import Question, Reader
from standfast.engine.replayer import Replayer
from standfast.engine.reports import ReportFile
from standfast.engine.scanning import Scanning, completed
from standfast.engine.state_machine import (
    Action,
    Event,
    Lost,
    Mode,
    RoundFailed,
    Situation,
    begin,
    failure_of,
    means_away,
    why_not_served,
)
from standfast.engine.trimming import Trimming
from standfast.engine.write_queue import Result, Submission, Wakeup, WriteQueue, closed
from standfast.engine.writer import Writer
from standfast.errors import StandfastError, Unavailable
from standfast.limits import (
    CONNECT_DEADLINE_S,
    DDL_DEADLINE_S,
    LOCAL_GRACE_S,
    SNAPSHOT_PAUSE_S,
)
from standfast.ops.types import Op
from standfast.system.failpoints import failpoint
from standfast.system.supervision import LONGEST_PAUSE_S, PROCESS, Supervisor

#: How long one slice of the replay lasts before it is looked whether the store is to be closed.
SLICE_S = 2.0
#: Pause before another look while another process replays, or a row is locked.
WAITING_PAUSE_S = 0.02
LOCKED_PAUSE_S = 0.2
#: Pause between two looks at the reads that wait behind a reply that is still arriving.
LATE_PAUSE_S = 0.05


class Replaying:
    """The thread that replays, and reports to the writer how far it has come."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self.timer = Timer("standfast-replayer", self._slice, context.supervisor)

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
            context.activity.failed(error)
            # One transaction that took too long, or whose connection did not last, is no outage:
            # only that a fresh connection cannot be made is (R20).
            until = time.monotonic() + CONNECT_DEADLINE_S
            again = means_away(error) and context.reconnect(context.replayer.backend, until)
            context.post(RoundFailed(error.code) if again else failure_of(error))
            if context.mode is Mode.DIRECT:
                self.timer.schedule(time.monotonic() + LOCKED_PAUSE_S)
            return
        if progress == "waiting":
            self.timer.schedule(time.monotonic() + WAITING_PAUSE_S)
        elif draining:
            context.write_queue.post(Wakeup("nearly"))
        elif context.local_state.journal.totals().ops:
            self.timer.schedule(time.monotonic() + LOCKED_PAUSE_S)


logger = logging.getLogger("standfast")
T = TypeVar("T")

#: How long `open` waits for the primary before it goes on without.
OPEN_GRACE_S = 0.5
#: How long it waits for each thread that it has started, when it fails.
ABANDON_S = 0.5


class ReplicatedEngine:
    """One open store.  Thread-safe.

    `start` tries to reach the primary once, within the deadline, and continues without it unless
    `fallback` is `off`.
    """

    def __init__(self, primary: Backend, local_state: LocalState, *, deadline_s: float) -> None:
        self.primary = primary
        self.local_state = local_state
        self.deadline_s = deadline_s
        self.call_timeout_s = deadline_s + LOCAL_GRACE_S
        self.write_queue = WriteQueue()
        self.situation: Situation = begin("not connected yet")
        self.supervisor = Supervisor()
        self.notifier = StateNotifier(self.supervisor)
        self._report_file = ReportFile(local_state.data_dir)
        self.activity = Activity(
            self._report_file.id,
            deadline_s=deadline_s,
            display=primary.display,
            kept_in=str(local_state.data_dir.absolute() / JOURNAL_FILE),
            fallback=local_state.options.fallback,
            notify=self.notifier.notify,
        )
        self._held: StandfastError | None = None
        self._pending_seen = 0
        self._house_kept_at = float("-inf")
        self._closed = False
        self._changed = threading.Condition()
        self.replayer = Replayer(
            primary.new_handle(), local_state, deadline_s=deadline_s, activity=self.activity
        )
        self._writing_backend = primary.new_handle()
        self._writer = Writer(self, self._writing_backend, local_state)
        self._reader = Reader(self, primary.new_handle(), local_state)
        self._replaying = Replaying(self)
        self._housekeeping = Timer("standfast-housekeeper", self._keep_house, self.supervisor)
        self._trimming = Trimming(
            self.replayer.backend,
            lambda: self.mode,
            self.supervisor,
            replaying=self.replayer.is_under_way,
        )
        self._connector = Connector(
            self, [self.replayer.backend, self._writing_backend, self._reader.primary]
        )
        self._scanning = Scanning(
            primary,
            self._connector.ensure,
            self.supervisor,
            deadline_s=deadline_s,
            max_connections=local_state.options.max_connections,
        )

    def start(self) -> None:
        """Start the threads, and wait for the primary, but not for long.

        Raises what the primary answered when that was a refusal, or, with `fallback="off"`, that
        there is no connection.  Then, and after any other error, nothing of it is left running.
        """
        try:
            self._start()
        except BaseException:
            self._abandon()
            raise

    def _start(self) -> None:
        off = self.local_state.options.fallback == "off"
        failure = self._connector.begin(CONNECT_DEADLINE_S if off else self.deadline_s)
        if failure is not None and not self._works_without(failure):
            raise failure
        self._report_file.begin()
        self._report_file.write(self.report(), -2)
        self._housekeeping.schedule(time.monotonic() + SNAPSHOT_PAUSE_S)
        self._trimming.start()
        for thread in self._threads():
            if not thread.ident:
                thread.start()
        until = time.monotonic() + OPEN_GRACE_S
        with self._changed:
            while failure is None and self.mode is not Mode.DIRECT and time.monotonic() < until:
                self._changed.wait(until - time.monotonic())

    def _works_without(self, failure: StandfastError) -> bool:
        """Whether the store opens although there is no connection."""
        if failure.code in ("other_database", "went_back"):
            return True  # held: what is written waits for the user's decision
        if not isinstance(failure, Unavailable) or self.local_state.options.fallback == "off":
            return False
        # Who was let in before meets an outage; who never was, a mistake.
        refused = failure.code in ("auth", "not_postgresql")
        return not refused or self.local_state.history is not None

    def _threads(self) -> list[threading.Thread]:
        parts = (self._writer, self._replaying.timer, self._reader, self._connector.timer)
        parts = (*parts, self._housekeeping, self._trimming.timer)
        return [part.thread for part in parts]

    def _keep_house(self) -> None:
        now = time.monotonic()
        if self._reader.answer_late():
            self._housekeeping.schedule(now + LATE_PAUSE_S)
        next_at = self._house_kept_at + SNAPSHOT_PAUSE_S
        if now < next_at:
            return self._housekeeping.schedule(next_at)
        self._house_kept_at = now
        try:
            self._report_file.write(self.report(), self.activity.version)
            self.local_state.keep_house(direct=self.mode is Mode.DIRECT)
        finally:
            self._housekeeping.schedule(time.monotonic() + SNAPSHOT_PAUSE_S)

    # ---- the hub

    def thread_failed(self, error: BaseException) -> None:
        """Make sure that the way back is tried, whatever the thread had been about to schedule."""
        soon = time.monotonic() + LONGEST_PAUSE_S
        if self.mode is Mode.JOURNALING:
            self._connector.timer.schedule(soon)
        else:
            self._replaying.timer.schedule(soon)

    @property
    def mode(self) -> Mode:
        return self.situation.mode

    @property
    def sole_writer(self) -> bool:
        """Whether this data directory alone writes, so that what is known here decides."""
        return self.local_state.options.sole_writer

    def post(self, event: Event) -> None:
        self.write_queue.post(event)

    def situation_changed(self, before: Situation, actions: tuple[Action, ...]) -> None:
        now = self.situation
        pending = self._pending() if "announce" in actions else 0  # before any of it is sent
        if now.mode is Mode.DIRECT and before.mode is not Mode.DIRECT:
            self._reader.suspect = False
        if now.mode is Mode.JOURNALING:
            self._connector.timer.schedule(now.connect_at or time.monotonic())
        if "drain" in actions or (now.drain_at and now.drain_at != before.drain_at):
            self._replaying.timer.schedule(now.drain_at or time.monotonic())
        if "announce" in actions:
            self.activity.changed(now, pending=pending)
            self.notifier.announce(before.mode, now.mode, now.cause, pending)
        with self._changed:
            self._changed.notify_all()

    def recognise(self, backend: Backend) -> None:
        server_identity = backend.server_identity(time.monotonic() + self.deadline_s)
        self.local_state.recognise(server_identity)

    def hold_off(self, error: StandfastError | None) -> None:
        self._held = error
        if error is not None:
            self.local_state.note_back(error.message)

    def refuse_held(self) -> None:
        if self._held is not None and self.local_state.journal.totals().ops:
            raise self._held

    def away(self, op: Op) -> Unavailable:
        return Unavailable(
            f"{op.kind} of key {op.key!r} in `{op.collection}`: {why_not_served(self.situation)};"
            " nothing was written",
            code="unavailable",
            hint="try again later; it was opened with"
            f" fallback={self.local_state.options.fallback!r}",
        )

    def replay_soon(self) -> None:
        self._replaying.timer.schedule(time.monotonic())

    def end_lane(self, backend: Backend, lane: Lane) -> None:
        try:
            if self.local_state.journal.holds(lane.id):
                lane.lock.release()  # something of it is pending: whoever replays adopts it
                return
            if lane.expected_watermark or lane.seq:
                deadline = time.monotonic() + self.deadline_s
                directory = self.local_state.journal.directory
                backend.fence([lane.id], directory=directory, deadline=deadline)
                failpoint("lane-end-fenced")
            # Not before: a lane that the journal does not know is fenced by nobody.
            self.local_state.journal.close_lane(lane.id)
            self.local_state.forget_lane(lane.id)
        except StandfastError:
            lane.lock.release()  # the next one to open the directory fences it
            return
        lane.end()

    def reconnect(self, backend: Backend, deadline: float) -> bool:
        return not self._closed and self._connector.renew(backend, deadline)

    def server_now_us(self) -> int:
        """What the server's clock shows now, as last measured."""
        return self.local_state.server_now_us()

    def connect_soon(self) -> None:
        """Try to reach the primary now, whatever pause there was to be."""
        self._connector.timer.schedule(time.monotonic())

    def answer_late_soon(self) -> None:
        self._housekeeping.schedule(time.monotonic())

    def primary_missed(self, cause: str) -> None:
        self.post(Lost(cause))

    def read_locally(self, collection: str, key: str) -> ReadResult:
        if self.local_state.options.fallback == "off":
            raise Unavailable(
                f"key {key!r} in `{collection}`: {why_not_served(self.situation)}",
                hint="try again later; the store was opened with fallback='off'",
            )
        view = self.local_state.read_local(collection, key)
        self.activity.read(view.source)
        return ReadResult(view, False)

    # ---- calls

    def submit(
        self,
        ops: Sequence[Op],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        provisional: bool = False,
        read_modify_write: bool = False,
        independent: bool = False,
    ) -> Promise[list[Result]]:
        """Write the ops of one call, which are acknowledged together: now, or when it is its turn.

        A thread that is the only one to write does it itself.
        """
        promise: Promise[list[Result]] = Promise(loop)
        self._trimming.wrote(ops)
        size = sum([len(op.body or "") for op in ops])
        deadline = time.monotonic() + self.deadline_s
        submission = Submission(
            promise, ops, deadline, size, provisional, read_modify_write, independent
        )
        if loop is not None or not self._writer.lead(submission):
            self.write_queue.submit(submission)
        return promise

    def read_one(
        self,
        collection: str,
        key: str,
        *,
        local: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> ReadResult | Promise[ReadResult]:
        """Read one place: at once from the local files, or from the primary as a promise."""
        self.require_open()
        if self.mode is not Mode.DIRECT or self._reader.suspect:
            return self._read_here(collection, key, loop)
        if not self._writer.journal_empty and self.local_state.journal.is_at(collection, key):
            return self._read_here(collection, key, loop)
        if local:
            try:
                # Nothing is pending on it: that was just seen, without looking into the journal.
                view = self.local_state.read_mirror(collection, key)
                self.activity.read(view.source)
                return ReadResult(view, False)
            except StandfastError as error:
                if error.code not in ("not_mirrored", "too_stale"):
                    raise
        promise: Promise[ReadResult] = Promise(loop)
        deadline = time.monotonic() + self.deadline_s
        question = Question(promise, collection, key, deadline)
        if loop is not None or not self._reader.lead(question):
            self._reader.ask(question)
        return promise

    def _read_here(
        self, collection: str, key: str, loop: asyncio.AbstractEventLoop | None
    ) -> ReadResult | Promise[ReadResult]:
        """Read from the local files; by the reader's thread where an event loop would wait long."""
        if loop is None or self.local_state.is_quick(collection, key):
            return self.read_locally(collection, key)
        promise: Promise[ReadResult] = Promise(loop)
        self._reader.ask(Question(promise, collection, key, float("inf"), local=True))
        return promise

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
        self.require_open()
        if self._is_away():
            raise not_complete(what, why_not_served(self.situation))

        def checked(backend: Backend, deadline: float) -> T:
            self._wait_direct(deadline, what)
            return work(backend, deadline)

        return self._scanning.run(checked, loop=loop, long_s=self.deadline_s if is_long else None)

    def drop(
        self,
        collection: str,
        *,
        if_empty: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Promise[bool]:
        """Drop a collection on the primary, within a limit of its own; whether there was one."""
        self.require_open()
        what = f"drop of `{collection}`"
        if self._is_away():
            raise not_complete(what, why_not_served(self.situation))
        drop = Drop(collection, if_empty=if_empty, local_state=self.local_state)

        def dropping(backend: Backend, deadline: float) -> bool:
            self._wait_direct(min(deadline, time.monotonic() + self.deadline_s), what)
            return drop(backend, deadline)

        def missed(error: Unavailable) -> bool:
            raise drop.explained(error)

        return self._scanning.run(dropping, loop=loop, missed=missed, long_s=DDL_DEADLINE_S)

    def full_scan(self, collection: str) -> FullScan | None:
        """A scan of all of it that leaves the mirror with the whole collection."""
        return FullScan(self.local_state, collection)

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
        """Read a collection on the primary, or in the mirror while it is away.

        Not there with `by_primary`: `Unavailable("not_mirrored")`.
        """
        self.require_open()

        def mirrored() -> T:
            why = why_not_served(self.situation)
            if by_primary or self.local_state.options.fallback == "off":
                raise not_complete(what, why)
            pages = local_pages(self.local_state, collection, what=what, why=why)
            return work(pages, float("inf"))

        def checked(backend: Backend, deadline: float) -> T:
            self._wait_direct(deadline, what)
            return work(backend if full_scan is None else full_scan.over(backend), deadline)

        def missed(error: Unavailable) -> T:
            if means_away(error):
                self.primary_missed(error.code)
            elif error.code != "not_mirrored" and not self._is_away():
                raise error
            return mirrored()

        if self._is_away():
            return completed(mirrored, loop=loop)
        return self._scanning.run(checked, loop=loop, missed=missed)

    def _is_away(self) -> bool:
        return self.mode is Mode.JOURNALING or self._reader.suspect

    def _wait_direct(self, deadline: float, what: str) -> None:
        with self._changed:
            while self.mode is not Mode.DIRECT and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())
        if self.mode is not Mode.DIRECT:
            raise not_complete(what, why_not_served(self.situation))

    def pending_views(self, collection: str) -> dict[str, View]:
        """The documents of a collection on which something is pending, as this directory sees them.

        Empty while everything is on the primary.
        """
        if self._writer.journal_empty:
            return {}
        keys = self.local_state.journal.keys(collection)
        return {key: self.local_state.view(collection, key) for key in keys}

    def flush(self, timeout_s: float) -> int:
        """Wait until what is pending now is on the primary; returns how many writes still are not.

        What comes meanwhile, perhaps from other processes of the directory, is not waited for.
        """
        journal = self.local_state.journal
        until = time.monotonic() + timeout_s
        last = journal.newest()
        while journal.is_pending_through(last) and time.monotonic() < until:
            self.replay_soon()
            with self._changed:
                self._changed.wait(min(0.05, max(0.0, until - time.monotonic())))
        return journal.totals().ops if journal.is_pending_through(last) else 0

    def require_open(self) -> None:
        """Raise when the store was closed."""
        if self._closed:
            raise closed()

    def close(self, timeout_s: float) -> int:
        """Stop within the timeout and the deadline; returns how many writes are still pending.

        They are safe in the journal, and are replayed by whoever opens the directory next.  -1: the
        local files cannot be read now.
        """
        with self._changed:
            if self._closed:
                return 0
            self._closed = True
        failpoint("close-begun")
        until = time.monotonic() + self.deadline_s + timeout_s
        if self.mode is not Mode.JOURNALING:
            with contextlib.suppress(StandfastError):  # without its files it is closed all the same
                self.flush(timeout_s)
        failpoint("close-flushed")
        self._end_threads()
        if self.mode is Mode.JOURNALING:
            self._close_backends()  # a connection that is being made is given up
        for thread in self._threads():
            thread.join(max(0.0, until - time.monotonic()))
        failpoint("close-stopped")
        if self.mode is Mode.DIRECT and self._writer.stopped:
            self._writer.close_lanes()
        left = self._left()
        self._report_file.write(self.report(closed=True), -2)
        self._report_file.end()
        self._close_files()
        failpoint("close-done")
        self.notifier.close()
        if left > 0:
            logger.warning(
                "%d acknowledged writes are still in the journal in %s; they are replayed when"
                " the store is opened again",
                left,
                self.local_state.data_dir.absolute(),
            )
        return left

    def _left(self) -> int:
        """How many writes are pending; -1, with a warning, where the files cannot be read."""
        try:
            return self.local_state.journal.totals().ops
        except StandfastError as error:
            logger.warning(
                "it cannot be read how many acknowledged writes wait (%s); those that do are"
                " replayed when the store is opened again",
                error.message,
            )
            return -1

    def _pending(self) -> int:
        """How many writes are pending, as last seen while the files cannot be read."""
        with contextlib.suppress(StandfastError):
            self._pending_seen = self.local_state.journal.totals().ops
        return self._pending_seen

    def _end_threads(self) -> None:
        """Let each thread end after what it is doing."""
        self.write_queue.close()
        for part in (
            *(self._replaying.timer, self._connector.timer),
            *(self._reader, self._housekeeping, self._trimming.timer),
        ):
            part.close()

    def _abandon(self) -> None:
        """It could not be opened: end what was started, and release what was taken."""
        self._closed = True
        self._end_threads()
        self._close_backends()  # a connection that is being made is given up
        for thread in self._threads():
            if thread.ident:
                thread.join(ABANDON_S)
        self._report_file.end()
        self._close_files()

    def _close_files(self) -> None:
        if self._writer.stopped:
            self._writer.release_locks()
        self.replayer.close()
        self._scanning.close()
        self._close_backends()
        self.local_state.close()

    def _close_backends(self) -> None:
        for backend in (self.primary, self._writing_backend, self._reader.primary):
            backend.close()
        self.replayer.backend.close()

    def health(self) -> Health:
        """How the store is doing, from local knowledge."""
        self.require_open()
        primary = self.primary.display
        try:
            health = health_of(
                self.local_state,
                self.situation,
                primary=primary,
                lane=self._writer.lane.id,
                waiting=self.replayer.waiting.sentences(),
                troubles=[*self.supervisor.troubles(), *PROCESS.troubles()],
                replayed_ops=self.replayer.replayed_ops,
            )
        except StandfastError as error:
            return health_without_files(self.local_state, self.situation, error, primary=primary)
        return with_activity(health, self.report())

    def report(self, *, closed: bool = False) -> Report:
        """What this store has done since it was opened, for other processes and for metrics."""
        return self.activity.report(
            self.situation,
            lane=self._writer.lane.id,
            pending=self._pending(),
            problems=tuple(self.replayer.waiting.sentences()),
            closed=closed,
        )

    def is_pending(self, lane: str, seq: int) -> bool:
        """Whether the op that a receipt names still waits in the journal."""
        return self.local_state.journal.has(lane, seq)

    def discarded_in(self, lane: str, seq: int) -> str:
        """The file with that op if it was given up before it was sent; else empty."""
        return self.local_state.discarded_in(lane, seq)
