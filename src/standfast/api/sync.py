"""The synchronous face: a store of collections of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from standfast.api.collection import CollectionCalls
from standfast.api.drive import blocking, plain
from standfast.api.store import CLOSE_TIMEOUT_S, BatchCalls, StoreCalls
from standfast.document.names import collection_name, key_text
from standfast.document.typed import Typed
from standfast.engine.interfaces import Engine
from standfast.errors import Unavailable
from standfast.ops.types import Document, Receipt, Row

if TYPE_CHECKING:
    from standfast.api.aio import AsyncStore


class Collection:
    """One collection of documents of a store: `store["name"]`.

    Keys are strings; an int key is its decimal string.  Values are anything JSON.  Every write is
    durable when it returns; the receipt says where.
    """

    def __init__(self, store: StoreCalls, name: str, typed: Typed | None = None) -> None:
        self.calls = CollectionCalls(store, name, typed)
        self.name = name

    def __repr__(self) -> str:
        return f"Collection({self.name!r})"

    put = blocking(CollectionCalls.put)
    patch = blocking(CollectionCalls.patch)
    append = blocking(CollectionCalls.append)
    increment = blocking(CollectionCalls.increment)
    update = blocking(CollectionCalls.update)
    delete = blocking(CollectionCalls.delete)
    pop = blocking(CollectionCalls.pop)
    get_or_create = blocking(CollectionCalls.get_or_create)
    put_many = blocking(CollectionCalls.put_many)
    read = blocking(CollectionCalls.read)
    get = blocking(CollectionCalls.get)
    get_many = blocking(CollectionCalls.get_many)
    keys = blocking(CollectionCalls.keys)
    count = blocking(CollectionCalls.count)

    def items(self, *, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every key and value in bytewise order of the keys, read in pages of 1,000.

        Each page is a snapshot of its own: what changes meanwhile may show or not.
        """
        calls = self.calls
        calls.engine.require_open()
        return ((row.key, calls.load(row.text, row.key)) for row in self._rows(key_text(prefix)))

    def find(self, query: Any, *, prefix: str = "") -> Iterator[Document]:
        """The documents that contain `query`, by the rules of PostgreSQL's `@>`, in key order.

        Every member of the query must be in the document; lists contain by element.  The same
        answer on every backend; `collection(name, index=True)` makes it fast on PostgreSQL.
        """
        wanted = self.calls.query_of(query)
        return (self.calls.document_of_row(row) for row in self._rows(key_text(prefix), wanted))

    def _rows(self, prefix: str, query: Any = None) -> Iterator[Row]:
        for steps in self.calls.pages(prefix, query):
            yield from self._finish(steps)

    _finish = blocking(CollectionCalls.finish)


class Batch:
    """Writes to several documents that stand or fall together: `with store.batch() as b:`.

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
    _commit = blocking(BatchCalls.commit)

    def __enter__(self) -> Batch:
        self.calls.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._commit()
        else:
            self.calls.drop()


class Store:
    """An open store; `store["name"]` is a collection.  Thread-safe.  Made by `standfast.open`.

    It goes on in a forked child, with an engine of the child's own.
    """

    def __init__(self, engine: Engine, reopen: Callable[[], Engine] | None = None) -> None:
        self._collections: dict[str, Collection] = {}
        self.calls = StoreCalls(engine, reopen, _no_loop)

    def __repr__(self) -> str:
        return f"Store({self.calls.display!r})"

    collections = blocking(StoreCalls.collections)
    create_index = blocking(StoreCalls.create_index)
    outcome = blocking(StoreCalls.outcome)
    health = blocking(StoreCalls.health)
    on_state_change = plain(StoreCalls.on_state_change)

    def __getitem__(self, name: str) -> Collection:
        found = self._collections.get(name)
        if found is None:
            found = Collection(self.calls, collection_name(name))
            self._collections[name] = found
        return found

    def collection(
        self,
        name: str,
        *,
        index: bool = False,
        type: Any = None,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Collection:
        """A collection; `index=True` makes its `find` fast (a GIN index on PostgreSQL).

        `type`: its documents are values of this type (a msgspec Struct, a dataclass, a pydantic
        model); `upgrade` makes JSON of the type from that of a document which does not fit.
        """
        typed = None if type is None else Typed(type, upgrade)
        found = (
            self[name] if typed is None else Collection(self.calls, collection_name(name), typed)
        )
        if index:
            self.create_index(name)
        return found

    @property
    def is_open(self) -> bool:
        """Whether it was not closed yet."""
        try:
            self.calls.engine.require_open()
        except Unavailable:
            return False
        return True

    def as_async(self) -> AsyncStore:
        """The asynchronous face of this same store, for programs that need both.

        One engine, one set of connections and local files: what one writes the other reads, and
        closing either closes both.
        """
        from standfast.api.aio import AsyncStore

        return AsyncStore.over(self.calls)

    def batch(self, *, provisional: bool = False) -> Batch:
        """Writes that stand or fall together, as a context manager."""
        self.calls.engine.require_open()
        return Batch(self.calls, provisional=provisional)

    def flush(self, *, timeout_s: float = 5.0) -> None:
        """Wait until every acknowledged write is on the primary; DeadlineExceeded otherwise."""
        self.calls.flush(timeout_s)

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """Release everything; returns how many acknowledged writes still wait for the primary.

        Bounded by `timeout_s` and the deadline.  What waits is safe in the journal, and replayed
        when the data directory is opened again.  Idempotent.
        """
        return self.calls.engine.close(timeout_s)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _no_loop() -> None:
    """A thread waits for the answers."""
