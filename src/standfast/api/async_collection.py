"""The calls on one collection; each is written here, once, and the synchronous API drives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, overload

from standfast.api.collection import PAGE, Consistency, Documents
from standfast.api.drive import pause_before
from standfast.api.store import StoreHandle
from standfast.document.codec import decode, encode
from standfast.document.names import key_text
from standfast.document.patch import parse_pointer, resolve
from standfast.document.typed import Typed
from standfast.document.values import MISSING, Missing
from standfast.engine.interfaces import Engine
from standfast.engine.promise import Promise
from standfast.engine.write_queue import Result
from standfast.errors import ConfigError, ConflictError
from standfast.limits import MAX_UPDATE_ATTEMPTS
from standfast.ops.build import build_op, raise_refusal
from standfast.ops.types import ABSENT, Document, Kind, Receipt, Row

T = TypeVar("T")
D = TypeVar("D")


class AsyncCollection(Generic[T]):
    """One collection of documents of an asynchronous store: `store["name"]`.

    Keys are strings; an int key is its decimal string.  Values are anything JSON, or `T`, the
    collection's type.  Every write is durable when it returns; the receipt says where.  A task that
    is cancelled gives up the answer only: its write is applied or journaled as a whole, or not at
    all.
    """

    def __init__(self, handle: StoreHandle, name: str, typed: Typed | None = None) -> None:
        self._handle = handle
        self._documents: Documents[T] = Documents(handle, name, typed)
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncCollection({self.name!r})"

    @property
    def engine(self) -> Engine:
        """The engine that serves the calls; not for users."""
        return self._handle.engine

    # ---- writing

    async def _write(
        self,
        kind: Kind,
        key: object,
        *,
        provisional: bool = False,
        read_modify_write: bool = False,
        **options: Any,
    ) -> Result:
        op = build_op(kind, self.name, key, **options)
        (result,) = await self._handle.engine.submit(
            [op],
            loop=self._handle.loop(),
            provisional=provisional,
            read_modify_write=read_modify_write,
        )
        if result.outcome.status == "refused":
            raise_refusal(op, result.outcome)
        return result

    async def put(
        self,
        key: str | int,
        value: T,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        ttl_s: float | None = None,
        base: Document[Any] | Missing | None = MISSING,
        provisional: bool = False,
    ) -> Receipt:
        """Replace the document, or create it.

        `if_version`: only when it has that version (0: only when there is none); `if_absent`: only
        when there is none; else ConflictError.  `ttl_s`: it expires that many seconds from now by
        the database's clock; without it, it does not expire.  `base`: the document that the value
        was made from (None: there was none); what others changed since then is merged, three-way
        and field by field, and what cannot be merged is recorded as a conflict.

        While the primary is away the receipt says `durable_on="journal"` and has no version.  A
        condition needs the primary then, `Unavailable("needs_primary")`, unless `provisional`: it
        is judged by what is known here, and on replay holds only for exactly that document.
        """
        result = await self._write(
            *("put", key),
            body=self._documents.dump(value, key),
            if_version=if_version,
            if_absent=if_absent,
            ttl_s=ttl_s,
            base=base,
            provisional=provisional,
        )
        return result.receipt

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
        result = await self._write(
            "patch", key, body=patch, if_version=if_version, provisional=provisional
        )
        return result.receipt

    async def append(self, key: str | int, pointer: str, item: Any) -> list[Any] | None:
        """Append to the list at a JSON pointer (RFC 6901); returns the list as it is then.

        `""` is the whole document; a missing list starts as `[]`.  ConflictError("moved"): it took
        effect, but the reply was lost and others changed the document before it could be read.
        While the primary is away: the list as far as it is known here, None where it is not.
        """
        return await self._changed_value(
            await self._write("append", key, pointer=pointer, body=item)
        )

    async def increment(self, key: str | int, pointer: str, n: float = 1) -> int | float | None:
        """Add to the number at a JSON pointer (RFC 6901); returns the new number.

        `""` is the whole document; a missing number starts as 0.  No two callers get the same
        number while the primary answers; ConflictError("moved"), and None, as for `append`.
        """
        return await self._changed_value(
            await self._write("increment", key, pointer=pointer, body=n)
        )

    async def _changed_value(self, result: Result) -> Any:
        op, outcome, receipt = result
        text = outcome.text
        if text is None and receipt.durable_on != "primary":
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
        self, key: str | int, change: Callable[[T], T], *, default: T | Missing = MISSING
    ) -> Receipt:
        """Read, let `change` compute a new value, and put it if no other write came first.

        Compare-and-set inside: `change` may be called several times and must be pure.  A missing
        document starts as `default`; without one, it is a ConflictError.  While the primary is
        away, the difference that it made is journaled, and merged on replay.
        """
        documents = self._documents
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self._handle.loop())
            found = await self.read(key)
            if found is not None:
                base = documents.copy_of(found)  # before `change` has had it in its hands
                value = change(found.value)
            elif isinstance(default, Missing):
                raise ConflictError(
                    f"update of key {key_text(key)!r} in `{self.name}`: there is no document",
                    code="missing",
                    hint="give default=",
                    actual=0,
                )
            else:
                base, value = None, change(documents.copied(default, key))
            try:
                result = await self._write(
                    *("put", key),
                    body=documents.dump(value, key),
                    if_version=found.version if found else ABSENT,
                    base=base,
                    read_modify_write=True,
                )
            except ConflictError:
                continue
            return result.receipt
        raise self._contended("update", key, "use patch, append or increment, which never conflict")

    async def delete(
        self, key: str | int, *, if_version: int | None = None, provisional: bool = False
    ) -> Receipt:
        """Delete the document; deleting what is not there is not an error (version 0)."""
        result = await self._write("delete", key, if_version=if_version, provisional=provisional)
        return result.receipt

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
            await pause_before(attempt, self._handle.loop())
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
            await pause_before(attempt, self._handle.loop())
            found = await self.read(key)
            if found is not None:
                return found.value
            try:
                await self.put(key, default, if_absent=True)
            except ConflictError:
                continue
            return self._documents.copied(default, key)
        raise self._contended("get_or_create", key, "try again")

    async def put_many(self, documents: Mapping[str, T] | Mapping[int, T]) -> dict[str, Receipt]:
        """Put many documents, in transactions of 1,000, all checked before the first is sent."""
        dump = self._documents.dump
        ops = [
            build_op("put", self.name, key, body=dump(value, key))
            for key, value in documents.items()
        ]
        receipts: dict[str, Receipt] = {}
        for start in range(0, len(ops), PAGE):
            page = ops[start : start + PAGE]
            for op, outcome, receipt in await self.engine.submit(page, loop=self._handle.loop()):
                if outcome.status == "refused":
                    raise_refusal(op, outcome)
                receipts[op.key] = receipt
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
        self.engine.require_open()
        wanted = [key_text(key) for key in keys]
        values: dict[str, T] = {}
        for start in range(0, len(wanted), PAGE):
            page = wanted[start : start + PAGE]
            results = [documents.ask(key, consistency) for key in page]  # all before the first wait
            for key, result in zip(page, results, strict=True):
                found = await result if isinstance(result, Promise) else result
                if found.view.text is not None:
                    values[key] = documents.load(found.view.text, key)
        return values

    async def keys(
        self, *, prefix: str = "", after: str | None = None, limit: int = PAGE
    ) -> list[str]:
        """One page of keys in bytewise order: with `prefix`, after `after`, at most `limit`."""
        rows = await self._documents.page(prefix, after, limit=limit)
        return [row.key for row in rows]

    async def count(self) -> int:
        """The number of documents."""
        return await self._documents.count()

    def items(self, *, prefix: str = "") -> AsyncIterator[tuple[str, T]]:
        """Every key and value in bytewise order of the keys, read in pages of 1,000.

        Each page is a snapshot of its own: what changes meanwhile may show or not.
        """
        load = self._documents.load
        return ((row.key, load(row.text, row.key)) async for row in self._rows(prefix))

    def find(self, query: Any, *, prefix: str = "") -> AsyncIterator[Document[T]]:
        """The documents that contain `query`, by the rules of PostgreSQL's `@>`, in key order.

        Every member of the query must be in the document; lists contain by element.  The same
        answer on every backend; `collection(name, index=True)` makes it fast on PostgreSQL.
        """
        if query is None:
            raise ConfigError(
                f"find(None) in `{self.name}` asks for nothing",
                code="usage",
                hint="items() gives every document",
            )
        of_row = self._documents.of_row
        return (of_row(row) async for row in self._rows(prefix, decode(encode(query))))

    def _rows(self, prefix: str, query: Any = None) -> AsyncIterator[Row]:
        self.engine.require_open()
        return self._documents.rows(key_text(prefix), query)
