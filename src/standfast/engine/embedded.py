"""The engine of a local primary: SQLite in this process's hands, or memory.  Nothing to hold.

Whoever gets the lock commits what all callers are waiting for, in one transaction: no thread stands
between a lone caller and its disk, and many callers share one flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import msgspec

from standfast.backends.base import Backend
from standfast.engine import clock
from standfast.engine.activity import Activity, Report
from standfast.engine.background import StateNotifier
from standfast.engine.dropping import Drop
from standfast.engine.full_scan import FullScan, Pages
from standfast.engine.health import Health, with_activity
from standfast.engine.interfaces import ReadResult
from standfast.engine.overlay import View
from standfast.engine.promise import Promise, complete
from standfast.engine.reserve import Reserve
from standfast.engine.scanning import completed
from standfast.engine.state_machine import Mode, Situation
from standfast.engine.write_queue import Result, closed, on_primary
from standfast.errors import DeadlineExceeded, StandfastError, Unavailable
from standfast.limits import LOCAL_GRACE_S, MAX_TRANSACTION_OPS
from standfast.ops.types import Applied, Op, Row
from standfast.system.supervision import PROCESS

T = TypeVar("T")

#: A lost connection is tried once more, with the same lane and sequences: the gate makes it safe.
_TRIED_AGAIN = ("connection", "connection_lost", "shutdown")

#: What the reserve's shortage means here.
_ON_A_FULL_DISK = "reading works, and deleting while there is room for that"

_Waiting = tuple[Promise[list[Result]], Sequence[Op], float]


class EmbeddedEngine:
    """One lane of ops to one backend.  Thread-safe: one transaction at a time, in order."""

    call_timeout_s = 60.0 + LOCAL_GRACE_S

    def __init__(
        self,
        backend: Backend,
        *,
        reserve: Reserve | None = None,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`reserve` makes room for deletes on a full disk, and `make_room` what the backend can."""
        self.primary = backend
        self._reserve = reserve
        self._reserved = reserve is None
        self._make_room = make_room
        self.situation = Situation(Mode.DIRECT, "the primary is local")
        self.notifier = StateNotifier(PROCESS)
        self.activity = Activity(
            str(uuid.uuid4()),
            deadline_s=0.0,  # calls have none: in its place stands when they were made
            display=backend.display,
            notify=self.notifier.notify,
        )
        self.lane = str(uuid.uuid4())
        self._seq = 0
        self._watermark = 0
        self._lock = threading.Lock()
        self._pool_lock = threading.Lock()  # an event loop must not wait for a commit
        self._waiting: deque[_Waiting] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def sole_writer(self) -> bool:
        """The primary is always there to decide."""
        return False

    @property
    def mode(self) -> Mode:
        """Always DIRECT."""
        return self.situation.mode

    # ---- writing

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
        self.require_open()
        promise: Promise[list[Result]] = Promise(loop)
        self._waiting.append((promise, ops, time.monotonic()))
        if loop is None:
            self._combine(promise)
        else:
            self._executor().submit(self._combine, promise)
        return promise

    def _executor(self) -> ThreadPoolExecutor:
        with self._pool_lock:
            self.require_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="standfast-writer")
            return self._pool

    def _combine(self, promise: Promise[list[Result]]) -> None:
        """Commit what waits, unless another caller has done so in the meantime."""
        if promise.done:
            return
        with self._lock:
            while self._waiting and not promise.done:
                batch: list[_Waiting] = []
                count = 0
                while self._waiting and count < MAX_TRANSACTION_OPS:
                    batch.append(self._waiting.popleft())
                    count += len(batch[-1][1])
                self._commit(batch)

    def _commit(self, batch: list[_Waiting]) -> None:
        ops: list[Op] = []
        for _, drafts, _ in batch:
            first = self._seq + 1
            for draft in drafts:
                self._seq += 1
                group = first + draft.group - 1 if draft.group else 0
                ops.append(
                    msgspec.structs.replace(draft, lane=self.lane, seq=self._seq, group=group)
                )
        try:
            self.require_open()
            applied = self._apply(ops)
        except BaseException as error:
            self._fail(batch, error)
            return
        self._watermark = applied.watermark
        if not self._reserved and self._reserve is not None:
            self._reserved = True
            self._reserve.fill()
        self.activity.wrote("primary", [(begun, drafts) for _, drafts, begun in batch])
        results = iter(on_primary(ops, applied.outcomes))
        complete((promise, list(islice(results, len(drafts)))) for promise, drafts, _ in batch)

    def _fail(self, batch: list[_Waiting], error: BaseException) -> None:
        """The error of one caller is not that of the others: they are tried one by one."""
        if (
            len(batch) == 1
            or not isinstance(error, StandfastError)
            or isinstance(error, Unavailable)
        ):
            for _, drafts, _ in batch:
                if isinstance(error, StandfastError) and error.code != "closed":
                    self.activity.refused(drafts[0], error)
            complete((promise, error) for promise, _, _ in batch)
            return
        for one in batch:
            self._commit([one])

    def _apply(self, ops: Sequence[Op]) -> Applied:
        """Apply ops, and once more if the reply is lost: the same lane and sequences take effect at
        most once, and the lane remembers their outcomes."""
        try:
            return self.primary.apply(ops, expected_watermark=self._watermark)
        except Unavailable as first:
            if first.code == "disk_full":
                self._free_room(ops)
            elif first.code not in _TRIED_AGAIN:
                raise
            try:
                return self.primary.apply(ops, expected_watermark=self._watermark)
            except Unavailable as second:
                if "connection_lost" not in (first.code, second.code):
                    raise
                raise DeadlineExceeded(
                    f"{first.message}; whether it took effect is unknown",
                    code="unknown_outcome",
                    hint="read the document when the database answers again",
                ) from second

    def _free_room(self, ops: Sequence[Op]) -> None:
        """On a full disk: what the log can give, and for deletes alone the reserve."""
        if self._reserve is not None and all(op.kind in ("delete", "remove") for op in ops):
            self._reserve.give_up()
        self._make_room()

    # ---- reading

    def read_one(
        self,
        collection: str,
        key: str,
        *,
        local: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> ReadResult | Promise[ReadResult]:
        """Read one place of the local database, in the caller's thread."""
        self.require_open()
        begun = time.monotonic()
        row = self.primary.read(collection, (key,)).get(key)
        self.activity.read_one("primary", begun)
        return ReadResult(_ABSENT if row is None else _view(row), True)

    def scan(
        self,
        work: Callable[[Backend, float], T],
        *,
        what: str,
        is_long: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Promise[T]:
        """Run `work` on the local database, in the caller's thread; the promise is done."""
        self.require_open()
        return completed(lambda: work(self.primary, float("inf")), loop=loop)

    def drop(
        self,
        collection: str,
        *,
        if_empty: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Promise[bool]:
        """Drop a collection; whether there was one."""
        self.require_open()
        drop, promise = Drop(collection, if_empty=if_empty), Promise[bool](loop)

        def run() -> None:
            answer: bool | BaseException
            try:
                with self._lock:
                    self.require_open()
                    answer = self._dropped(drop)
            except BaseException as error:
                answer = error
            complete([(promise, answer)])

        if loop is None:
            run()
        else:
            self._executor().submit(run)
        return promise

    def _dropped(self, drop: Drop) -> bool:
        try:
            try:
                return drop(self.primary, None)
            except Unavailable as error:
                if error.code not in _TRIED_AGAIN:
                    raise
            return drop(self.primary, None)
        except Unavailable as error:
            raise drop.explained(error) from error

    def full_scan(self, collection: str) -> FullScan | None:
        """None: an embedded store has no mirror to fill."""
        return None

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
        """Run `work` on the local database, in the caller's thread; the promise is done."""
        self.require_open()
        return completed(lambda: work(self.primary, float("inf")), loop=loop)

    def pending_views(self, collection: str) -> dict[str, View]:
        """Nothing is ever pending."""
        return {}

    # ---- the end

    def flush(self, timeout_s: float) -> int:
        """Nothing ever waits for a local primary."""
        self.require_open()
        return 0

    def health(self) -> Health:
        """Always direct."""
        now = self.situation
        health = Health(
            state=str(now.mode),
            cause=now.cause,
            primary=self.primary.display,
            lane=self.lane,
            problems=self._problems(),
        )
        return with_activity(health, self.report())

    def _problems(self) -> tuple[str, ...]:
        shortage = self._reserve.shortage(_ON_A_FULL_DISK) if self._reserve and self._seq else ""
        return (shortage,) if shortage else ()

    def report(self) -> Report:
        """What this store has done since it was opened."""
        return self.activity.report(self.situation, lane=self.lane)

    def is_pending(self, lane: str, seq: int) -> bool:
        """Nothing is ever pending."""
        return False

    def discarded_in(self, lane: str, seq: int) -> str:
        """Nothing is ever given up."""
        return ""

    def server_now_us(self) -> int:
        """The clock of this machine."""
        return clock.now_us()

    def require_open(self) -> None:
        """Raise when the store was closed."""
        if self._closed:
            raise closed()

    def close(self, timeout_s: float = 0.0) -> int:
        """Close the lane and the backend.  Idempotent; never raises because of the database."""
        with self._lock:
            if self._closed:
                return 0
            with self._pool_lock:
                self._closed = True
                pool, self._pool = self._pool, None
            try:
                if self._seq:
                    self.primary.close_lane(self.lane)
            except StandfastError:
                pass  # Its row stays behind, which costs nothing but its bytes.
            finally:
                self._close_primary()
        if pool is not None:
            pool.shutdown(wait=False)
        self.notifier.close()
        return 0

    def _close_primary(self) -> None:
        freed = contextlib.nullcontext() if not self._reserve else self._reserve.taking_freed()
        with freed if self._seq else contextlib.nullcontext():
            self.primary.close()


_ABSENT = View("absent", None, 0)


def _view(row: Row) -> View:
    return View(
        "present", row.text, row.version, (), row.created_us, row.updated_us, 0, row.expires_us
    )
