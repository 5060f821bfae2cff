"""The calls on one collection; each is written here, once, and the synchronous API drives it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar, overload

import msgspec

from standfast.api.collection import (
    PAGE,
    Consistency,
    Documents,
    KeyRange,
    NotADict,
    Order,
    key_range,
)
from standfast.api.drive import Each, pause_before
from standfast.api.store import StoreHandle
from standfast.document.codec import decode
from standfast.document.names import key_text
from standfast.document.patch import parse_pointer, resolve
from standfast.document.query import Query, parse_query
from standfast.document.typed import Typed
from standfast.document.values import MISSING, Missing, Unchanged
from standfast.engine.promise import Promise
from standfast.engine.write_queue import Result
from standfast.errors import ConfigError, ConflictError, DataError, Unavailable
from standfast.limits import MAX_PAGE, MAX_UPDATE_ATTEMPTS
from standfast.ops.apply import new_text
from standfast.ops.build import TimeToLive, build_op, raise_refusal
from standfast.ops.types import ABSENT, Document, Kind, Op, Receipt, Row

T = TypeVar("T")
D = TypeVar("D")


class AsyncCollection(NotADict, Generic[T]):
    """One collection of documents of an asynchronous store: `store["name"]`.

    Keys are strings; an int key is its decimal string.  Values are anything JSON, or `T`, the
    collection's type.  Every write is durable when it returns; the receipt says where.  A task that
    is cancelled gives up the answer only: its write is applied or journaled as a whole, or not at
    all.
    """

    _habit = "await collection."

    def __init__(self, handle: StoreHandle, name: str, typed: Typed | None = None) -> None:
        self.handle = handle
        self._documents: Documents[T] = Documents(handle, name, typed)
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncCollection({self.name!r})"

    # ---- writing

    async def _submit(
        self, op: Op, *, provisional: bool = False, read_modify_write: bool = False
    ) -> Result:
        """Write one op; where it is refused, that is raised."""
        (result,) = await self.handle.engine.submit(
            [op],
            loop=self.handle.loop(),
            provisional=provisional,
            read_modify_write=read_modify_write,
        )
        if result.outcome.status == "refused":
            raise_refusal(op, result.outcome)
        return result

    async def _change(
        self,
        kind: Kind,
        key: object,
        *,
        if_version: int | None = None,
        provisional: bool = False,
        **options: Any,
    ) -> Result:
        """Write what changes a document in place; of a typed one, only if it stays of its type.

        That is seen by reading it first, and holds if nobody has changed it when the write arrives.
        """
        if self._documents.typed is None:
            op = build_op(kind, self.name, key, if_version=if_version, **options)
            return await self._submit(op, provisional=provisional)
        draft = build_op(kind, self.name, key, **options)
        doing = f"{kind} of key {draft.key!r} in `{self.name}`"
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self.handle.loop())
            found = (await self._documents.read_one(draft.key)).view
            try:
                text = new_text(found.text, draft)
            except DataError as error:
                raise error.about(doing) from None
            if text is not None:
                self._documents.check(text, doing)
            seen = found.version if found.text is not None else ABSENT
            expected = seen if if_version is None else if_version
            op = build_op(kind, self.name, key, if_version=expected, **options)
            try:
                return await self._submit(
                    op, provisional=provisional, read_modify_write=if_version is None
                )
            except ConflictError:
                if if_version is not None:
                    raise
        raise self._contended(kind, key, "try again")

    async def put(
        self,
        key: str | int,
        value: T,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        ttl_s: TimeToLive | None = None,
        base: Document[Any] | Missing | None = MISSING,
        provisional: bool = False,
    ) -> Receipt:
        """Replace the document, or create it.

        `if_version`: only when it has that version (0: only when there is none); `if_absent`: only
        when there is none; else ConflictError.  `ttl_s`: it expires that many seconds, or that
        timedelta, from now by the database's clock; without it, it does not expire.  `base`: the
        document that the value was made from (None: there was none); what others changed since then
        is merged, three-way and field by field, and what cannot be merged is recorded as a
        conflict.

        While the primary is away the receipt says `durable_on="journal"` and has no version.  A
        condition needs the primary then, `Unavailable("needs_primary")`, unless `provisional`: it
        is judged by what is known here, and on replay holds only for exactly that document.
        """
        documents = self._documents
        if documents.typed is not None and isinstance(base, Document):
            base = documents.copy_of(base)
        op = build_op(
            *("put", self.name, key),
            body=value if documents.typed is None else documents.dump(value, key),
            if_version=if_version,
            if_absent=if_absent,
            ttl_s=ttl_s,
            base=base,
        )
        return (await self._submit(op, provisional=provisional)).receipt

    async def put_if_absent(
        self,
        key: str | int,
        value: T,
        *,
        ttl_s: TimeToLive | None = None,
        provisional: bool = False,
    ) -> bool:
        """Put the document if there is none; returns whether it was put.

        It needs the primary, as `put(if_absent=True)` does, of which it is the short form.
        """
        try:
            await self.put(key, value, if_absent=True, ttl_s=ttl_s, provisional=provisional)
        except ConflictError:
            return False
        return True

    async def touch(self, key: str | int, ttl_s: TimeToLive | None) -> Receipt:
        """Let the document expire `ttl_s` from now, None: never; its text is not sent again.

        It is a change: the version grows.  A receipt that is false: there is no document.  While
        the primary is away it is journaled; a document that ends there before the touch arrives is
        put back.
        """
        return (await self._submit(build_op("touch", self.name, key, ttl_s=ttl_s))).receipt

    async def patch(
        self,
        key: str | int,
        patch: Any,
        *,
        if_version: int | None = None,
        provisional: bool = False,
    ) -> Receipt:
        """Change members of the document by a merge patch (RFC 7396): null removes a member.

        A missing document starts as `{}`.  `if_version` and `provisional` as for `put`.
        """
        result = await self._change(
            "patch", key, body=patch, if_version=if_version, provisional=provisional
        )
        return result.receipt

    async def set(
        self,
        key: str | int,
        pointer: str,
        value: Any,
        *,
        if_version: int | None = None,
        provisional: bool = False,
    ) -> Receipt:
        """Put a value at a JSON pointer (RFC 6901), in the place of what is there, if anything is.

        Missing objects on the way, and a missing document, are created; an element of a list is
        replaced, never added.  The rest of the document is not touched, also when the write is
        replayed after an outage, and the expiry stays.  `if_version` and `provisional` as for
        `put`.
        """
        result = await self._change(
            *("set", key),
            pointer=pointer,
            body=value,
            if_version=if_version,
            provisional=provisional,
        )
        return result.receipt

    async def remove(
        self,
        key: str | int,
        pointer: str,
        *,
        if_version: int | None = None,
        provisional: bool = False,
    ) -> Receipt:
        """Take out what is at a JSON pointer (RFC 6901): a member, or an element of a list.

        A receipt that is false: nothing was there.  Elements behind a removed one move up.
        `if_version` and `provisional` as for `put`.
        """
        result = await self._change(
            "remove", key, pointer=pointer, if_version=if_version, provisional=provisional
        )
        return result.receipt

    async def append(self, key: str | int, pointer: str, item: Any) -> list[Any] | None:
        """Append to the list at a JSON pointer (RFC 6901); returns the list as it is then.

        `""` is the whole document; a missing list starts as `[]`.  ConflictError("moved"): it took
        effect, but the reply was lost and others changed the document before it could be read.
        While the primary is away: the list as far as it is known here, None where it is not.
        """
        return await self._changed_value(
            await self._change("append", key, pointer=pointer, body=item)
        )

    async def increment(self, key: str | int, pointer: str, n: float = 1) -> int | float | None:
        """Add to the number at a JSON pointer (RFC 6901); returns the new number.

        `""` is the whole document; a missing number starts as 0.  No two callers get the same
        number while the primary answers; ConflictError("moved"), and None, as for `append`.
        """
        return await self._changed_value(
            await self._change("increment", key, pointer=pointer, body=n)
        )

    async def _changed_value(self, result: Result) -> Any:
        op, outcome = result.op, result.outcome
        text = outcome.text
        if text is None and result.receipt.durable_on != "primary":
            return None
        if text is None:  # the reply was lost, and what the primary remembers has no document
            found = await self._documents.read_one(op.key)
            if found.view.text is None or found.view.version != outcome.version:
                raise ConflictError(
                    f"{op.kind} of key {op.key!r} in `{self.name}` took effect, but others changed"
                    " the document before its new value could be read",
                    code="moved",
                    hint="do not repeat it: read the document",
                    expected=outcome.version,
                    actual=found.view.version if found.view.text is not None else 0,
                )
            text = found.view.text
        return resolve(decode(text), parse_pointer(op.pointer))

    async def update(
        self,
        key: str | int,
        change: Callable[[T], T | Unchanged | Awaitable[T | Unchanged]],
        *,
        default: T | Missing = MISSING,
    ) -> T:
        """Read, let `change` compute a new value, and put it if no other write came first.

        Returns the new value.  Compare-and-set inside: `change` may be called several times and
        must be pure.  A missing document starts as `default`; without one, it is a ConflictError.
        `change` returns the new value, or `UNCHANGED` to leave the document as it is (which returns
        the value that it was given); None is refused.  Of an asynchronous store it may be an
        `async def`.  The expiry stays.  While the primary is away, the difference that `change`
        made is journaled, and merged on replay.
        """
        documents = self._documents
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self.handle.loop())
            found = await self.read(key)
            if found is not None:
                base = documents.copy_of(found)  # before `change` has had it in its hands
                given = found.value
            elif isinstance(default, Missing):
                raise ConflictError(
                    f"update of key {key_text(key)!r} in `{self.name}`: there is no document",
                    code="missing",
                    hint="give default=",
                    actual=0,
                )
            else:
                base, given = None, documents.copied(default, key)
            value = await self._changed_by(change, given, key)
            if isinstance(value, Unchanged):
                return given if found is None else documents.again(base, key)
            op = build_op(
                *("put", self.name, key),
                body=documents.dump(value, key),
                if_version=found.version if found else ABSENT,
                base=base,
                keep_expiry=True,
            )
            try:
                result = await self._submit(op, read_modify_write=True)
            except ConflictError:
                continue
            return documents.load(result.op.body or "null", result.op.key)
        raise self._contended("update", key, "use patch, append or increment, which never conflict")

    async def _changed_by(self, change: Callable[[T], Any], given: T, key: object) -> T | Unchanged:
        value = change(given)
        if inspect.isawaitable(value):
            if self.handle.loop() is None:
                if inspect.iscoroutine(value):
                    value.close()
                raise ConfigError(
                    f"update of key {key_text(key)!r} in `{self.name}`: the change is asynchronous",
                    code="usage",
                    hint="give a plain function, or use standfast.open_async",
                )
            value = await value
        if value is None:
            raise DataError(
                f"update of key {key_text(key)!r} in `{self.name}`: change returned None",
                code="returned_none",
                hint="return the new value, or UNCHANGED; put(key, None) stores null",
            )
        return value

    @overload
    async def delete(
        self, key: str | int, *, if_version: int | None = None, provisional: bool = False
    ) -> Receipt: ...
    @overload
    async def delete(self, *, prefix: str, provisional: bool = False) -> int: ...
    async def delete(
        self,
        key: str | int | Missing = MISSING,
        *,
        prefix: str | None = None,
        if_version: int | None = None,
        provisional: bool = False,
    ) -> Receipt | int:
        """Delete the document; a receipt that is false: there was none.

        With `prefix` in the place of a key: every document whose key begins so.  Returns how many
        there were.  They are deleted in transactions of 1,000; one that was cut short is completed
        by the same call again.  Documents that are created meanwhile may stay.  Which keys there
        are has to be said by the primary, `Unavailable("needs_primary")` while it is away, unless
        the store was opened with `sole_writer` or the call says `provisional`: then it goes by what
        is known here, if that is the whole collection.
        """
        if prefix is None:
            op = build_op("delete", self.name, key, if_version=if_version)
            return (await self._submit(op, provisional=provisional)).receipt
        if not isinstance(key, Missing) or if_version is not None or not key_text(prefix):
            raise ConfigError(
                f"delete of keys with a prefix in `{self.name}`: it takes a prefix that is not"
                " empty, and neither key nor if_version",
                code="usage",
                hint="clear() deletes every document",
            )
        return await self._delete_all(prefix, provisional=provisional)

    async def clear(self, *, provisional: bool = False) -> int:
        """Delete every document, as `delete(prefix=)` does; returns how many there were."""
        return await self._delete_all("", provisional=provisional)

    async def _delete_all(self, prefix: str, *, provisional: bool) -> int:
        span, count = key_range(prefix, limit=PAGE), 0
        by_primary = not (provisional or self.handle.engine.sole_writer)
        while True:
            try:
                page = [row.key async for row in self._documents.rows(span, by_primary=by_primary)]
            except Unavailable as error:
                if error.code != "not_mirrored":
                    raise
                raise needs_primary_keys(self.name, count) from error
            receipts = await self.delete_many(page)
            count += sum(map(bool, receipts.values()))
            if len(page) < PAGE:
                return count
            span = msgspec.structs.replace(span, after=page[-1])

    async def delete_many(self, keys: Iterable[str | int]) -> dict[str, Receipt]:
        """Delete many documents, in transactions of 1,000; a receipt for each key.

        Those that are false had no document.  While the primary is away it is journaled.
        """
        ops = [build_op("delete", self.name, key) for key in dict.fromkeys(self._keys(keys))]
        return await self._write_many(ops)

    @overload
    async def pop(self, key: str | int, default: None = None) -> T | None: ...
    @overload
    async def pop(self, key: str | int, default: T) -> T: ...
    @overload
    async def pop(self, key: str | int, default: D) -> T | D: ...
    async def pop(self, key: str | int, default: D | None = None) -> T | D | None:
        """Delete the document and return its value, or `default` when there is none.

        Of two callers at once, only one gets the value; so it needs the primary.
        """
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self.handle.loop())
            found = await self.read(key)
            if found is None:
                return default
            try:
                await self.delete(key, if_version=found.version)
            except ConflictError:
                continue
            return found.value
        raise self._contended("pop", key, "try again")

    async def get_or_create(self, key: str | int, default: T) -> T:
        """The document's value; `default` is put first when there is none.

        Of several callers at once, one creates it and all get the same value; so creating needs
        the primary.
        """
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self.handle.loop())
            found = await self.read(key)
            if found is not None:
                return found.value
            try:
                await self.put(key, default, if_absent=True)
            except ConflictError:
                continue
            return self._documents.copied(default, key)
        raise self._contended("get_or_create", key, "try again")

    async def put_many(
        self,
        documents: Mapping[str, T] | Mapping[int, T],
        *,
        ttl_s: TimeToLive | None = None,
    ) -> dict[str, Receipt]:
        """Put many documents, in transactions of 1,000, all checked before the first is sent.

        Two that are one key, as 1 and "1" are, are refused.  `ttl_s`: they expire that long from
        now, as for `put`.
        """
        dump = self._documents.dump
        if not isinstance(documents, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"put_many in `{self.name}` got a {type(documents).__name__}",
                code="usage",
                hint="give a dict: documents by key",
            )
        ops = [
            build_op("put", self.name, key, body=dump(value, key), ttl_s=ttl_s)
            for key, value in documents.items()
        ]
        if len({op.key for op in ops}) < len(ops):
            raise self._one_key_twice(op.key for op in ops)
        return await self._write_many(ops)

    def _one_key_twice(self, keys: Iterable[str]) -> DataError:
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))
        return DataError(
            f"put_many in `{self.name}` got two documents for key {twice!r}: an int key is its"
            " decimal string",
            code="bad_key",
            hint="give one of them; nothing was written",
        )

    def _keys(self, keys: Iterable[str | int]) -> list[str]:
        """The texts of several keys; a single text is a mistake, and not a list of letters."""
        if isinstance(keys, str | bytes):
            raise ConfigError(
                f"several keys in `{self.name}` are given as one text",
                code="usage",
                hint="give a list of keys",
            )
        return [key_text(key) for key in keys]

    async def _write_many(self, ops: Sequence[Op]) -> dict[str, Receipt]:
        receipts: dict[str, Receipt] = {}
        self.handle.engine.require_open()
        for start in range(0, len(ops), PAGE):
            page = ops[start : start + PAGE]
            for result in await self.handle.engine.submit(page, loop=self.handle.loop()):
                if result.outcome.status == "refused":
                    raise_refusal(result.op, result.outcome)
                receipts[result.op.key] = result.receipt
        return receipts

    def _contended(self, what: str, key: object, hint: str) -> ConflictError:
        return ConflictError(
            f"{what} of key {key_text(key)!r} in `{self.name}`: other writers were faster"
            f" {MAX_UPDATE_ATTEMPTS} times",
            code="contended",
            hint=hint,
        )

    # ---- reading

    async def read(
        self, key: str | int, *, consistency: Consistency = "primary"
    ) -> Document[T] | None:
        """The document with its version and times, or None.

        `consistency="primary"` asks the primary, and the mirror while it is away; `"local"` asks
        the mirror, in the caller's own thread.  The document says its source and age.  What is not
        known here while the primary is away is `Unavailable`, never None.
        """
        text = key_text(key)
        result = self._documents.ask(text, consistency)
        if isinstance(result, Promise):
            result = await result
        return self._documents.of(result, text)

    @overload
    async def get(
        self, key: str | int, default: None = None, *, consistency: Consistency = "primary"
    ) -> T | None: ...
    @overload
    async def get(
        self, key: str | int, default: T, *, consistency: Consistency = "primary"
    ) -> T: ...
    @overload
    async def get(
        self, key: str | int, default: D, *, consistency: Consistency = "primary"
    ) -> T | D: ...
    async def get(
        self, key: str | int, default: D | None = None, *, consistency: Consistency = "primary"
    ) -> T | D | None:
        """The document's value, or `default` when there is none; `consistency` as for `read`."""
        text = key_text(key)
        result = self._documents.ask(text, consistency)
        if isinstance(result, Promise):
            result = await result
        found = result.view.text
        return default if found is None else self._documents.load(found, text)

    async def get_many(
        self, keys: Iterable[str | int], *, consistency: Consistency = "primary"
    ) -> dict[str, T]:
        """The values of those of the documents that exist, by key (an int key as its string)."""
        documents = self._documents
        self.handle.engine.require_open()
        wanted = self._keys(keys)
        values: dict[str, T] = {}
        for start in range(0, len(wanted), PAGE):
            page = wanted[start : start + PAGE]
            results = [documents.ask(key, consistency) for key in page]  # all before the first wait
            for key, result in zip(page, results, strict=True):
                found = await result if isinstance(result, Promise) else result
                if found.view.text is not None:
                    values[key] = documents.load(found.view.text, key)
        return values

    async def exists(self, key: str | int, *, consistency: Consistency = "primary") -> bool:
        """Whether there is a document; `consistency` as for `read`."""
        return (await self._documents.read_one(key_text(key), consistency)).view.text is not None

    async def count(self) -> int:
        """The number of documents."""
        return await self._documents.count()

    async def as_of(self) -> float | None:
        """As of when `keys`, `items`, `find`, `first`, `last` and `count` answer, in seconds of
        `time.time()`; None: as of now, by the primary.

        During an outage a collection that was once read whole is shown as it was then, with the
        writes of this data directory: what others created later is missing.  Raises as they do.
        """
        return await self._documents.as_of()

    async def first(self, *, prefix: str = "") -> Document[T] | None:
        """The document with the lowest key in bytewise order, or None."""
        return await self._end(key_range(prefix, limit=1))

    async def last(self, *, prefix: str = "") -> Document[T] | None:
        """The document with the highest key in bytewise order, or None."""
        return await self._end(key_range(prefix, limit=1, reverse=True))

    async def _end(self, span: KeyRange) -> Document[T] | None:
        rows = await self._documents.page(span, size=1)
        return self._documents.of_row(rows[0]) if rows else None

    def keys(
        self,
        *,
        prefix: str = "",
        after: str | int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[str]:
        """Every key in bytewise order, read in pages of 1,000.

        `prefix`: those that begin so; `limit`: at most so many; `reverse`: from the last to the
        first; `after`: those behind this key, in that order.
        """
        span = key_range(prefix, after=after, limit=limit, reverse=reverse)
        return Each(self._pages(span), lambda row: row.key)

    def items(
        self,
        *,
        prefix: str = "",
        after: str | int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[tuple[str, T]]:
        """Every key and value in bytewise order of the keys; the range as for `keys`.

        Each page of 1,000 is a snapshot of its own: what changes meanwhile may show or not.
        """
        span = key_range(prefix, after=after, limit=limit, reverse=reverse)
        load = self._documents.load
        return Each(self._pages(span), lambda row: (row.key, load(row.text, row.key)))

    def find(
        self,
        query: Any,
        *,
        prefix: str = "",
        after: str | int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        order_by: Order = "key",
    ) -> AsyncIterator[Document[T]]:
        """The documents that contain `query`, by the rules of PostgreSQL's `@>`, in key order.

        Every member of the query must be in the document; lists contain by element.  In the place
        of a member's value, `gt(10)`, `ge`, `lt` and `le` compare numbers and strings.  The same
        answer on every backend; `collection(name, index=True)` makes it fast on PostgreSQL, but for
        comparisons, for which all that contains the rest of the query is read.

        The range as for `keys`.  `order_by="updated_at"`: by the time of the last change, oldest
        first, with `reverse` newest first; it needs a `limit` and reads all that is found.
        """
        if query is None:
            raise ConfigError(
                f"find(None) in `{self.name}` asks for nothing",
                code="usage",
                hint="items() gives every document",
            )
        parts = parse_query(query)
        if order_by == "key":
            span = key_range(prefix, after=after, limit=limit, reverse=reverse)
            pages = self._pages(span, parts)
        else:
            pages = self._latest(
                prefix, parts, after=after, limit=limit, reverse=reverse, by=order_by
            )
        return Each(pages, self._documents.of_row)

    def _pages(self, span: KeyRange, query: Query | None = None) -> AsyncIterator[Sequence[Row]]:
        self.handle.engine.require_open()
        return self._documents.pages(span, query)

    def _latest(
        self,
        prefix: str,
        query: Query,
        *,
        after: object,
        limit: int | None,
        reverse: bool,
        by: object,
    ) -> AsyncIterator[Sequence[Row]]:
        key_range(prefix, limit=limit)
        if by != "updated_at" or after is not None or limit is None or limit > MAX_PAGE:
            raise ConfigError(
                f"find in `{self.name}` with order_by={by!r}, after={after!r}, limit={limit!r}",
                code="usage",
                hint=f"order_by='updated_at' takes a limit of 1 to {MAX_PAGE}, and no after=",
            )
        self.handle.engine.require_open()
        span, count = key_range(prefix), limit

        async def pages() -> AsyncIterator[Sequence[Row]]:
            yield await self._documents.latest(span, query, limit=count, reverse=reverse)

        return pages()

    # ---- habits

    def __aiter__(self) -> AsyncIterator[str]:
        """`async for key in collection`: every key, as `keys()`."""
        return self.keys()

    def __contains__(self, key: object) -> NoReturn:
        raise self._not_like_a_dict("in", "exists(key)")


def needs_primary_keys(collection: str, deleted: int) -> Unavailable:
    """The error of a deletion whose keys only the primary can name."""
    return Unavailable(
        f"delete of all keys in `{collection}`: only the primary can say which there are, and it"
        f" does not answer; {deleted} were deleted before that",
        code="needs_primary",
        hint="try again later, or delete_many(keys) by the keys that you know",
    )
