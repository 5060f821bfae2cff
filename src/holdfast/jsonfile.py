"""`load` and `save(dict)` over a store: a bridge for code that keeps its state in one JSON file.

Only what changed since the last load or save is written, and it is merged, three-way and field by
field, with what others have written meanwhile.  New code uses collections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from holdfast.aio import AsyncStore
from holdfast.calls import Steps, awaited, blocking
from holdfast.codec import encode
from holdfast.collectioncalls import CollectionCalls
from holdfast.engine.hub import StoreEngine
from holdfast.engine.inbox import Result
from holdfast.errors import ConfigError, DataError
from holdfast.jsondiff import Difference, Known, difference, known
from holdfast.limits import MAX_BATCH_OPS
from holdfast.naming import collection_name
from holdfast.opening import open_store
from holdfast.ops import build_op, raise_refusal
from holdfast.settings import load_settings
from holdfast.store import Store
from holdfast.storecalls import StoreCalls
from holdfast.types import Document, Op, from_microseconds

logger = logging.getLogger("holdfast")

#: The key of a file that is one document, as `holdfast migrate --whole` stores it.
WHOLE_KEY = "default"

_stores: dict[tuple[str | None, str], Store] = {}
_opening = threading.Lock()
_warned: set[Path] = set()


class Saved(msgspec.Struct, frozen=True):
    """What a save did: documents put, documents deleted, and how many of these were merged.

    Merged means that somebody else had changed the document since it was loaded: what only they
    changed was kept; where both changed the same field, the ledger has base, mine and theirs.  In
    an outage nothing is merged yet: that happens when PostgreSQL is back.
    """

    written: int = 0
    deleted: int = 0
    merged: int = 0


class JsonFileCalls:
    """The calls on one file, once for both faces, and what its caller has last seen."""

    def __init__(self, store: StoreCalls, path: Path, *, whole: bool) -> None:
        self._store = store
        self._path = path
        self._whole = whole
        self._collection = CollectionCalls(store, collection_name(path.stem))
        self._base: dict[str, Known] = {}
        self._looked = False

    @property
    def engine(self) -> StoreEngine:
        """The engine that serves the calls."""
        return self._store.engine

    def load(self) -> Steps[Any]:
        """Everything that is stored, as the file would hold it: a fresh dict, keys in order.

        The keys are strings, in bytewise order.  With `whole`, the one document (`{}` when there
        is none).  ConfigError("not_migrated") when nothing is stored and the file is still there.
        In an outage it comes from the mirror: Unavailable("not_mirrored") when this data directory
        has never loaded it before.
        """
        texts = yield from self._texts()
        self._look_at_file(empty=not texts)
        self._base = {key: known(text) for key, text in texts.items()}
        data = {key: self._collection.load(text, key) for key, text in texts.items()}
        return data.get(WHOLE_KEY, {}) if self._whole else data

    def _texts(self) -> Steps[dict[str, str]]:
        if self._whole:
            found = yield from self._collection.read(WHOLE_KEY)
            return {} if found is None else {WHOLE_KEY: encode(found.value)}
        texts: dict[str, str] = {}
        for steps in self._collection.pages(""):
            for row in (yield from steps):
                texts[row.key] = row.text
        return texts

    def save(self, data: Any) -> Steps[Saved]:
        """Write what changed since the last load or save, and delete what was removed.

        All or nothing, up to 10,000 changed documents; more of them go in batches of so many.  What
        others have written since the load is merged with it, never overwritten silently.  Saved
        without a load, nothing is deleted, and documents that exist are merged as if both had
        added them.  After an error nothing is taken for saved: save again.

        DataError, before anything is written, for what JSON cannot hold: see `docs/json_file.md`.
        """
        if not self._looked:
            found = yield from self._collection.keys(limit=1)
            self._look_at_file(empty=not found)
        changes = difference(self._members(data), self._base)
        ops = [*self._puts(changes), *self._deletes(changes)]
        merged = 0
        for start in range(0, len(ops), MAX_BATCH_OPS):
            results: list[Result] = yield self.engine.submit(
                ops[start : start + MAX_BATCH_OPS], loop=self._store.loop()
            )
            for op, outcome, _ in results:
                if outcome.status == "refused" and outcome.code != "batch":
                    raise_refusal(op, outcome)
                merged += outcome.status == "merged"
            self._remember(op for op, _, _ in results)
        return Saved(len(changes.puts), len(changes.deletes), merged)

    def _members(self, data: Any) -> dict[Any, Any]:
        if self._whole:
            return {WHOLE_KEY: data}
        if isinstance(data, dict):
            return data  # pyright: ignore[reportUnknownVariableType]
        raise DataError(
            f"{self._path.name}: {type(data).__name__} is not a dict",
            code="not_an_object",
            hint="JsonFile(..., whole=True) keeps a file of any form as one document",
        )

    def _puts(self, changes: Difference) -> Iterable[Op]:
        for key, value in changes.puts.items():
            yield build_op(
                *("put", self._collection.name, key), body=value, base=self._basis(key), group=1
            )

    def _deletes(self, changes: Difference) -> Iterable[Op]:
        for key in changes.deletes:
            yield build_op("delete", self._collection.name, key, base=self._basis(key), group=1)

    def _basis(self, key: str) -> Document | None:
        before = self._base.get(key)
        if before is None:
            return None
        epoch = from_microseconds(0)
        return Document(key, before.value, 0, "mirror", 0.0, epoch, epoch)

    def _remember(self, ops: Iterable[Op]) -> None:
        """The base is what was saved, also where that was merged: what the merge added is
        somebody else's change then, and not missed as if the caller had removed it."""
        for op in ops:
            if op.kind == "delete":
                self._base.pop(op.key, None)
            else:
                assert op.body is not None, "a put has a body"
                self._base[op.key] = known(op.body)

    def _look_at_file(self, *, empty: bool) -> None:
        """An empty store beside a file that was not moved is not taken for a first run."""
        self._looked = True
        if not self._path.is_file():
            return
        if empty:
            self._looked = False
            raise ConfigError(
                f"{self._path} exists, and nothing of it is stored yet",
                code="not_migrated",
                hint=f"move it: holdfast migrate {self._path}; or rename it, to start anew",
            )
        if self._path not in _warned:
            _warned.add(self._path)
            logger.warning("%s is not read any more: its data are in the store", self._path)


class JsonFile:
    """A JSON file of former times, in the store: `load()` gives a dict, `save(dict)` takes it back.

    The collection has the name of the file without its ending, and one document for each member of
    the file's object; with `whole`, one document of any form.  `store`: an open store; by default
    `holdfast.open()`, one for all files of the process.  Thread-safe; one call at a time.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, store: Store | None = None, whole: bool = False
    ) -> None:
        self._path = Path(path)
        self._whole = whole
        self._lock = threading.Lock()
        self._store = store
        self._calls: JsonFileCalls | None = None
        collection_name(self._path.stem)

    def __repr__(self) -> str:
        return f"JsonFile({str(self._path)!r})"

    @property
    def calls(self) -> JsonFileCalls:
        """The calls; opens the store when that has not happened yet."""
        if self._calls is None:
            store = self._store or shared_store()
            self._calls = JsonFileCalls(store.calls, self._path, whole=self._whole)
        return self._calls

    _load = blocking(JsonFileCalls.load)
    _save = blocking(JsonFileCalls.save)

    def load(self) -> Any:
        """Everything that is stored, as the file would hold it: see `JsonFileCalls.load`."""
        with self._lock:
            return self._load()

    def save(self, data: Any) -> Saved:
        """Write what changed since the last load or save: see `JsonFileCalls.save`."""
        with self._lock:
            return self._save(data)


class AsyncJsonFile:
    """As `JsonFile`, awaited; `store` is an asynchronous one."""

    def __init__(
        self, path: str | os.PathLike[str], *, store: AsyncStore | None = None, whole: bool = False
    ) -> None:
        self._path = Path(path)
        self._whole = whole
        self._lock = asyncio.Lock()
        self._store = store
        self.calls: Any = None
        collection_name(self._path.stem)

    def __repr__(self) -> str:
        return f"AsyncJsonFile({str(self._path)!r})"

    async def _open(self) -> None:
        if self.calls is None:
            store = self._store or (await asyncio.to_thread(shared_store)).as_async()
            self.calls = JsonFileCalls(store.calls, self._path, whole=self._whole)

    _load = awaited(JsonFileCalls.load)
    _save = awaited(JsonFileCalls.save)

    async def load(self) -> Any:
        """Everything that is stored, as the file would hold it: see `JsonFileCalls.load`."""
        async with self._lock:
            await self._open()
            return await self._load()

    async def save(self, data: Any) -> Saved:
        """Write what changed since the last load or save: see `JsonFileCalls.save`."""
        async with self._lock:
            await self._open()
            return await self._save(data)


def shared_store() -> Store:
    """The store of this process for the environment's settings, opened when first asked for."""
    settings = load_settings()
    place = (settings.url, str(settings.data_dir.resolve()))
    with _opening:
        store = _stores.get(place)
        if store is None or not store.is_open:
            store = _stores[place] = open_store()
        return store
