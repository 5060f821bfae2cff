"""A store under the environment guard: every way through it reaches what this process may reach.

`bot.store` is such a store.  In a process that is limited to one guild, the documents are those
with that guild's id as their key, in every collection; any other write is refused, and so is any
write to a store that belongs to another environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from standfast.api.aio import AsyncStore
from standfast.api.store import Loop, StoreHandle
from standfast.api.sync import Store
from standfast.bot.environment import Environment
from standfast.bot.environment_check import Guard
from standfast.engine.full_scan import FullScan, Pages
from standfast.engine.interfaces import Engine, ReadResult
from standfast.engine.overlay import View
from standfast.engine.promise import Promise
from standfast.engine.write_queue import Result
from standfast.ops.types import Observed, Op, Row, Span

T = TypeVar("T")


def guarded_store(store: Store, environment: Environment) -> Store:
    """The same store, seen by a process of this environment."""
    return Store.over(GuardedHandle(store.calls.handle, environment))


def guarded_async_store(store: AsyncStore, environment: Environment) -> AsyncStore:
    """As `guarded_store`."""
    return AsyncStore.over(GuardedHandle(store.handle, environment))


class GuardedHandle(StoreHandle):
    """The handle of a store, whose engine lets pass what the guard lets pass."""

    def __init__(self, inner: StoreHandle, environment: Environment) -> None:
        self._inner = inner
        self._environment = environment
        self._guard = Guard(inner, environment)
        self.loop = inner.loop

    def for_loop(self, loop: Loop) -> StoreHandle:
        """The same, for callers who wait in another way."""
        return GuardedHandle(self._inner.for_loop(loop), self._environment)

    @property
    def engine(self) -> Engine:
        """The engine of this process, under the guard."""
        return cast("Engine", _GuardedEngine(self._inner.engine, self._guard))

    @property
    def display(self) -> str:
        """Where the primary is, for people; never a password."""
        return self._inner.display


class _GuardedEngine:
    """An engine that reads and writes the documents that the guard allows; else as the engine."""

    def __init__(self, inner: Engine, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard
        self._only = guard.environment.only_guild

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def submit(self, ops: Sequence[Op], **options: Any) -> list[Result]:
        for op in ops:
            self._guard.check(op.key)
        await self._guard.admit()
        return await self._inner.submit(ops, **options)

    def read_one(
        self,
        collection: str,
        key: str,
        *,
        local: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> ReadResult | Promise[ReadResult]:
        self._guard.check(key)
        return self._inner.read_one(collection, key, local=local, loop=loop)

    async def drop(self, collection: str, **options: Any) -> bool:
        self._guard.check_all(f"drop of `{collection}`")
        await self._guard.admit()
        return await self._inner.drop(collection, **options)

    def full_scan(self, collection: str) -> FullScan | None:
        return None if self._only else self._inner.full_scan(collection)

    def pending_views(self, collection: str) -> dict[str, View]:
        views = self._inner.pending_views(collection)
        return {key: view for key, view in views.items() if self._guard.allows(key)}

    def pages(
        self, collection: str, work: Callable[[Pages, float], T], **options: Any
    ) -> Promise[T]:
        only = self._only
        if only is None:
            return self._inner.pages(collection, work, **options)
        return self._inner.pages(
            collection, lambda pages, deadline: work(_OnePlace(pages, only), deadline), **options
        )


class _OnePlace:
    """The collections of a store, as far as one key goes."""

    def __init__(self, pages: Pages, key: str) -> None:
        self._pages = pages
        self._key = key

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        if not span.has(self._key):
            return []
        # In the order of keys it is the first that begins with itself.
        first = Span(prefix=self._key, limit=1, query=span.query)
        rows = self._pages.scan(collection, first, deadline=deadline)
        return [row for row in rows if row.key == self._key]

    def observe(
        self, collection: str, keys: Sequence[str], *, deadline: float | None = None
    ) -> Observed:
        return self._pages.observe(collection, keys, deadline=deadline)

    def count(self, collection: str, *, deadline: float | None = None) -> int:
        return len(self.scan(collection, Span(), deadline=deadline))
