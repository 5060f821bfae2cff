"""`load` and `save(dict)` over a store: a bridge for code that keeps its state in one JSON file.

Only what changed since the last load or save is written, and it is merged, three-way and field by
field, with what others have written meanwhile.  New code uses collections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from standfast.api.aio import AsyncCollection, AsyncStore
from standfast.api.collection import Documents
from standfast.api.drive import blocking
from standfast.api.opening import open_store
from standfast.api.store import StoreHandle
from standfast.api.sync import Store
from standfast.config.settings import load_settings
from standfast.document.codec import encode
from standfast.document.diff import Basis, Difference, Known, difference
from standfast.document.names import collection_name
from standfast.document.values import MISSING
from standfast.engine.interfaces import Engine
from standfast.engine.write_queue import Result
from standfast.errors import ConfigError, DataError, DeadlineExceeded, StandfastError
from standfast.limits import MAX_BATCH_OPS
from standfast.ops.build import raise_refusal
from standfast.ops.types import Op
from standfast.system.platform import at_fork

logger = logging.getLogger("standfast")

#: The key of a file that is one document, as `standfast migrate --whole` stores it.
WHOLE_KEY = "default"
#: Files of at most so many bytes are looked into: whether they hold anything at all.
_SMALL_BYTES = 64

_stores: dict[tuple[str | None, str, float], Store] = {}
_opening = threading.Lock()
_warned: set[Path] = set()


class Saved(msgspec.Struct, frozen=True):
    """What a save did: documents put, documents deleted, and how many writes were merged.

    Merged means that another process had changed the document since it was loaded: what only they
    changed was kept; if both changed the same field, base, mine and theirs are recorded as a
    conflict.  A delete that yielded to their change counts as merged only.  During an outage
    nothing is merged yet: that happens when PostgreSQL is back.
    """

    written: int = 0
    deleted: int = 0
    merged: int = 0


class _Place:
    """Where the documents of a file are, before a store is open."""

    def __init__(
        self, path: str | os.PathLike[str], *, whole: bool, collection: str | None
    ) -> None:
        self.path = Path(path)
        self.whole = whole
        try:
            self.collection = collection_name(collection or self.path.stem)
        except ConfigError as error:
            raise ConfigError(
                f"{self.path}: {error.message}",
                code=error.code,
                hint="name it: JsonFile(..., collection=...), as `standfast migrate --collection`",
            ) from None


class _File:
    """One file in an open store, and what its caller has last seen; one call at a time."""

    def __init__(self, handle: StoreHandle, place: _Place) -> None:
        self._handle = handle
        self._path = place.path
        self._whole = place.whole
        self._collection: AsyncCollection[Any] = AsyncCollection(handle, place.collection)
        self._documents: Documents[Any] = Documents(handle, place.collection)
        self._basis = Basis()
        #: Writes of which nobody knows whether they took effect (None: a delete).
        self._doubts: dict[str, Known | None] = {}
        self._looked = False

    # ---- load

    async def load(self) -> Any:
        """Everything that is stored; from here on, the next save is based on it."""
        data = await self._stored()
        self._look_at_file(empty=not data)
        self._basis = Basis.of(data)
        self._doubts.clear()
        return data.get(WHOLE_KEY, {}) if self._whole else data

    async def _stored(self) -> dict[str, Any]:
        if self._whole:
            value = await self._collection.get(WHOLE_KEY, MISSING)
            return {} if value is MISSING else {WHOLE_KEY: value}
        rows = [row async for row in self._documents.rows()]
        rows.sort(key=lambda row: row.created_us)
        return {row.key: self._documents.load(row.text, row.key) for row in rows}

    # ---- save

    async def save(self, data: Any) -> Saved:
        """Write what changed since the last load or save, and delete what was removed."""
        if not self._looked:
            await self._look_before_saving()
        if self._doubts:
            await self._settle_doubts()
        changes = difference(self._members(data), self._basis, whole=self._whole)
        for key, known in changes.reshaped.items():
            self._basis.remember(key, known)
        ops = self._ops(changes)
        counts = {"put": 0, "delete": 0, "merged": 0}
        for start in range(0, len(ops), MAX_BATCH_OPS):
            results = await self._write(ops[start : start + MAX_BATCH_OPS], changes)
            for op, outcome, _ in results:
                merged = outcome.status == "merged"
                counts["merged"] += merged
                counts[op.kind] += op.kind == "put" or not merged
            self._remember([op.key for op, _, _ in results], changes)
        return Saved(counts["put"], counts["delete"], counts["merged"])

    def _members(self, data: Any) -> dict[Any, Any]:
        if self._whole:
            return {WHOLE_KEY: data}
        if isinstance(data, dict):
            return cast("dict[Any, Any]", data)
        raise DataError(
            f"{self._path.name}: {type(data).__name__} is not a dict - at `$`",
            code="not_an_object",
            hint="JsonFile(..., whole=True) keeps a file of any form as one document",
            path="$",
        )

    def _ops(self, changes: Difference) -> list[Op]:
        puts = [self._op("put", key, known.text) for key, known in changes.puts.items()]
        return puts + [self._op("delete", key) for key in changes.deletes]

    def _op(self, kind: Literal["put", "delete"], key: str, body: str | None = None) -> Op:
        """A write that says what it is based on; its key and text were checked already."""
        base = self._basis.texts.get(key)
        return Op(
            lane="",
            seq=0,
            kind=kind,
            collection=self._collection.name,
            key=key,
            body=body,
            group=1,
            seen="absent" if base is None else "present",
            base=base,
        )

    async def _write(self, ops: Sequence[Op], changes: Difference) -> list[Result]:
        try:
            results = await self._handle.engine.submit(ops, loop=self._handle.loop())
        except BaseException as error:
            # Any other error of ours says that nothing was written.
            if isinstance(error, DeadlineExceeded) or not isinstance(error, StandfastError):
                self._doubts.update((op.key, changes.puts.get(op.key)) for op in ops)
            raise
        for op, outcome, _ in results:
            if outcome.status == "refused" and outcome.code != "batch":
                raise_refusal(op, outcome)
        return results

    def _remember(self, keys: Sequence[str], changes: Difference) -> None:
        """The basis is what was saved, also if that was merged: what the merge added is then a
        change by others, and not mistaken for something that the caller removed."""
        for key in keys:
            known = changes.puts.get(key)
            if known is None:
                self._basis.forget(key)
            else:
                self._basis.remember(key, known)

    async def _settle_doubts(self) -> None:
        """Find out what became of writes without an answer.

        Where they are stored, the caller's dict was saved: a change that was taken back since then
        has to be written, too.
        """
        stored = await self._collection.get_many(self._doubts)
        for key, known in self._doubts.items():
            if known is None and key not in stored:
                self._basis.forget(key)
            elif known is not None and key in stored and encode(stored[key]) == known.text:
                self._basis.remember(key, known)
        self._doubts.clear()

    # ---- the file of former times

    async def _look_before_saving(self) -> None:
        """Nothing was loaded yet: is this the first run, or was something forgotten?"""
        empty = False
        if self._path.is_file():
            if self._whole:
                found = await self._collection.get(WHOLE_KEY, MISSING)
                empty = found is MISSING
            else:
                empty = not (await self._collection.keys(limit=1))
        self._look_at_file(empty=empty)

    def _look_at_file(self, *, empty: bool) -> None:
        """An empty store beside a file that was not moved is not taken for a first run.

        Only at first: an app may delete all that it has.
        """
        if not self._looked and self._path.is_file():
            if empty and not _holds_nothing(self._path):
                raise ConfigError(
                    f"{self._path} exists, and nothing of it is stored yet",
                    code="not_migrated",
                    hint=f"move it: standfast migrate {self._path}"
                    f"{' --whole' if self._whole else ''}; or, to start anew, rename it",
                )
            place = self._path.resolve()
            if not empty and place not in _warned:
                _warned.add(place)
                logger.warning("%s is not read any more: its data are in the store", self._path)
        self._looked = True


def _holds_nothing(path: Path) -> bool:
    """Whether a file is an empty object or array; one of no bytes was damaged."""
    if path.stat().st_size > _SMALL_BYTES:
        return False
    return b"".join(path.read_bytes().split()) in (b"{}", b"[]")


class AsyncJsonFile:
    """A JSON file of former times, in the store: `load()` gives a dict, `save(dict)` takes it back.

    The collection has the name of the file without its ending, or that of `collection`, and one
    document for each member of the file's object; with `whole`, one document of any form.  `store`:
    an open asynchronous store; by default one of `standfast.open()` for all files of the process
    with the same settings, closed when the program ends.  One call at a time; a task that is
    cancelled gives up the answer only: its save is carried out to its end.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        store: AsyncStore | None = None,
        whole: bool = False,
        collection: str | None = None,
    ) -> None:
        _check_store(store, AsyncStore, "AsyncJsonFile", "an AsyncStore of standfast.open_async()")
        self._place = _Place(path, whole=whole, collection=collection)
        self._handle = None if store is None else store.handle
        self._file: _File | None = None
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def __repr__(self) -> str:
        return f"AsyncJsonFile({str(self._place.path)!r})"

    @property
    def engine(self) -> Engine:
        """The engine that serves the calls, once the store is open; not for users."""
        assert self._handle is not None, "opened by the first load or save"
        return self._handle.engine

    async def load(self) -> Any:
        """Everything that is stored, as the file would hold it: a fresh dict, which is yours.

        The keys are strings, in the order in which the documents were created, as in the file that
        was migrated; those of one moment in bytewise order.  With `whole`, the one document's value
        (`{}` when there is none).  Pages of 1,000 documents are a snapshot each.

        ConfigError("not_migrated") when nothing is stored and the file is still there.  In an
        outage it comes from the mirror, with pending writes applied:
        Unavailable("not_mirrored") when this data directory has never loaded it before.
        """
        async with self._turn() as file:
            return await file.load()

    async def save(self, data: Any) -> Saved:
        """Write what changed since the last load or save, and delete what was removed.

        All or nothing, up to 10,000 changed documents; more go in batches of so many.  What others
        have written since the load is merged with it, never overwritten silently.  Saved without a
        load, nothing is deleted, and documents that exist are merged as if both had added them.
        After an error nothing is taken for saved: save again.

        DataError, before anything is written, for what JSON cannot hold: see `docs/json_file.md`.
        """
        return await self._to_its_end(self._save(data))

    async def _save(self, data: Any) -> Saved:
        async with self._turn() as file:
            return await file.save(data)

    async def _to_its_end(self, save: Coroutine[Any, Any, Saved]) -> Saved:
        return await asyncio.shield(asyncio.ensure_future(save))

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[_File, None]:
        """The file, for one call at a time; a lock belongs to the loop that first waited for it."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = loop, asyncio.Lock()
        async with self._lock[1]:
            if self._handle is None:
                self._handle = (await asyncio.to_thread(shared_store)).as_async().handle
            yield self._opened(self._handle)

    def _opened(self, handle: StoreHandle) -> _File:
        if self._file is None:
            self._file = _File(handle, self._place)
        return self._file


class _InThread(AsyncJsonFile):
    """The calls of `JsonFile`: their caller is a thread, which may block."""

    def __init__(self, place: _Place, handle: StoreHandle | None) -> None:
        self._place = place
        self._handle = handle
        self._file = None
        self._mutex = threading.Lock()

    async def _to_its_end(self, save: Coroutine[Any, Any, Saved]) -> Saved:
        return await save

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[_File, None]:
        with self._mutex:
            if self._handle is None:
                self._handle = shared_store().calls.handle
            yield self._opened(self._handle)


class JsonFile:
    """A JSON file of former times, in the store: `load()` gives a dict, `save(dict)` takes it back.

    The collection has the name of the file without its ending, or that of `collection`, and one
    document for each member of the file's object; with `whole`, one document of any form.  `store`:
    an open store; by default `standfast.open()`, one for all files of the process with the same
    settings, closed when the program ends.  Thread-safe: one call at a time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        store: Store | None = None,
        whole: bool = False,
        collection: str | None = None,
    ) -> None:
        _check_store(store, Store, "JsonFile", "a Store of standfast.open()")
        place = _Place(path, whole=whole, collection=collection)
        self.calls = _InThread(place, None if store is None else store.calls.handle)

    def __repr__(self) -> str:
        return repr(self.calls).removeprefix("Async")

    load = blocking(AsyncJsonFile.load)
    save = blocking(AsyncJsonFile.save)


def _check_store(store: object, kind: type, name: str, wanted: str) -> None:
    if store is not None and not isinstance(store, kind):
        raise ConfigError(
            f"{name}(store=...) is not {wanted}", code="usage", hint=f"give {wanted}, or none"
        )


def shared_store() -> Store:
    """The store of this process for the environment's settings, opened when first asked for."""
    settings = load_settings()
    place = (settings.url, str(settings.data_dir.resolve()), settings.deadline_s)
    with _opening:
        store = _stores.get(place)
        if store is None or not store.is_open:
            store = _stores[place] = open_store()
        return store


def close_shared_store() -> None:
    """Close the store that `shared_store` gives, if it is open."""
    with _opening:
        for store in _stores.values():
            store.close()
        _stores.clear()


def _after_fork() -> None:
    """A store that was being opened is opened in the parent only."""
    global _opening
    _opening = threading.Lock()


at_fork(in_child=_after_fork)
