"""The documents of one collection: from stored text to values and back, one by one and in pages."""

from __future__ import annotations

import heapq
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Generic, Literal, NoReturn, TypeVar

import msgspec

from standfast.api.store import StoreHandle
from standfast.document.codec import decode, encode
from standfast.document.containment import contains
from standfast.document.names import key_text
from standfast.document.query import Query
from standfast.document.typed import Typed
from standfast.document.values import MISSING
from standfast.engine.full_scan import FullScan, Pages, renewed, seen_whole_us
from standfast.engine.interfaces import Engine, ReadResult
from standfast.engine.local_state import age_s
from standfast.engine.overlay import View, lay_over
from standfast.engine.promise import Promise
from standfast.errors import ConfigError, CorruptData, DataError
from standfast.ops.types import Document, Row, Span, from_microseconds

T = TypeVar("T")
Consistency = Literal["primary", "local"]
Order = Literal["key", "updated_at"]

#: Documents that one transaction of `put_many` and one page of `items` take.
PAGE = 1000


class NotADict:
    """What a collection has not of a dict's habits: each of them names the call to use."""

    #: How a call of this collection begins.
    _habit: ClassVar[str]

    def _not_like_a_dict(self, what: str, call: str) -> TypeError:
        return TypeError(
            f"a collection has no {what}: use {self._habit}{call}; what is read is a copy, and"
            " changing that changes no document"
        )

    def __len__(self) -> NoReturn:
        raise self._not_like_a_dict("len()", "count()")

    def __bool__(self) -> bool:
        return True  # an empty collection is one, too; and nothing is asked

    def __getitem__(self, key: object) -> NoReturn:
        raise self._not_like_a_dict("[]", "get(key)")

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise self._not_like_a_dict("[] =", "put(key, value)")

    def __delitem__(self, key: object) -> NoReturn:
        raise self._not_like_a_dict("del []", "delete(key)")


class KeyRange(msgspec.Struct, frozen=True):
    """Which keys, in which order, and how many at most (None: all).

    `after`: those behind this key, in the order of the range.
    """

    prefix: str = ""
    after: str | None = None
    limit: int | None = None
    reverse: bool = False


def key_range(
    prefix: object, *, after: object = None, limit: object = None, reverse: bool = False
) -> KeyRange:
    """The range that a call asks for; ConfigError or DataError where it is not valid."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(
            f"limit={limit!r} is not a number of documents",
            code="usage",
            hint="give 1 or more; without limit= it is all of them",
        )
    start = None if after is None else key_text(after)
    return KeyRange(key_text(prefix), start, limit, bool(reverse))


class Documents(Generic[T]):
    """How the documents of one collection are read, with its type if it has one."""

    def __init__(self, handle: StoreHandle, name: str, typed: Typed | None = None) -> None:
        self.handle = handle
        self.name = name
        self.typed = typed
        """The type of its documents, if they have one."""

    @property
    def engine(self) -> Engine:
        """The engine of this process."""
        return self.handle.engine

    # ---- values

    def dump(self, value: Any, key: object) -> Any:
        """The JSON of a value; DataError when it is not of the collection's type."""
        if self.typed is None:
            return value
        try:
            return self.typed.dump(value)
        except DataError as error:
            raise error.about(f"put of key {key_text(key)!r} in `{self.name}`") from None

    def check(self, text: str, doing: str) -> None:
        """DataError when a text that is about to be stored would not be of the type."""
        if self.typed is None:
            return
        try:
            self.typed.check(decode(text))
        except DataError as error:
            raise error.about(doing) from None

    def load(self, text: str, key: str) -> T:
        """The value of a stored text; CorruptData, which names its key, when it is unreadable."""
        try:
            value = decode(text)
            return value if self.typed is None else self.typed.load(value)
        except CorruptData as error:
            raise error.about(f"the document of key {key!r} in `{self.name}`") from None

    def copied(self, value: Any, key: object) -> T:
        """A value as it would come back after a put."""
        return self.load(encode(self.dump(value, key)), key_text(key))

    def copy_of(self, document: Document[T]) -> Document[Any]:
        """The document as JSON; changing its value later does not change the copy."""
        plain = decode(encode(self.dump(document.value, document.key)))
        return msgspec.structs.replace(document, value=plain)

    def again(self, document: Document[Any] | None, key: object) -> T:
        """The value of a document as JSON, once more."""
        assert document is not None, "it was read"
        return self.load(encode(document.value), key_text(key))

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
            expires_at=_when(view.expires_us),
        )

    def of_row(self, row: Row) -> Document[T]:
        """The document of a row of the primary, of the mirror, or of a snapshot."""
        return Document(
            key=row.key,
            value=self.load(row.text, row.key),
            version=row.version,
            source="primary" if row.seen_us is None else row.source,
            age_s=age_s(row.seen_us or 0),
            created_at=from_microseconds(row.created_us),
            updated_at=from_microseconds(row.updated_us),
            expires_at=_when(row.expires_us),
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

    async def as_of(self) -> float | None:
        """As of when a scan would show what others wrote, in seconds of `time.time()`."""
        what, loop = f"as_of of `{self.name}`", self.handle.loop()
        since_us = await self.engine.pages(
            self.name, lambda pages, _: seen_whole_us(pages), what=what, loop=loop
        )
        return None if since_us is None else since_us / 1e6

    async def page(
        self,
        span: KeyRange,
        *,
        size: int,
        query: Any = None,
        full_scan: FullScan | None = None,
        by_primary: bool = False,
    ) -> list[Row]:
        """One page of rows in bytewise key order; with `query` those that contain it.

        While the primary is away it comes from the mirror, if that holds the collection whole: all
        of it was read once, and the pages of that `full_scan` have followed each other to the end;
        else from the snapshot, if nothing was written or seen since that was made.
        `by_primary`: not even then, `Unavailable("not_mirrored")`.
        """
        engine = self.engine
        engine.require_open()

        def work(pages: Pages, deadline: float) -> list[Row]:
            # Before the scan: what is settled in between is in its rows.
            views = engine.pending_views(self.name)
            page: list[Row] = []
            rest = Span(span.prefix, span.after, size, span.reverse, query)
            until: float | None = deadline
            while len(page) < size:
                begun = time.monotonic()
                rows = pages.scan(self.name, rest, deadline=until)
                until = renewed(until, begun)
                wanted = partial(_is_wanted, rest)
                page += lay_over(rows, views, wanted, limit=size, reverse=rest.reverse)
                if len(rows) < size:
                    break
                rest = msgspec.structs.replace(rest, after=rows[-1].key)
            return page[:size]

        what, loop = f"scan of `{self.name}`", self.handle.loop()
        return await engine.pages(
            *(self.name, work), what=what, full_scan=full_scan, by_primary=by_primary, loop=loop
        )

    async def rows(
        self,
        span: KeyRange = KeyRange(),  # noqa: B008 - it is frozen
        query: Query | None = None,
        *,
        by_primary: bool = False,
    ) -> AsyncIterator[Row]:
        """The rows of a range, as `pages`, one by one."""
        async for page in self.pages(span, query, by_primary=by_primary):
            for row in page:
                yield row

    async def pages(
        self, span: KeyRange, query: Query | None = None, *, by_primary: bool = False
    ) -> AsyncIterator[Sequence[Row]]:
        """The rows of a range, in pages of 1,000; it ends when one was not full.

        What is compared comes one by one: a document that is unreadable has no say before it is
        reached.
        """
        contained = None if query is None or query.contained is MISSING else query.contained
        comparing = query is not None and bool(query.comparisons)
        size = PAGE if comparing or span.limit is None else min(PAGE, span.limit)
        full_scan = self.engine.full_scan(self.name) if span == KeyRange() and not query else None
        left = span.limit
        while True:
            page = await self.page(
                span, size=size, query=contained, full_scan=full_scan, by_primary=by_primary
            )
            for part in self._compared(page, query) if comparing else (page,):
                yield part if left is None else part[:left]
                if left is not None:
                    left -= len(part)
                    if left <= 0:
                        return
            if len(page) < size:
                return
            span = msgspec.structs.replace(span, after=page[-1].key)

    async def latest(self, span: KeyRange, query: Query, *, limit: int, reverse: bool) -> list[Row]:
        """Of all rows that the query finds, those changed first, or with `reverse` last."""
        sign = -1 if reverse else 1
        kept: list[tuple[tuple[int, int], Row]] = []
        number = 0
        async for row in self.rows(span, query):
            number += 1
            # A heap with the worst on top: ties go to the lower key, which comes first.
            entry = ((-sign * row.updated_us, -number), row)
            if len(kept) < limit:
                heapq.heappush(kept, entry)
            elif entry[0] > kept[0][0]:
                heapq.heapreplace(kept, entry)
        return [row for _, row in sorted(kept, key=lambda entry: entry[0], reverse=True)]

    def _compared(self, page: list[Row], query: Query | None) -> Iterator[list[Row]]:
        assert query is not None, "there are comparisons"
        return ([row] for row in page if query.compares(self._plain(row)))

    def _plain(self, row: Row) -> Any:
        try:
            return decode(row.text)
        except CorruptData as error:
            raise error.about(f"the document of key {row.key!r} in `{self.name}`") from None


def _is_wanted(span: Span, key: str, view: View) -> bool:
    """Whether a document on which something is pending belongs to a page."""
    if not span.has(key) or span.query is None:
        return span.has(key)
    return view.text is not None and contains(decode(view.text), span.query)


def _when(stamp_us: int | None) -> datetime | None:
    return None if stamp_us is None else from_microseconds(stamp_us)
