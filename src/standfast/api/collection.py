"""The documents of one collection: from stored text to values and back, one by one and in pages."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Generic, Literal, TypeVar

import msgspec

from standfast.api.store import StoreHandle
from standfast.document.codec import decode, encode
from standfast.document.containment import contains
from standfast.document.names import key_text
from standfast.document.typed import Typed
from standfast.engine.full_scan import FullScan, Pages, renewed
from standfast.engine.interfaces import Engine, ReadResult
from standfast.engine.local_state import age_s
from standfast.engine.overlay import View, lay_over
from standfast.engine.promise import Promise
from standfast.errors import ConfigError, CorruptData, DataError
from standfast.limits import MAX_PAGE
from standfast.ops.types import Document, Row, from_microseconds

T = TypeVar("T")
Consistency = Literal["primary", "local"]

#: Documents that one transaction of `put_many` and one page of `items` take.
PAGE = 1000


class Documents(Generic[T]):
    """How the documents of one collection are read, with its type if it has one."""

    def __init__(self, handle: StoreHandle, name: str, typed: Typed | None = None) -> None:
        self.handle = handle
        self.name = name
        self._typed = typed

    @property
    def engine(self) -> Engine:
        """The engine of this process."""
        return self.handle.engine

    # ---- values

    def dump(self, value: Any, key: object) -> Any:
        """The JSON of a value; DataError when it is not of the collection's type."""
        if self._typed is None:
            return value
        try:
            return self._typed.dump(value)
        except DataError as error:
            raise error.about(f"put of key {key_text(key)!r} in `{self.name}`") from None

    def load(self, text: str, key: str) -> T:
        """The value of a stored text; CorruptData, which names its key, when it is unreadable."""
        try:
            value = decode(text)
            return value if self._typed is None else self._typed.load(value)
        except CorruptData as error:
            raise error.about(f"the document of key {key!r} in `{self.name}`") from None

    def copied(self, value: Any, key: object) -> T:
        """A value as it would come back after a put."""
        return self.load(encode(self.dump(value, key)), key_text(key))

    def copy_of(self, document: Document[T]) -> Document[Any]:
        """The document as JSON; changing its value later does not change the copy."""
        plain = decode(encode(self.dump(document.value, document.key)))
        return msgspec.structs.replace(document, value=plain)

    def of(self, result: ReadResult, key: str) -> Document[T] | None:
        """The document that a read found; None when there is none."""
        view = result.view
        if view.text is None:
            return None
        return Document(
            key=key,
            value=self.load(view.text, key),
            version=view.version,
            source="primary" if result.from_primary else view.source,
            age_s=0.0 if result.from_primary else age_s(view.seen_us),
            created_at=from_microseconds(view.created_us),
            updated_at=from_microseconds(view.updated_us),
        )

    def of_row(self, row: Row) -> Document[T]:
        """The document of a row of the primary, or of the mirror."""
        return Document(
            key=row.key,
            value=self.load(row.text, row.key),
            version=row.version,
            source="primary" if row.seen_us is None else "mirror",
            age_s=age_s(row.seen_us or 0),
            created_at=from_microseconds(row.created_us),
            updated_at=from_microseconds(row.updated_us),
        )

    # ---- reading

    def ask(self, key: str, consistency: str) -> ReadResult | Promise[ReadResult]:
        """Read one place on the primary, or with `"local"` in this data directory."""
        if consistency not in ("primary", "local"):
            raise ConfigError(
                f"consistency={consistency!r} is not known",
                code="usage",
                hint="'primary' or 'local'",
            )
        local, loop = consistency == "local", self.handle.loop()
        return self.handle.engine.read_one(self.name, key, local=local, loop=loop)

    async def read_one(self, key: str, consistency: str = "primary") -> ReadResult:
        """As `ask`, with the answer."""
        result = self.ask(key, consistency)
        return await result if isinstance(result, Promise) else result

    async def count(self) -> int:
        """The number of documents."""

        def work(pages: Pages, deadline: float) -> int:
            views = self.engine.pending_views(self.name)
            count = pages.count(self.name, deadline=deadline)
            if views:
                there = pages.observe(self.name, sorted(views), deadline=deadline).states
                count -= sum(state.text is not None for state in there)
                count += sum(view.text is not None for view in views.values())
            return count

        what, loop = f"count of `{self.name}`", self.handle.loop()
        return await self.engine.pages(self.name, work, what=what, loop=loop)

    async def page(
        self,
        prefix: str,
        after: str | None,
        *,
        limit: int,
        query: Any = None,
        full_scan: FullScan | None = None,
    ) -> list[Row]:
        """One page of rows in bytewise key order; with `query` those that contain it.

        While the primary is away it comes from the mirror, if that holds the collection whole: all
        of it was read once, and the pages of that `full_scan` have followed each other to the end.
        """
        self.engine.require_open()
        if not 0 < limit <= MAX_PAGE:
            raise ConfigError(
                f"limit={limit!r} is not a page size", code="usage", hint=f"give 1 to {MAX_PAGE}"
            )
        prefix, after = key_text(prefix), None if after is None else key_text(after)

        def work(pages: Pages, deadline: float) -> list[Row]:
            # Before the scan: what is settled in between is in its rows.
            views = self.engine.pending_views(self.name)
            page: list[Row] = []
            start = after
            until: float | None = deadline
            while len(page) < limit:
                begun = time.monotonic()
                rows = pages.scan(
                    self.name,
                    prefix=prefix,
                    after=start,
                    limit=limit,
                    query=query,
                    deadline=until,
                )
                until = renewed(until, begun)
                wanted = _InRange(prefix, start, query)
                page += lay_over(rows, views, wanted, limit=limit)
                if len(rows) < limit:
                    break
                start = rows[-1].key
            return page[:limit]

        what, loop = f"scan of `{self.name}`", self.handle.loop()
        return await self.engine.pages(self.name, work, what=what, full_scan=full_scan, loop=loop)

    async def rows(self, prefix: str = "", query: Any = None) -> AsyncIterator[Row]:
        """The rows of a whole scan, in pages of 1,000; it ends when one was not full."""
        after: str | None = None
        full_scan = self.engine.full_scan(self.name) if not prefix and query is None else None
        while True:
            page = await self.page(prefix, after, limit=PAGE, query=query, full_scan=full_scan)
            for row in page:
                yield row
            if len(page) < PAGE:
                return
            after = page[-1].key


class _InRange:
    """Whether a document on which something is pending belongs to a page."""

    def __init__(self, prefix: str, after: str | None, query: Any) -> None:
        self._prefix = prefix
        self._after = None if after is None else after.encode()
        self._query = query

    def __call__(self, key: str, view: View) -> bool:
        if not key.startswith(self._prefix):
            return False
        if self._after is not None and key.encode() <= self._after:
            return False
        if self._query is None:
            return True
        return view.text is not None and contains(decode(view.text), self._query)
