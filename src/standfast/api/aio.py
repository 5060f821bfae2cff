"""The asynchronous face: the same words, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any

from standfast.api.collection import CollectionCalls
from standfast.api.drive import awaited, plain
from standfast.api.store import CLOSE_TIMEOUT_S, BatchCalls, StoreCalls
from standfast.document.names import collection_name, key_text
from standfast.document.typed import Typed
from standfast.engine.interfaces import Engine
from standfast.ops.types import Document, Receipt, Row


class AsyncCollection:
    """One collection of documents of an asynchronous store: `store["name"]`.

    As `standfast.Collection`, awaited.  A task that is cancelled gives up the answer only: its
    write is applied or journaled as a whole, or not at all.
    """

    def __init__(self, store: StoreCalls, name: str, typed: Typed | None = None) -> None:
        self.calls = CollectionCalls(store, name, typed)
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncCollection({self.name!r})"

    put = awaited(CollectionCalls.put)
    patch = awaited(CollectionCalls.patch)
    append = awaited(CollectionCalls.append)
    increment = awaited(CollectionCalls.increment)
    update = awaited(CollectionCalls.update)
    delete = awaited(CollectionCalls.delete)
    pop = awaited(CollectionCalls.pop)
    get_or_create = awaited(CollectionCalls.get_or_create)
    put_many = awaited(CollectionCalls.put_many)
    read = awaited(CollectionCalls.read)
    get = awaited(CollectionCalls.get)
    get_many = awaited(CollectionCalls.get_many)
    keys = awaited(CollectionCalls.keys)
    count = awaited(CollectionCalls.count)

    async def items(self, *, prefix: str = "") -> AsyncIterator[tuple[str, Any]]:
        """Every key and value in bytewise order of the keys, read in pages of 1,000."""
        async for row in self._rows(key_text(prefix)):
            yield row.key, self.calls.load(row.text, row.key)

    async def find(self, query: Any, *, prefix: str = "") -> AsyncIterator[Document]:
        """The documents that contain `query`, by the rules of PostgreSQL's `@>`, in key order."""
        async for row in self._rows(key_text(prefix), self.calls.query_of(query)):
            yield self.calls.document_of_row(row)

    async def _rows(self, prefix: str, query: Any = None) -> AsyncIterator[Row]:
        for steps in self.calls.pages(prefix, query):
            for row in await self._finish(steps):
                yield row

    _finish = awaited(CollectionCalls.finish)


class AsyncBatch:
    """Writes to several documents that stand or fall together: `async with store.batch() as b:`.

    Nothing is written before the block ends, and nothing at all when it ends with an exception.
    `receipts` holds one for each write afterwards, in order.
    """

    def __init__(self, store: StoreCalls, *, provisional: bool = False) -> None:
        self.calls = BatchCalls(store, provisional=provisional)

    @property
    def receipts(self) -> list[Receipt]:
        """One for each write, in order, once the block has ended."""
        return self.calls.receipts

    put = plain(BatchCalls.put)
    patch = plain(BatchCalls.patch)
    append = plain(BatchCalls.append)
    increment = plain(BatchCalls.increment)
    delete = plain(BatchCalls.delete)
    _commit = awaited(BatchCalls.commit)

    async def __aenter__(self) -> AsyncBatch:
        self.calls.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self._commit()
        else:
            self.calls.drop()


class AsyncStore:
    """An open store for tasks of an event loop.  Made by `standfast.open_async`."""

    def __init__(self, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        self._collections: dict[str, AsyncCollection] = {}
        self.calls = StoreCalls(engine, reopen, asyncio.get_running_loop)

    @classmethod
    def over(cls, calls: StoreCalls) -> AsyncStore:
        """A store over the engine of another: see `Store.as_async`."""
        store = cls.__new__(cls)
        store._collections = {}
        store.calls = calls.for_loop(asyncio.get_running_loop)
        return store

    def __repr__(self) -> str:
        return f"AsyncStore({self.calls.display!r})"

    collections = awaited(StoreCalls.collections)
    create_index = awaited(StoreCalls.create_index)
    outcome = awaited(StoreCalls.outcome)
    health = awaited(StoreCalls.health)

    on_state_change = plain(StoreCalls.on_state_change)

    def __getitem__(self, name: str) -> AsyncCollection:
        found = self._collections.get(name)
        if found is None:
            found = AsyncCollection(self.calls, collection_name(name))
            self._collections[name] = found
        return found

    def collection(
        self, name: str, *, type: Any = None, upgrade: Callable[[Any], Any] | None = None
    ) -> AsyncCollection:
        """A collection, with a type perhaps; `create_index(name)` makes its `find` fast."""
        if type is None:
            return self[name]
        return AsyncCollection(self.calls, collection_name(name), Typed(type, upgrade))

    def batch(self, *, provisional: bool = False) -> AsyncBatch:
        """Writes that stand or fall together, as an asynchronous context manager."""
        self.calls.engine.require_open()
        return AsyncBatch(self.calls, provisional=provisional)

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        """Wait until every acknowledged write is on the primary; DeadlineExceeded otherwise."""
        await asyncio.to_thread(self.calls.flush, timeout_s)

    async def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """Release everything; returns how many acknowledged writes still wait for the primary."""
        return await asyncio.to_thread(self.calls.engine.close, timeout_s)

    async def __aenter__(self) -> AsyncStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Opening:
    """What `standfast.open_async` returns: awaited, or entered with `async with`, it is a store."""

    def __init__(self, open_it: Callable[[], Coroutine[Any, Any, AsyncStore]]) -> None:
        self._open = open_it
        self._store: AsyncStore | None = None

    def __await__(self) -> Any:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(self, *_: object) -> None:
        if self._store is not None:
            await self._store.close()
