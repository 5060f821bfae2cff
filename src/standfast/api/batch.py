"""Batches: the writes of several documents in one transaction."""

from __future__ import annotations

from types import TracebackType
from typing import Any, TypeVar

from standfast.api.store import StoreHandle
from standfast.document.names import collection_name, key_text
from standfast.document.values import MISSING, Missing
from standfast.errors import ConfigError, DataError, StandfastError
from standfast.limits import MAX_BATCH_OPS
from standfast.ops.build import TimeToLive, build_op, raise_refusal, refusal_error
from standfast.ops.types import Document, Kind, Op, Receipt

T = TypeVar("T")
D = TypeVar("D")


class BatchWrites:
    """The writes of a batch; nothing is written before its block ends."""

    def __init__(
        self, handle: StoreHandle, *, provisional: bool = False, independent: bool = False
    ) -> None:
        self.handle = handle
        self._provisional = provisional
        self._independent = independent
        self._in_block = False
        self._ops: list[Op] = []
        self.receipts: list[Receipt] = []
        """One for each write that was made, in order, once the block has ended."""
        self.results: list[Receipt | StandfastError] = []
        """One for each write: its receipt, or in an independent batch the error of one refused."""

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
        group = 0 if self._independent else 1
        self._ops.append(build_op(kind, collection_name(collection), key, group=group, **options))

    def put(
        self,
        collection: str,
        key: str | int,
        value: Any,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        ttl_s: TimeToLive | None = None,
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

    def set(
        self,
        collection: str,
        key: str | int,
        pointer: str,
        value: Any,
        *,
        if_version: int | None = None,
    ) -> None:
        """As `Collection.set`, with the same options."""
        self._add("set", collection, key, pointer=pointer, body=value, if_version=if_version)

    def remove(
        self, collection: str, key: str | int, pointer: str, *, if_version: int | None = None
    ) -> None:
        """As `Collection.remove`, with the same options."""
        self._add("remove", collection, key, pointer=pointer, if_version=if_version)

    def touch(self, collection: str, key: str | int, ttl_s: TimeToLive | None) -> None:
        """As `Collection.touch`."""
        self._add("touch", collection, key, ttl_s=ttl_s)

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
        if self._in_block:
            raise ConfigError(
                "the batch was entered again inside of its own `with` block",
                code="usage",
                hint="use one `with store.batch()` for writes that stand or fall together",
            )
        self._in_block, self._ops, self.receipts, self.results = True, [], [], []

    async def _end(self, failure: BaseException | None) -> None:
        """Write all of it, or nothing when the block ended with an exception."""
        self._in_block = False
        if failure is not None or not self._ops:
            return
        results = await self.handle.engine.submit(
            self._ops,
            loop=self.handle.loop(),
            provisional=self._provisional,
            independent=self._independent,
        )
        for result in results:
            op, outcome = result.op, result.outcome
            if outcome.status != "refused":
                self.receipts.append(result.receipt)
                self.results.append(result.receipt)
            elif self._independent:
                self.results.append(refusal_error(op, outcome))
            elif outcome.code != "batch":
                raise_refusal(op, outcome)


class AsyncBatch(BatchWrites):
    """Writes to several documents that stand or fall together: `async with store.batch() as b:`.

    Nothing is written before the block ends, and nothing at all when it ends with an exception.
    `receipts` holds one for each write afterwards, in order.  With `independent=True` each write
    may be refused alone: `results` holds the receipt or the error of each.
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
