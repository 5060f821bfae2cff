"""What both stores share: collections, batches, health, outcomes, and what a fork does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from standfast.api.drive import Steps
from standfast.backends.base import Backend
from standfast.document.names import collection_name
from standfast.engine.announce import StateChange
from standfast.engine.health import Health
from standfast.engine.interfaces import Engine
from standfast.engine.write_queue import Result
from standfast.errors import ConfigError, DataError, DeadlineExceeded, StandfastError, Unavailable
from standfast.limits import MAX_BATCH_OPS
from standfast.ops.build import build_op, raise_refusal
from standfast.ops.reconcile import is_rejected
from standfast.ops.types import ConflictRecord, Kind, Op, Receipt
from standfast.system.platform import at_fork

#: How long `close` goes on draining the journal, by default.
CLOSE_TIMEOUT_S = 2.0

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


at_fork(in_child=_count_fork)
#: Engines of a parent process, in its forked children.  They are kept, and never touched again:
#: closing them here would close the parent's connections and drop its locks.
_abandoned: list[Engine] = []


class WriteOutcome(msgspec.Struct, frozen=True):
    """What became of an acknowledged write.

    `state`: `pending` (in the journal), `applied`, `merged` (applied, together with what others
    changed meanwhile) or `rejected` (not applied: `reason` says why).  `conflict` is its id in the
    list of conflicts, for `standfast conflicts show`.  `version` is known for what went straight to
    the primary.
    """

    state: Literal["pending", "applied", "merged", "rejected"]
    version: int | None = None
    reason: str = ""
    conflict: int | None = None


Loop = Callable[[], asyncio.AbstractEventLoop | None]


class StoreCalls:
    """The calls on a store; a face has them as `calls`.

    It has an engine, and opens a fresh one in a forked child (R1).
    """

    def __init__(
        self,
        engine: Engine,
        reopen: Callable[[], Engine] | None,
        loop: Loop,
        *,
        parent: StoreCalls | None = None,
    ) -> None:
        self._engine = engine
        self._reopen = reopen
        self._forks = _forks
        self.loop = loop
        self._parent = parent

    def for_loop(self, loop: Loop) -> StoreCalls:
        """The same engine for callers who wait in another way."""
        return StoreCalls(self._engine, None, loop, parent=self)

    @property
    def engine(self) -> Engine:
        """The engine of this process."""
        if self._parent is not None:
            return self._parent.engine  # which opens only one in a forked child
        if self._forks != _forks:
            self._after_fork()
        return self._engine

    def _after_fork(self) -> None:
        _abandoned.append(self._engine)
        if self._reopen is None:
            raise Unavailable(
                "this store was opened before the process forked",
                code="forked",
                hint="open a store in the child",
            )
        self._engine = self._reopen()
        self._forks = _forks

    @property
    def display(self) -> str:
        """Where the primary is, for people; never a password."""
        return self._engine.primary.display

    def collections(self) -> Steps[list[str]]:
        """The names of the collections that exist, sorted."""

        def work(backend: Backend, deadline: float) -> list[str]:
            return backend.collections()

        return (yield self.engine.scan(work, what="list of collections", loop=self.loop()))

    def create_index(self, name: str) -> Steps[None]:
        """Make `find` fast on a collection (a GIN index on PostgreSQL)."""
        collection = collection_name(name)

        def work(backend: Backend, deadline: float) -> None:
            backend.create_index(collection)

        yield self.engine.scan(work, what=f"index of `{collection}`", loop=self.loop())

    def outcome(self, receipt: Receipt) -> Steps[WriteOutcome]:
        """What became of an acknowledged write; what is settled needs the primary to tell."""
        engine, name = self.engine, (receipt.lane, receipt.seq)
        engine.require_open()
        if engine.is_pending(*name):
            return WriteOutcome("pending")

        def work(backend: Backend, deadline: float) -> list[ConflictRecord]:
            return backend.conflicts(name=name, deadline=deadline)

        entries: list[ConflictRecord] = yield engine.scan(work, what="outcome", loop=self.loop())
        if not entries:
            return WriteOutcome("applied", receipt.version)
        last = entries[-1]
        state = "rejected" if is_rejected(last) else "merged"
        return WriteOutcome(state, None, last.reason, last.id)

    def health(self) -> Steps[Health]:
        """How the store is doing: state, lag, oldest pending write, lane, history, ledger."""
        engine = self.engine
        health = engine.health()

        def work(backend: Backend, deadline: float) -> dict[str, int]:
            return backend.count_conflicts(deadline=deadline)

        if health.state != "direct" or health.lag_ops:
            return health
        try:
            counts = yield engine.scan(work, what="count of the ledger", loop=self.loop())
        except StandfastError:
            return health
        return msgspec.structs.replace(health, conflicts=counts)

    def on_state_change(self, listener: Callable[[StateChange], object]) -> None:
        """Call `listener(change)` at every change of state, in a thread of its own, in order."""
        self.engine.notifier.listen(listener)

    def flush(self, timeout_s: float) -> None:
        """Wait until every acknowledged write is on the primary; DeadlineExceeded otherwise."""
        self.engine.require_open()
        left = self.engine.flush(timeout_s)
        if left:
            raise DeadlineExceeded(
                f"{left} writes are not on the primary after {timeout_s:g} s",
                code="not_flushed",
                hint="they are safe in the journal, and are replayed when the primary is back",
            )


class BatchCalls:
    """The calls on a batch: writes to several documents that stand or fall together.

    Nothing is written before the block ends, and nothing at all when it ends with an exception.
    `receipts` holds one for each write afterwards, in order.
    """

    def __init__(self, store: StoreCalls, *, provisional: bool = False) -> None:
        self._store = store
        self._provisional = provisional
        self._in_block = False
        self._ops: list[Op] = []
        self.receipts: list[Receipt] = []

    @property
    def engine(self) -> Engine:
        """The engine that serves the batch."""
        return self._store.engine

    def _add(self, kind: Kind, collection: str, key: str | int, **options: Any) -> None:
        if not self._in_block:
            raise ConfigError(
                "a batch was written to outside of its `with` block",
                code="usage",
                hint="with store.batch() as b: ...",
            )
        if len(self._ops) >= MAX_BATCH_OPS:
            raise DataError(
                f"a batch of more than {MAX_BATCH_OPS} writes",
                code="batch_too_large",
                hint="split it, or use put_many",
            )
        self._ops.append(build_op(kind, collection_name(collection), key, group=1, **options))

    def put(self, collection: str, key: str | int, value: Any, **options: Any) -> None:
        """As `Collection.put`, with the same options."""
        self._add("put", collection, key, body=value, **options)

    def patch(self, collection: str, key: str | int, patch: Any, **options: Any) -> None:
        """As `Collection.patch`, with the same options."""
        self._add("patch", collection, key, body=patch, **options)

    def append(self, collection: str, key: str | int, pointer: str, item: Any) -> None:
        """As `Collection.append`; the new list is not returned."""
        self._add("append", collection, key, pointer=pointer, body=item)

    def increment(self, collection: str, key: str | int, pointer: str, n: float = 1) -> None:
        """As `Collection.increment`; the new number is not returned."""
        self._add("increment", collection, key, pointer=pointer, body=n)

    def delete(self, collection: str, key: str | int, **options: Any) -> None:
        """As `Collection.delete`, with the same options."""
        self._add("delete", collection, key, **options)

    def begin(self) -> None:
        """Start anew."""
        self._in_block, self._ops, self.receipts = True, [], []

    def commit(self) -> Steps[None]:
        """Write all of it."""
        self._in_block = False
        if not self._ops:
            return
        results: list[Result] = yield self.engine.submit(
            self._ops, loop=self._store.loop(), provisional=self._provisional
        )
        for op, outcome, _ in results:
            if outcome.status == "refused" and outcome.code != "batch":
                raise_refusal(op, outcome)
        self.receipts = [result.receipt for result in results]

    def drop(self) -> None:
        """Forget all of it."""
        self._in_block = False
