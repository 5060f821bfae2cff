"""The calls on a collection, once for both faces: generators that yield what they wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from standfast.api.documents import Documents
from standfast.api.drive import Caller, Steps, pause_before
from standfast.document.codec import decode, encode
from standfast.document.containment import contains
from standfast.document.names import key_text
from standfast.document.patch import parse_pointer, resolve
from standfast.document.typed import Typed
from standfast.document.values import MISSING, Missing
from standfast.engine.full_scan import FullScan, Pages
from standfast.engine.interfaces import Engine, ReadResult
from standfast.engine.overlay import View, lay_over
from standfast.engine.promise import Promise
from standfast.engine.write_queue import Result
from standfast.errors import ConfigError, ConflictError
from standfast.limits import MAX_PAGE, MAX_UPDATE_ATTEMPTS
from standfast.ops.build import build_op, raise_refusal
from standfast.ops.types import ABSENT, Document, Kind, Receipt, Row

Consistency = Literal["primary", "local"]

#: Documents that one transaction of `put_many` and one page of `items` take.
PAGE = 1000


class CollectionCalls(Documents):
    """The calls on one collection; a face has them as `calls`.

    Keys are strings; an int key is its decimal string.  Values are anything JSON, or values of the
    collection's type.
    """

    def __init__(self, caller: Caller, name: str, typed: Typed | None = None) -> None:
        super().__init__(name, typed)
        self._caller = caller

    @property
    def engine(self) -> Engine:
        """The engine that serves the calls."""
        return self._caller.engine

    # ---- writing

    def _write(
        self,
        kind: Kind,
        key: object,
        *,
        provisional: bool = False,
        read_modify_write: bool = False,
        **options: Any,
    ) -> Steps[Result]:
        op = build_op(kind, self.name, key, **options)
        (result,) = yield self.engine.submit(
            [op],
            loop=self._caller.loop(),
            provisional=provisional,
            read_modify_write=read_modify_write,
        )
        if result.outcome.status == "refused":
            raise_refusal(op, result.outcome)
        return result

    def put(
        self,
        key: str | int,
        value: Any,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        ttl_s: float | None = None,
        base: Document | Missing | None = MISSING,
        provisional: bool = False,
    ) -> Steps[Receipt]:
        """Replace the document, or create it.

        `if_version`: only when it has that version (0: only when there is none); `if_absent`: only
        when there is none; else ConflictError.  `ttl_s`: it expires that many seconds from now by
        the database's clock; without it, it does not expire.  `base`: the document that the value
        was made from (None: there was none); what others changed since then is merged, three-way
        and field by field, and what cannot be merged is in the ledger.

        While the primary is away the receipt says `durable_on="journal"` and has no version.  A
        condition needs the primary then, `Unavailable("needs_primary")`, unless `provisional`: it
        is judged by what is known here, and on replay holds only for exactly that document.
        """
        result = yield from self._write(
            *("put", key),
            body=self.dump(value),
            if_version=if_version,
            if_absent=if_absent,
            ttl_s=ttl_s,
            base=base,
            provisional=provisional,
        )
        return result.receipt

    def patch(
        self,
        key: str | int,
        patch: Any,
        *,
        if_version: int | None = None,
        provisional: bool = False,
    ) -> Steps[Receipt]:
        """Change members of the document by a merge patch (RFC 7396): null removes a member.

        A missing document starts as `{}`.  `if_version` and `provisional` as for `put`.
        """
        result = yield from self._write(
            "patch", key, body=patch, if_version=if_version, provisional=provisional
        )
        return result.receipt

    def append(self, key: str | int, pointer: str, item: Any) -> Steps[Any]:
        """Append to the list at a JSON pointer (RFC 6901); returns the list as it is then.

        `""` is the whole document; a missing list starts as `[]`.  ConflictError("moved"): it took
        effect, but the reply was lost and others changed the document before it could be read.
        While the primary is away: the list as far as it is known here, None where it is not.
        """
        result = yield from self._write("append", key, pointer=pointer, body=item)
        return (yield from self._changed_value(result))

    def increment(self, key: str | int, pointer: str, n: float = 1) -> Steps[Any]:
        """Add to the number at a JSON pointer (RFC 6901); returns the new number.

        `""` is the whole document; a missing number starts as 0.  No two callers get the same
        number while the primary answers; ConflictError("moved"), and None, as for `append`.
        """
        result = yield from self._write("increment", key, pointer=pointer, body=n)
        return (yield from self._changed_value(result))

    def _changed_value(self, result: Result) -> Steps[Any]:
        op, outcome, receipt = result
        text = outcome.text
        if text is None and receipt.durable_on != "primary":
            return None
        if text is None:  # the reply was lost, and told again without the document
            found = yield from self._read_one(op.key)
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

    def update(
        self, key: str | int, change: Callable[[Any], Any], *, default: Any = MISSING
    ) -> Steps[Receipt]:
        """Read, let `change` make a new value of the old one, and put it if nobody was faster.

        Compare-and-set inside: `change` may be called several times and must be pure.  A missing
        document starts as `default`; without one, it is a ConflictError.  While the primary is
        away, the difference that it made is journaled, and merged on replay.
        """
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            yield from pause_before(attempt)
            found = yield from self.read(key)
            if found is None and default is MISSING:
                raise ConflictError(
                    f"update of key {key_text(key)!r} in `{self.name}`: there is no document",
                    code="missing",
                    hint="give default=",
                    actual=0,
                )
            base = None
            if found is not None:  # before `change` has had it in its hands
                base = self.copy_of(found)
            value = change(found.value if found else self.copied(default))
            try:
                result = yield from self._write(
                    *("put", key),
                    body=self.dump(value),
                    if_version=found.version if found else ABSENT,
                    base=base,
                    read_modify_write=True,
                )
            except ConflictError:
                continue
            return result.receipt
        raise self._contended("update", key, "use patch, append or increment, which never conflict")

    def delete(
        self, key: str | int, *, if_version: int | None = None, provisional: bool = False
    ) -> Steps[Receipt]:
        """Delete the document; deleting what is not there is no error (version 0)."""
        result = yield from self._write(
            "delete", key, if_version=if_version, provisional=provisional
        )
        return result.receipt

    def pop(self, key: str | int, default: Any = None) -> Steps[Any]:
        """Delete the document and return its value, or `default` when there is none.

        Of two callers at once, only one gets the value; so it needs the primary.
        """
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            yield from pause_before(attempt)
            found = yield from self.read(key)
            if found is None:
                return default
            try:
                yield from self.delete(key, if_version=found.version)
            except ConflictError:
                continue
            return found.value
        raise self._contended("pop", key, "try again")

    def get_or_create(self, key: str | int, default: Any) -> Steps[Any]:
        """The document's value; `default` is put first when there is none.

        Of several callers at once, one creates it and all get the same value; so creating needs
        the primary.
        """
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            yield from pause_before(attempt)
            found = yield from self.read(key)
            if found is not None:
                return found.value
            try:
                yield from self.put(key, default, if_absent=True)
            except ConflictError:
                continue
            return self.copied(default)
        raise self._contended("get_or_create", key, "try again")

    def put_many(self, documents: Mapping[Any, Any]) -> Steps[dict[str, Receipt]]:
        """Put many documents, in transactions of 1,000, all checked before the first is sent."""
        ops = [
            build_op("put", self.name, key, body=self.dump(value))
            for key, value in documents.items()
        ]
        receipts: dict[str, Receipt] = {}
        for start in range(0, len(ops), PAGE):
            results: list[Result] = yield self.engine.submit(
                ops[start : start + PAGE], loop=self._caller.loop()
            )
            for op, outcome, receipt in results:
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

    def _read_one(self, key: str, consistency: Consistency = "primary") -> Steps[ReadResult]:
        local = _is_local(consistency)
        result = self.engine.read_one(self.name, key, local=local, loop=self._caller.loop())
        if isinstance(result, Promise):
            result = yield result
        return result

    def read(
        self, key: str | int, *, consistency: Consistency = "primary"
    ) -> Steps[Document | None]:
        """The document with its version and times, or None.

        `consistency="primary"` asks the primary, and the mirror while it is away; `"local"` asks
        the mirror, in the caller's own thread.  The document says its source and age.  What is not
        known here while the primary is away is `Unavailable`, never None.
        """
        text = key_text(key)
        result = yield from self._read_one(text, consistency)
        return self.document_of(result, text)

    def get(
        self, key: str | int, default: Any = None, *, consistency: Consistency = "primary"
    ) -> Steps[Any]:
        """The document's value, or `default` when there is none; `consistency` as for `read`."""
        text = key_text(key)
        result = yield from self._read_one(text, consistency)
        return default if result.view.text is None else self.load(result.view.text, text)

    def get_many(
        self, keys: Iterable[str | int], *, consistency: Consistency = "primary"
    ) -> Steps[dict[str, Any]]:
        """The values of those of the documents that exist, by key (an int key as its string)."""
        self.engine.require_open()
        wanted = [key_text(key) for key in keys]
        local, loop = _is_local(consistency), self._caller.loop()
        values: dict[str, Any] = {}
        for start in range(0, len(wanted), PAGE):
            page = wanted[start : start + PAGE]
            results = [self.engine.read_one(self.name, key, local=local, loop=loop) for key in page]
            for key, result in zip(page, results, strict=True):
                if isinstance(result, Promise):
                    result = yield result
                if result.view.text is not None:
                    values[key] = self.load(result.view.text, key)
        return values

    def keys(
        self, *, prefix: str = "", after: str | None = None, limit: int = PAGE
    ) -> Steps[list[str]]:
        """One page of keys in bytewise order: with `prefix`, after `after`, at most `limit`."""
        rows = yield from self.page(prefix, after, limit=limit)
        return [row.key for row in rows]

    def count(self) -> Steps[int]:
        """The number of documents."""

        def work(pages: Pages, deadline: float) -> int:
            views = self.engine.pending_views(self.name)
            count = pages.count(self.name, deadline=deadline)
            if views:
                there = pages.observe(self.name, sorted(views), deadline=deadline).states
                count -= sum(state.text is not None for state in there)
                count += sum(view.text is not None for view in views.values())
            return count

        what, loop = f"count of `{self.name}`", self._caller.loop()
        return (yield self.engine.pages(self.name, work, what=what, loop=loop))

    def page(
        self,
        prefix: str,
        after: str | None,
        *,
        limit: int,
        query: Any = None,
        full_scan: FullScan | None = None,
    ) -> Steps[list[Row]]:
        """One page of rows in bytewise key order; with `query` those that contain it.

        While the primary is away it comes from the mirror, if that holds the collection whole: all
        of it was read once, and the pages of that `sweep` have followed each other to the end.
        """
        self.engine.require_open()
        if not 0 < limit <= MAX_PAGE:
            raise ConfigError(
                f"limit={limit!r} is no page size", code="usage", hint=f"give 1 to {MAX_PAGE}"
            )
        prefix, after = key_text(prefix), None if after is None else key_text(after)

        def work(pages: Pages, deadline: float) -> list[Row]:
            # Before the scan: what is settled in between is in its rows.
            views = self.engine.pending_views(self.name)
            page: list[Row] = []
            start = after
            while len(page) < limit:
                rows = pages.scan(
                    self.name,
                    prefix=prefix,
                    after=start,
                    limit=limit,
                    query=query,
                    deadline=deadline,
                )
                wanted = _InRange(prefix, start, query)
                page += lay_over(rows, views, wanted, limit=limit)
                if len(rows) < limit:
                    break
                start = rows[-1].key
            return page[:limit]

        what, loop = f"scan of `{self.name}`", self._caller.loop()
        return (yield self.engine.pages(self.name, work, what=what, full_scan=full_scan, loop=loop))

    def pages(self, prefix: str, query: Any = None) -> Iterator[Steps[list[Row]]]:
        """The pages of a whole scan, each as a call; it ends when one was not full."""
        after: str | None = None
        full_scan = self.engine.full_scan(self.name) if not prefix and query is None else None
        while True:
            page: list[Row] = []

            def call(page: list[Row] = page, after: str | None = after) -> Steps[list[Row]]:
                page += yield from self.page(
                    prefix, after, limit=PAGE, query=query, full_scan=full_scan
                )
                return page

            yield call()
            if len(page) < PAGE:
                return
            after = page[-1].key

    def finish(self, steps: Steps[list[Row]]) -> Steps[list[Row]]:
        """Run a page that `pages` has given."""
        return (yield from steps)

    def query_of(self, query: Any) -> Any:
        """A query of `find`, checked."""
        self.engine.require_open()
        if query is None:
            raise ConfigError(
                "find(None) asks for nothing", code="usage", hint="items() gives every document"
            )
        return decode(encode(query))


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


def _is_local(consistency: str) -> bool:
    if consistency not in ("primary", "local"):
        raise ConfigError(
            f"consistency={consistency!r} is not known", code="usage", hint="'primary' or 'local'"
        )
    return consistency == "local"
