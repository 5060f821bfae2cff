"""The synchronous API: the calls of the asynchronous one, driven by the caller's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from standfast.api.aio import AsyncStore
from standfast.api.async_collection import AsyncCollection
from standfast.api.batch import BatchWrites
from standfast.api.collection import NotADict
from standfast.api.drive import Blocking, blocking, drive, iterating, plain
from standfast.api.store import CLOSE_TIMEOUT_S, StoreHandle, no_loop
from standfast.document.names import key_text
from standfast.engine.interfaces import Engine
from standfast.errors import Unavailable

T = TypeVar("T")


class Collection(NotADict, Generic[T]):
    """One collection of documents of a store: `store["name"]`.

    Keys are strings; an int key is its decimal string.  Values are anything JSON, or `T`, the
    collection's type.  Every write is durable when it returns; the receipt says where.
    """

    _habit = "collection."

    def __init__(self, calls: AsyncCollection[T]) -> None:
        self.calls = calls
        self.name = calls.name

    def __repr__(self) -> str:
        return f"Collection({self.name!r})"

    put = blocking(AsyncCollection[T].put)
    patch = blocking(AsyncCollection[T].patch)
    append = blocking(AsyncCollection[T].append)
    increment = blocking(AsyncCollection[T].increment)
    update = blocking(AsyncCollection[T].update)
    delete = blocking(AsyncCollection[T].delete)
    pop = blocking(AsyncCollection[T].pop)
    get_or_create = blocking(AsyncCollection[T].get_or_create)
    put_many = blocking(AsyncCollection[T].put_many)
    read = blocking(AsyncCollection[T].read)
    get = blocking(AsyncCollection[T].get)
    get_many = blocking(AsyncCollection[T].get_many)
    put_if_absent = blocking(AsyncCollection[T].put_if_absent)
    touch = blocking(AsyncCollection[T].touch)
    set = blocking(AsyncCollection[T].set)
    remove = blocking(AsyncCollection[T].remove)
    delete_many = blocking(AsyncCollection[T].delete_many)
    clear = blocking(AsyncCollection[T].clear)
    exists = blocking(AsyncCollection[T].exists)
    first = blocking(AsyncCollection[T].first)
    last = blocking(AsyncCollection[T].last)
    keys = iterating(AsyncCollection[T].keys)
    count = blocking(AsyncCollection[T].count)
    as_of = blocking(AsyncCollection[T].as_of)
    items = iterating(AsyncCollection[T].items)
    find = iterating(AsyncCollection[T].find)

    def __iter__(self) -> Iterator[str]:
        """`for key in collection`: every key, as `keys()`."""
        return self.keys()

    def __contains__(self, key: object) -> bool:
        """`key in collection`: as `exists(key)`."""
        return self.exists(key_text(key))


class Batch(BatchWrites):
    """Writes to several documents that stand or fall together: `with store.batch() as b:`.

    Nothing is written before the block ends, and nothing at all when it ends with an exception.
    `receipts` holds one for each write afterwards, in order.  With `independent=True` each write
    may be refused alone: `results` holds the receipt or the error of each.
    """

    def __enter__(self) -> Batch:
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        drive(self._end(error), self)


class Store(Blocking[AsyncStore]):
    """An open store; `store["name"]` is a collection.  Thread-safe.  Made by `standfast.open`.

    It can be used in a forked child too, with an engine of the child's own.
    """

    def __init__(self, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        self._open(StoreHandle(engine, reopen, no_loop))

    def _open(self, handle: StoreHandle) -> None:
        super().__init__(AsyncStore.over(handle))
        self._collections: dict[str, Collection[Any]] = {}

    @classmethod
    def over(cls, handle: StoreHandle) -> Store:
        """A store over the engine of another."""
        store = cls.__new__(cls)
        store._open(handle)
        return store

    def __repr__(self) -> str:
        return f"Store({self.calls.handle.display!r})"

    collections = blocking(AsyncStore.collections)
    create_index = blocking(AsyncStore.create_index)
    copy = blocking(AsyncStore.copy)
    rename = blocking(AsyncStore.rename)
    drop = blocking(AsyncStore.drop)
    outcome = blocking(AsyncStore.outcome)
    health = blocking(AsyncStore.health)

    def __getitem__(self, name: str) -> Collection[Any]:
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = Collection(self.calls[name])
        return found

    @overload
    def collection(self, name: str, *, index: bool = False) -> Collection[Any]: ...
    @overload
    def collection(
        self,
        name: str,
        *,
        index: bool = False,
        type: type[T],
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Collection[T]: ...
    @overload
    def collection(
        self,
        name: str,
        *,
        index: bool = False,
        type: Any,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Collection[Any]: ...
    def collection(
        self,
        name: str,
        *,
        index: bool = False,
        type: Any = None,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Collection[Any]:
        """A collection; `index=True` makes its `find` fast (a GIN index on PostgreSQL).

        `type`: its documents are values of this type (a msgspec Struct, a dataclass, a pydantic
        model); `upgrade` makes JSON of the type from that of a document which does not fit.
        """
        if type is None:
            found = self[name]
        else:
            found = Collection(self.calls.collection(name, type=type, upgrade=upgrade))
        if index:
            self.create_index(name)
        return found

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed yet."""
        try:
            self.calls.engine.require_open()
        except Unavailable:
            return False
        return True

    def as_async(self) -> AsyncStore:
        """This same store for tasks of an event loop, for programs that need both.

        One engine, one set of connections and local files: what one writes the other reads, and
        closing either closes both.
        """
        return AsyncStore.over(self.calls.handle.for_loop(asyncio.get_running_loop))

    on_state_change = plain(AsyncStore.on_state_change)
    on_refused = plain(AsyncStore.on_refused)
    on_rejected = plain(AsyncStore.on_rejected)

    def batch(self, *, provisional: bool = False, independent: bool = False) -> Batch:
        """Writes that stand or fall together, as a context manager; `independent`: each alone."""
        self.calls.engine.require_open()
        return Batch(self.calls.handle, provisional=provisional, independent=independent)

    def flush(self, *, timeout_s: float = 5.0) -> None:
        """Wait until every acknowledged write is on the primary; DeadlineExceeded otherwise."""
        self.calls.handle.flush(timeout_s)

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """Release everything; returns how many acknowledged writes still wait for the primary.

        Bounded by `timeout_s` and the deadline.  What waits is safe in the journal, and replayed
        when the data directory is opened again.  -1: the local files cannot be read now, so it is
        not known how many these are.  Idempotent.
        """
        return self.calls.engine.close(timeout_s)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
