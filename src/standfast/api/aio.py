"""The asynchronous store; each call is written here, once, and the synchronous API drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, overload

import msgspec

from standfast.api import whole
from standfast.api.async_collection import AsyncCollection
from standfast.api.batch import AsyncBatch
from standfast.api.store import CLOSE_TIMEOUT_S, StoreHandle, WriteOutcome
from standfast.backends.base import Backend
from standfast.document.names import collection_name
from standfast.document.typed import Typed
from standfast.engine.activity import Rejected
from standfast.engine.background import REFUSED, REJECTED, StateChange
from standfast.engine.health import Health
from standfast.engine.interfaces import Engine
from standfast.engine.refusals import Refused
from standfast.errors import ConfigError, StandfastError
from standfast.ops.reconcile import is_rejected
from standfast.ops.types import Receipt

T = TypeVar("T")
D = TypeVar("D")


class AsyncStore:
    """An open store for tasks of an event loop; `store["name"]` is a collection.

    Made by `standfast.open_async`, or by `Store.as_async`.
    """

    def __init__(self, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        self._open(StoreHandle(engine, reopen, asyncio.get_running_loop))

    def _open(self, handle: StoreHandle) -> None:
        self.handle = handle
        self._collections: dict[str, AsyncCollection[Any]] = {}

    @classmethod
    def over(cls, handle: StoreHandle) -> AsyncStore:
        """A store over the engine of another, whose callers may wait in another way."""
        store = cls.__new__(cls)
        store._open(handle)
        return store

    def __repr__(self) -> str:
        return f"AsyncStore({self.handle.display!r})"

    @property
    def engine(self) -> Engine:
        """The engine of this process; not for users."""
        return self.handle.engine

    def __getitem__(self, name: str) -> AsyncCollection[Any]:
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = AsyncCollection(self.handle, collection_name(name))
        return found

    @overload
    def collection(self, name: str) -> AsyncCollection[Any]: ...
    @overload
    def collection(
        self, name: str, *, type: type[T], upgrade: Callable[[Any], Any] | None = None
    ) -> AsyncCollection[T]: ...
    @overload
    def collection(
        self, name: str, *, type: Any, upgrade: Callable[[Any], Any] | None = None
    ) -> AsyncCollection[Any]: ...
    def collection(
        self, name: str, *, type: Any = None, upgrade: Callable[[Any], Any] | None = None
    ) -> AsyncCollection[Any]:
        """A collection; `await store.create_index(name)` makes its `find` fast.

        `type`: its documents are values of this type (a msgspec Struct, a dataclass, a pydantic
        model); `upgrade` makes JSON of the type from that of a document which does not fit.
        """
        if type is None:
            return self[name]
        return AsyncCollection(self.handle, collection_name(name), Typed(type, upgrade))

    async def collections(self) -> list[str]:
        """The names of the collections that exist, sorted."""
        return await self._scan(
            lambda backend, deadline: backend.collections(deadline=deadline),
            what="list of collections",
        )

    async def _scan(self, work: Callable[[Backend, float], T], *, what: str) -> T:
        return await self.engine.scan(work, what=what, loop=self.handle.loop())

    async def create_index(self, name: str) -> None:
        """Make `find` fast on a collection (a GIN index on PostgreSQL)."""
        collection = collection_name(name)
        await self.engine.scan(
            lambda backend, deadline: backend.create_index(collection, deadline=deadline),
            what=f"index of `{collection}`",
            is_long=True,
            loop=self.handle.loop(),
        )

    async def copy(self, source: str, target: str) -> int:
        """Put every document of one collection into another; returns how many there are.

        With their exact texts, and what is left of their time to live.  What is in the target
        already must be the same document, as a copy that was cut short leaves it: ConflictError
        otherwise.  In transactions of 500; it needs the primary.
        """
        return await whole.copy(self.handle, collection_name(source), collection_name(target))

    async def rename(self, name: str, new_name: str) -> int:
        """Move every document to the collection of another name; returns how many.

        Each document is at every moment in exactly one of the two, also while others write; one
        whose key is taken there is a ConflictError, and stays.  The same call again completes a
        rename that was cut short.  The old collection is dropped when it is empty; where `drop` is
        refused it stays behind.  In transactions of 500 documents; it needs the primary.
        """
        return await whole.move(self.handle, collection_name(name), collection_name(new_name))

    async def drop(self, name: str) -> bool:
        """Remove a collection: its documents, its table, and what is kept about it.

        False: there was none.  A collection that is made later under this name is another one;
        versions in it are above all that there were.  Conflicts stay.  It needs the primary.
        `Unavailable("pending_writes")` while writes to it wait in the journal here; those of other
        data directories make it again when they arrive.  ConfigError, and nothing is changed:
        `adopted` where another program made the table, `referenced` where a view or a foreign key
        refers to it, `no_rights` where this role does not own both table and bookkeeping.
        """
        return await whole.drop(self.handle, collection_name(name))

    async def outcome(self, receipt: Receipt) -> WriteOutcome:
        """What became of an acknowledged write; only the primary knows of what has left here.

        To be asked of a store with the data directory of the write: what waits in another one is
        not known here, and is taken for applied.
        """
        if not isinstance(receipt, Receipt):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"outcome of a {type(receipt).__name__}, which is not a receipt",
                code="usage",
                hint="give what put, patch, set, remove, touch or delete returned",
            )
        engine, name = self.engine, (receipt.lane, receipt.seq)
        engine.require_open()
        if engine.is_pending(*name):
            return WriteOutcome("pending")
        entries = await self._scan(
            lambda backend, deadline: backend.conflicts(name=name, deadline=deadline),
            what="outcome",
        )
        if not entries and (file := engine.discarded_in(*name)):
            return WriteOutcome("rejected", None, f"it was given up by journal discard: see {file}")
        if not entries:
            return WriteOutcome("applied", receipt.version)
        last = entries[-1]
        state = "rejected" if is_rejected(last) else "merged"
        return WriteOutcome(state, None, last.reason, last.id)

    async def health(self) -> Health:
        """How the store is doing: state, lag, oldest pending write, lane, history, conflicts."""
        engine = self.engine
        health = engine.health()
        if health.state != "direct" or health.lag_ops:
            return health
        try:
            counts = await self._scan(
                lambda backend, deadline: backend.count_conflicts(deadline=deadline),
                what="count of conflicts",
            )
        except StandfastError:
            return health
        return msgspec.structs.replace(health, conflicts=counts)

    def on_state_change(self, listener: Callable[[StateChange], object]) -> None:
        """Call `listener(change)` at every change of state, in a thread of its own, in order."""
        self.engine.notifier.listen(listener)

    def on_refused(self, listener: Callable[[Refused], object]) -> None:
        """Call `listener(refused)` for every write that raised because it was refused, and is not
        stored: by the primary, or during an outage by the local files.

        In a thread of its own, in order.  A condition that does not hold is not a refusal.
        """
        self.engine.notifier.listen(listener, REFUSED)

    def on_rejected(self, listener: Callable[[Rejected], object]) -> None:
        """Call `listener(rejected)` for every acknowledged write that the replay could not apply:
        it waits as a conflict.  In a thread of its own, in order."""
        self.engine.notifier.listen(listener, REJECTED)

    def batch(self, *, provisional: bool = False, independent: bool = False) -> AsyncBatch:
        """Writes that stand or fall together, as an asynchronous context manager.

        `independent`: each alone.
        """
        self.engine.require_open()
        return AsyncBatch(self.handle, provisional=provisional, independent=independent)

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        """Wait until every acknowledged write is on the primary; DeadlineExceeded otherwise."""
        await asyncio.to_thread(self.handle.flush, timeout_s)

    async def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """Release everything; returns how many acknowledged writes still wait for the primary.

        -1: the local files cannot be read now, so it is not known how many these are.
        """
        return await asyncio.to_thread(self.engine.close, timeout_s)

    async def __aenter__(self) -> AsyncStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Opening:
    """What `standfast.open_async` returns: awaited, or entered with `async with`, it is a store."""

    def __init__(self, open_it: Callable[[], Coroutine[Any, Any, AsyncStore]]) -> None:
        self._open = open_it
        self._store: AsyncStore | None = None

    def __await__(self) -> Generator[Any, Any, AsyncStore]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(self, *_: object) -> None:
        if self._store is not None:
            await self._store.close()
