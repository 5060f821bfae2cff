"""The synchronous face: a store of collections of documents."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from holdfast.backends.base import readable
from holdfast.codec import decode, encode
from holdfast.engine.inline import InlineEngine
from holdfast.errors import ConfigError, ConflictError, DataError
from holdfast.jsonvalue import MISSING
from holdfast.limits import MAX_BATCH_OPS, MAX_PAGE, MAX_UPDATE_ATTEMPTS
from holdfast.naming import collection_name, key_text
from holdfast.ops import build_op, raise_refusal
from holdfast.patch import parse_pointer, resolve
from holdfast.types import ABSENT, Document, Kind, Op, Outcome, Receipt, Row, from_microseconds

#: Documents that one transaction of `put_many` and one page of `items` take.
PAGE = 1000

#: Who loses a race of compare-and-set waits before trying again, at random and longer each time:
#: without a pause, eight threads that update one document make some lose 50 times in a row.
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.25


def _attempts() -> Iterator[int]:
    """The numbers of the attempts of a compare-and-set, with a pause before each but the first."""
    for attempt in range(MAX_UPDATE_ATTEMPTS):
        if attempt:
            longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
            time.sleep(random.random() * longest)
        yield attempt


class Collection:
    """One collection of documents of a store: `store["name"]`.

    Keys are strings; an int key is its decimal string.  Values are anything JSON.  Every write is
    durable on the primary when it returns.
    """

    def __init__(self, engine: InlineEngine, name: str) -> None:
        self._engine = engine
        self._backend = engine.backend
        self.name = name

    def __repr__(self) -> str:
        return f"Collection({self.name!r})"

    # ---- writing

    def _write(self, kind: Kind, key: object, **options: Any) -> tuple[Op, Outcome, Receipt]:
        op = build_op(kind, self.name, key, **options)
        ((outcome, receipt),) = self._engine.write([op])
        if outcome.status == "refused":
            raise_refusal(op, outcome)
        return op, outcome, receipt

    def put(
        self,
        key: str | int,
        value: Any,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        ttl_s: float | None = None,
    ) -> Receipt:
        """Replace the document, or create it.

        `if_version`: only when it has that version (0: only when there is none); `if_absent`: only
        when there is none; else ConflictError.  `ttl_s`: it expires that many seconds from now by
        the database's clock; without it, it does not expire.
        """
        options = {"if_version": if_version, "if_absent": if_absent, "ttl_s": ttl_s}
        return self._write("put", key, body=value, **options)[2]

    def patch(self, key: str | int, patch: Any, *, if_version: int | None = None) -> Receipt:
        """Change members of the document by a merge patch (RFC 7396): null removes a member.

        A missing document starts as `{}`.
        """
        return self._write("patch", key, body=patch, if_version=if_version)[2]

    def append(self, key: str | int, pointer: str, item: Any) -> Any:
        """Append to the list at a JSON pointer (RFC 6901); returns the list as it is then.

        `""` is the whole document; a missing list starts as `[]`.  ConflictError("moved"): it took
        effect, but the reply was lost and others changed the document before it could be read.
        """
        return self._changed_value(*self._write("append", key, pointer=pointer, body=item)[:2])

    def increment(self, key: str | int, pointer: str, n: float = 1) -> Any:
        """Add to the number at a JSON pointer (RFC 6901); returns the new number.

        `""` is the whole document; a missing number starts as 0.  No two callers get the same
        number; ConflictError("moved") as for `append`.
        """
        return self._changed_value(*self._write("increment", key, pointer=pointer, body=n)[:2])

    def _changed_value(self, op: Op, outcome: Outcome) -> Any:
        text = outcome.text
        if text is None:  # the reply was lost, and told again without the document
            row = self._row(op.key)
            if row is None or row.version != outcome.version:
                raise ConflictError(
                    f"{op.kind} of key {op.key!r} in `{self.name}` took effect, but others changed"
                    " the document before its new value could be read",
                    code="moved",
                    hint="do not repeat it: read the document",
                    expected=outcome.version,
                    actual=row.version if row else 0,
                )
            text = row.text
        return resolve(decode(text), parse_pointer(op.pointer))

    def update(
        self, key: str | int, change: Callable[[Any], Any], *, default: Any = MISSING
    ) -> Receipt:
        """Read, let `change` make a new value of the old one, and put it if nobody was faster.

        Compare-and-set inside: `change` may be called several times and must be pure.  A missing
        document starts as `default`; without one, it is a ConflictError.
        """
        for _ in _attempts():
            found = self.read(key)
            if found is None and default is MISSING:
                raise ConflictError(
                    f"update of key {key_text(key)!r} in `{self.name}`: there is no document",
                    code="missing",
                    hint="give default=",
                    actual=0,
                )
            value = change(found.value if found else decode(encode(default)))
            try:
                return self.put(key, value, if_version=found.version if found else ABSENT)
            except ConflictError:
                continue
        raise ConflictError(
            f"update of key {key_text(key)!r} in `{self.name}`: other writers were faster"
            f" {MAX_UPDATE_ATTEMPTS} times",
            code="contended",
            hint="use patch, append or increment, which never conflict",
        )

    def delete(self, key: str | int, *, if_version: int | None = None) -> Receipt:
        """Delete the document; deleting what is not there is no error (version 0)."""
        return self._write("delete", key, if_version=if_version)[2]

    def pop(self, key: str | int, default: Any = None) -> Any:
        """Delete the document and return its value, or `default` when there is none.

        Of two callers at once, only one gets the value.
        """
        for _ in _attempts():
            found = self.read(key)
            if found is None:
                return default
            try:
                self.delete(key, if_version=found.version)
            except ConflictError:
                continue
            return found.value
        raise ConflictError(
            f"pop of key {key_text(key)!r} in `{self.name}`: other writers were always faster",
            code="contended",
            hint="try again",
        )

    def get_or_create(self, key: str | int, default: Any) -> Any:
        """The document's value; `default` is put, if there is none, and returned."""
        for _ in _attempts():
            found = self.read(key)
            if found is not None:
                return found.value
            try:
                self.put(key, default, if_absent=True)
            except ConflictError:
                continue
            return decode(encode(default))
        raise ConflictError(
            f"get_or_create of key {key_text(key)!r} in `{self.name}`: it came and went",
            code="contended",
            hint="try again",
        )

    def put_many(self, documents: Mapping[Any, Any]) -> dict[str, Receipt]:
        """Put many documents, in transactions of 1,000, all checked before the first is sent."""
        ops = [build_op("put", self.name, key, body=value) for key, value in documents.items()]
        receipts: dict[str, Receipt] = {}
        for start in range(0, len(ops), PAGE):
            page = ops[start : start + PAGE]
            for op, (outcome, receipt) in zip(page, self._engine.write(page), strict=True):
                if outcome.status == "refused":
                    raise_refusal(op, outcome)
                receipts[op.key] = receipt
        return receipts

    # ---- reading

    def _row(self, key: str | int) -> Row | None:
        self._engine.require_open()
        text = key_text(key)
        return self._backend.read(self.name, [text]).get(text)

    def read(self, key: str | int) -> Document | None:
        """The document with its version and times, or None."""
        row = self._row(key)
        return self._document(row) if row is not None else None

    def get(self, key: str | int, default: Any = None) -> Any:
        """The document's value, or `default` when there is none."""
        row = self._row(key)
        return readable(self.name, row) if row is not None else default

    def get_many(self, keys: Iterable[str | int]) -> dict[str, Any]:
        """The values of those of the documents that exist, by key (an int key as its string)."""
        self._engine.require_open()
        wanted = [key_text(key) for key in keys]
        values: dict[str, Any] = {}
        for start in range(0, len(wanted), PAGE):
            page = self._backend.read(self.name, wanted[start : start + PAGE])
            values.update((key, readable(self.name, row)) for key, row in page.items())
        return values

    def keys(self, *, prefix: str = "", after: str | None = None, limit: int = PAGE) -> list[str]:
        """One page of keys in bytewise order: with `prefix`, after `after`, at most `limit`."""
        return [row.key for row in self._page(prefix, after, limit)]

    def items(self, *, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every key and value in bytewise order of the keys, read in pages of 1,000.

        Each page is a snapshot of its own: what changes meanwhile may show or not.
        """
        self._engine.require_open()
        return ((row.key, readable(self.name, row)) for row in self._rows(key_text(prefix)))

    def find(self, query: Any, *, prefix: str = "") -> Iterator[Document]:
        """The documents that contain `query`, by the rules of PostgreSQL's `@>`, in key order.

        Every member of the query must be in the document; lists contain by element.  The same
        answer on every backend; `collection(name, index=True)` makes it fast on PostgreSQL.
        """
        self._engine.require_open()
        if query is None:
            raise ConfigError(
                "find(None) asks for nothing", code="usage", hint="items() gives every document"
            )
        query = decode(encode(query))
        return (self._document(row) for row in self._rows(key_text(prefix), query))

    def count(self) -> int:
        """The number of documents."""
        self._engine.require_open()
        return self._backend.count(self.name)

    def _document(self, row: Row) -> Document:
        return Document(
            key=row.key,
            value=readable(self.name, row),
            version=row.version,
            source="primary",
            age_s=0.0,
            created_at=from_microseconds(row.created_us),
            updated_at=from_microseconds(row.updated_us),
        )

    def _page(self, prefix: str, after: str | None, limit: int, query: Any = None) -> list[Row]:
        self._engine.require_open()
        if not 0 < limit <= MAX_PAGE:
            raise ConfigError(
                f"limit={limit!r} is no page size", code="usage", hint=f"give 1 to {MAX_PAGE}"
            )
        return self._backend.scan(
            self.name,
            prefix=key_text(prefix),
            after=None if after is None else key_text(after),
            limit=limit,
            query=query,
        )

    def _rows(self, prefix: str, query: Any = None) -> Iterator[Row]:
        after: str | None = None
        while page := self._page(prefix, after, PAGE, query):
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].key


class Batch:
    """Writes to several documents that stand or fall together: `with store.batch() as b:`.

    Nothing is written before the block ends, and nothing at all when it ends with an exception.
    `receipts` holds one for each write afterwards, in order.
    """

    def __init__(self, engine: InlineEngine) -> None:
        self._engine = engine
        self._in_block = False
        self._ops: list[Op] = []
        self.receipts: list[Receipt] = []

    def _add(self, kind: Kind, collection: str, key: str | int, **options: Any) -> None:
        if not self._in_block:
            raise ConfigError(
                "a batch was written to outside of its `with` block",
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

    def put(self, collection: str, key: str | int, value: Any, **options: Any) -> None:
        """As `Collection.put`, with the same options."""
        self._add("put", collection, key, body=value, **options)

    def patch(self, collection: str, key: str | int, patch: Any, **options: Any) -> None:
        """As `Collection.patch`, with the same options."""
        self._add("patch", collection, key, body=patch, **options)

    def append(self, collection: str, key: str | int, pointer: str, item: Any) -> None:
        """As `Collection.append`; the new list is not returned."""
        self._add("append", collection, key, pointer=pointer, body=item)

    def increment(self, collection: str, key: str | int, pointer: str, n: float = 1) -> None:
        """As `Collection.increment`; the new number is not returned."""
        self._add("increment", collection, key, pointer=pointer, body=n)

    def delete(self, collection: str, key: str | int, **options: Any) -> None:
        """As `Collection.delete`, with the same options."""
        self._add("delete", collection, key, **options)

    def __enter__(self) -> Batch:
        self._in_block, self._ops, self.receipts = True, [], []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._in_block = False
        if kind is not None or not self._ops:
            return
        results = self._engine.write(self._ops)
        for op, (outcome, _) in zip(self._ops, results, strict=True):
            if outcome.status == "refused" and outcome.code != "batch":
                raise_refusal(op, outcome)
        self.receipts = [receipt for _, receipt in results]


class Store:
    """An open store; `store["name"]` is a collection.  Thread-safe.  Made by `holdfast.open`."""

    def __init__(self, engine: InlineEngine) -> None:
        self._engine = engine
        self._collections: dict[str, Collection] = {}

    def __getitem__(self, name: str) -> Collection:
        found = self._collections.get(name)
        if found is None:
            found = Collection(self._engine, collection_name(name))
            self._collections[name] = found
        return found

    def collection(self, name: str, *, index: bool = False) -> Collection:
        """A collection; `index=True` makes its `find` fast (a GIN index on PostgreSQL)."""
        found = self[name]
        if index:
            self._engine.require_open()
            self._engine.backend.create_index(found.name)
        return found

    def collections(self) -> list[str]:
        """The names of the collections that exist, sorted."""
        self._engine.require_open()
        return self._engine.backend.collections()

    def batch(self) -> Batch:
        """Writes that stand or fall together, as a context manager."""
        self._engine.require_open()
        return Batch(self._engine)

    def close(self) -> None:
        """Release the database.  Idempotent; every write that returned is safe already."""
        self._engine.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self._engine.backend.display!r})"
