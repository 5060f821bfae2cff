"""Batches: the writes of several documents in one transaction."""

from __future__ import annotations

from types import TracebackType
from typing import Any, TypeVar

from standfast.api.store import StoreHandle
from standfast.document.names import collection_name, key_text
from standfast.document.values import MISSING, Missing
from standfast.engine.interfaces import Engine
from standfast.errors import ConfigError, DataError
from standfast.limits import MAX_BATCH_OPS
from standfast.ops.build import build_op, raise_refusal
from standfast.ops.types import Document, Kind, Op, Receipt

T = TypeVar("T")
D = TypeVar("D")


class BatchWrites:
    """The writes of a batch; nothing is written before its block ends."""

    def __init__(self, handle: StoreHandle, *, provisional: bool = False) -> None:
        self._handle = handle
        self._provisional = provisional
        self._in_block = False
        self._ops: list[Op] = []
        self.receipts: list[Receipt] = []
        """One for each write, in order, once the block has ended."""

    @property
    def engine(self) -> Engine:
        """The engine that serves the batch; not for users."""
        return self._handle.engine

    def _add(self, kind: Kind, collection: str, key: str | int, **options: Any) -> None:
        if not self._in_block:
            raise ConfigError(
                f"{kind} of key {key_text(key)!r} in `{collection}`: the batch was written to"
                " outside of its `with` block",
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

    def put(
        self,
        collection: str,
        key: str | int,
        value: Any,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        ttl_s: float | None = None,
        base: Document[Any] | Missing | None = MISSING,
    ) -> None:
        """As `Collection.put`, with the same options."""
        self._add(
            *("put", collection, key),
            body=value,
            if_version=if_version,
            if_absent=if_absent,
            ttl_s=ttl_s,
            base=base,
        )

    def patch(
        self, collection: str, key: str | int, patch: Any, *, if_version: int | None = None
    ) -> None:
        """As `Collection.patch`, with the same options."""
        self._add("patch", collection, key, body=patch, if_version=if_version)

    def append(self, collection: str, key: str | int, pointer: str, item: Any) -> None:
        """As `Collection.append`; the new list is not returned."""
        self._add("append", collection, key, pointer=pointer, body=item)

    def increment(self, collection: str, key: str | int, pointer: str, n: float = 1) -> None:
        """As `Collection.increment`; the new number is not returned."""
        self._add("increment", collection, key, pointer=pointer, body=n)

    def delete(self, collection: str, key: str | int, *, if_version: int | None = None) -> None:
        """As `Collection.delete`, with the same options."""
        self._add("delete", collection, key, if_version=if_version)

    def _begin(self) -> None:
        self._in_block, self._ops, self.receipts = True, [], []

    async def _end(self, error: BaseException | None) -> None:
        """Write all of it, or nothing when the block ended with an exception."""
        self._in_block = False
        if error is not None or not self._ops:
            return
        results = await self.engine.submit(
            self._ops, loop=self._handle.loop(), provisional=self._provisional
        )
        for op, outcome, _ in results:
            if outcome.status == "refused" and outcome.code != "batch":
                raise_refusal(op, outcome)
        self.receipts = [result.receipt for result in results]


class AsyncBatch(BatchWrites):
    """Writes to several documents that stand or fall together: `async with store.batch() as b:`.

    Nothing is written before the block ends, and nothing at all when it ends with an exception.
    `receipts` holds one for each write afterwards, in order.
    """

    async def __aenter__(self) -> AsyncBatch:
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end(error)
