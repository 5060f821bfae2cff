"""`load` and `save(dict)` over a store: a bridge for code that keeps its state in one JSON file.

Only what changed since the last load or save is written, and it is merged, three-way and field by
field, with what others have written meanwhile.  New code uses collections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import msgspec

from standfast.api.aio import AsyncStore
from standfast.api.async_collection import AsyncCollection
from standfast.api.collection import Documents
from standfast.api.drive import blocking, drive
from standfast.api.file_bases import Base, Bases, LoadedDict, LoadedList, Turns, busy, carrying
from standfast.api.opening import open_store
from standfast.api.store import StoreHandle
from standfast.api.sync import Store
from standfast.backends.base import Backend, Form, Moved
from standfast.config.settings import load_settings
from standfast.document.codec import decode, encode
from standfast.document.diff import Basis, Difference, difference
from standfast.document.merge import three_way
from standfast.document.names import collection_name, derived_name, key_text
from standfast.document.values import MISSING
from standfast.engine.interfaces import Engine
from standfast.engine.state_machine import Mode
from standfast.engine.write_queue import Result
from standfast.errors import (
    ConfigError,
    DataError,
    DeadlineExceeded,
    StandfastError,
    Unavailable,
)
from standfast.limits import JSON_FILE_TURN_S, MAX_BATCH_OPS
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
#: By engine and collection: who may save now, and what this process knows of it.
_turns: WeakKeyDictionary[Engine, dict[str, Turns]] = WeakKeyDictionary()


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
        #: Whether the caller has said which collection it is: then there is nothing to guess.
        self.named = collection is not None
        self.collection = collection_name(collection or derived_name(self.path.name))


class _File:
    """One file in an open store, and which dicts were made from it."""

    def __init__(self, handle: StoreHandle, place: _Place) -> None:
        self._handle = handle
        self._place = place
        self._path = place.path
        self._whole = place.whole
        self._key_field: str | None = None
        self._collection: AsyncCollection[Any] = AsyncCollection(handle, place.collection)
        self._documents: Documents[Any] = Documents(handle, place.collection)
        self._bases = Bases()
        self._looked = False
        self._recognised = False

    @property
    def _owner(self) -> tuple[str, str]:
        primary = self._handle.engine.primary
        place = f"{id(primary)}" if primary.kind == "memory" else primary.display
        return place, self._collection.name

    @property
    def turns(self) -> Turns:
        """The queue of this collection's edits and saves in this process."""
        with _opening:
            of_engine = _turns.setdefault(self._handle.engine, {})
            return of_engine.setdefault(self._collection.name, Turns())

    # ---- load

    async def load(self, caller: object) -> Any:
        """Everything that is stored; what is returned carries what it was made from."""
        await self._recognise()
        turns = self.turns
        saves = turns.saves
        data = await self._stored()
        self._look_at_file(empty=not data)
        base = Base(self._owner, Basis.of(data))
        if turns.saves == saves:
            turns.texts = dict(base.basis.texts)
        self._bases.loaded(base, caller)
        value: Any = data.get(WHOLE_KEY, {}) if self._whole else data
        if self._key_field is not None:
            value = list(data.values())
        if isinstance(value, dict):
            return carrying(LoadedDict(cast("dict[str, Any]", value)), base)
        if isinstance(value, list):
            return carrying(LoadedList(cast("list[Any]", value)), base)
        return value

    async def _stored(self) -> dict[str, Any]:
        if self._whole:
            value = await self._collection.get(WHOLE_KEY, MISSING)
            return {} if value is MISSING else {WHOLE_KEY: value}
        rows = [row async for row in self._documents.rows()]
        rows.sort(key=lambda row: row.created_us)
        return {row.key: self._documents.load(row.text, row.key) for row in rows}

    # ---- whose documents these are

    async def _recognise(self) -> None:
        """Ask the database once which file the collection was filled from, and in which form.

        During an outage nobody can answer; the next call asks again.
        """
        if self._recognised:
            return
        name, engine = self._collection.name, self._handle.engine
        if not self._place.named:
            turns = self.turns
            turns.claimed = turns.claimed or self._path.resolve()
            self._require_same(str(turns.claimed))

        def work(backend: Backend, _: float) -> tuple[Form, list[Moved]]:
            return backend.form(name), backend.moved()

        try:
            form, moved = await engine.scan(
                work, what=f"reading `{name}`", loop=self._handle.loop()
            )
        except Unavailable:
            return
        if not self._place.named:
            resolved = str(self._path.resolve())
            ours = [each for each in moved if each.path == resolved]
            if ours and name not in [each.collection for each in ours]:
                run, collection, _ = ours[0]
                raise ConfigError(
                    f"{self._path}: run {run} moved it to collection `{collection}`, and not to"
                    f" `{name}`",
                    code="other_file",
                    hint=f"write JsonFile(..., collection={collection!r})",
                )
            paths = (each.path for each in moved if each.collection == name and each.path)
            if found := next(paths, ""):
                self._require_same(found)
        if form.shape == "document" or (form.shape == "lines" and form.key_field is None):
            self._whole = True
        elif not self._whole:
            self._key_field = form.key_field
        self._recognised = True

    def _require_same(self, recorded: str) -> None:
        """Refuse a collection that another file of the same name has filled."""
        if not _same_place(Path(recorded), self._path):
            parent = self._path.resolve().parent.name
            raise ConfigError(
                f"{self._path}: collection `{self._collection.name}` was filled from another file"
                f" of that name, {recorded}",
                code="other_file",
                hint="give this one a collection of its own: JsonFile(...,"
                f" collection={derived_name(f'{parent}_{self._collection.name}')!r}); or, if they"
                f" are the same data, say so: collection={self._collection.name!r}",
            )

    # ---- save

    async def save(self, data: Any, caller: object) -> Saved:
        """Write what changed since this dict was loaded or saved, and delete what was removed."""
        await self._recognise()
        if not self._looked:
            await self._look_before_saving()
        bases = self._bases.of(data, self._owner, caller)
        base = bases[-1]
        if base.doubts:
            await self._settle_doubts(base)
        changes = _held_by_all(
            difference(self._members(data), base.basis, whole=self._whole), bases[:-1]
        )
        for key, known in changes.reshaped.items():
            base.basis.remember(key, known)
        # From here on this base is the dict's, also if only a part of it can be written.
        self._bases.saved(data, base, caller)
        ops, held_back, merged_here = await self._merged_here(self._ops(changes, base))
        for key in held_back:
            base.basis.forget(key)
        counts = {"put": 0, "delete": 0, "merged": len(held_back)}
        for start in range(0, len(ops), MAX_BATCH_OPS):
            part = ops[start : start + MAX_BATCH_OPS]
            results = await self._write(part, changes, base)
            hidden = self._hidden(results)
            for result in results:
                op = result.op
                merged = result.outcome.status == "merged" or op.key in merged_here
                counts["merged"] += merged
                counts[op.kind] += op.kind == "put" or not merged
            self._remember([result.op.key for result in results], changes, base)
            self._note(results)
            if hidden:
                self._note(await self._handle.engine.submit(hidden, loop=self._handle.loop()))
        return Saved(counts["put"], counts["delete"], counts["merged"])

    async def _merged_here(self, ops: list[Op]) -> tuple[list[Op], list[str], set[str]]:
        """The writes, merged with what is stored now where that may not be what they are based on.

        The database merges, but not before an outage is over: until then a write on an old base
        would hide what other tasks have written meanwhile, and their next change would be based on
        that.  Also returned are the keys whose delete yields to a change by others, and those of
        the writes that were merged.
        """
        if self._handle.engine.mode is Mode.DIRECT or not ops:
            return ops, [], set()
        try:
            stored = await self._collection.get_many([op.key for op in ops])
        except Unavailable:
            return ops, [], set()  # never seen here: there is nothing that could be hidden
        merged: list[Op] = []
        held_back: list[str] = []
        here: set[str] = set()
        for op in ops:
            now = encode(stored[op.key]) if op.key in stored else None
            if now is None or now == op.base:
                merged.append(op)
            elif op.body is not None:
                merged.append(_merged(op, op.body, now))
                here.add(op.key)
            else:
                held_back.append(op.key)
        return merged, held_back, here

    def _hidden(self, results: Sequence[Result]) -> list[Op]:
        """Writes that show again what others in this process wrote, where one has just hidden it.

        A write that was meant for the database and went to the journal was not merged: it stands
        over what this process knew to be stored.
        """
        texts = self.turns.texts
        return [
            msgspec.structs.replace(merged, base=op.body, seen="present")
            for op in [one.op for one in results if one.receipt.durable_on != "primary"]
            if op.body is not None
            and texts.get(op.key, op.base) != op.base
            and (merged := _merged(op, op.body, texts[op.key])).body != op.body
        ]

    def _note(self, results: Sequence[Result]) -> None:
        """What this process knows to be stored; nothing of what the database has merged."""
        self.turns.saves += 1
        texts = self.turns.texts
        for result in results:
            op = result.op
            if op.body is None or result.outcome.status == "merged":
                texts.pop(op.key, None)
            else:
                texts[op.key] = op.body

    def _members(self, data: Any) -> dict[Any, Any]:
        if isinstance(data, LoadedList):
            data = list(data)
        if self._whole:
            return {WHOLE_KEY: dict(data) if isinstance(data, LoadedDict) else data}
        if self._key_field is not None and isinstance(data, list):
            return self._records(cast("list[Any]", data), self._key_field)
        if isinstance(data, dict):
            return cast("dict[Any, Any]", data)
        raise DataError(
            f"{self._path.name}: {type(data).__name__} is not a dict - at `$`",
            code="not_an_object",
            hint="JsonFile(..., whole=True) keeps a file of any form as one document",
            path="$",
        )

    def _records(self, data: list[Any], field: str) -> dict[Any, Any]:
        """The records of a file that is a list of them, by the field that names each."""
        members: dict[Any, Any] = {}
        for index, record in enumerate(data):
            key = cast("dict[str, Any]", record).get(field) if isinstance(record, dict) else None
            if isinstance(key, bool) or not isinstance(key, str | int) or key_text(key) in members:
                raise DataError(
                    f"{self._path.name}: the record has no `{field}` of its own, which names it -"
                    f" at `$[{index}]`",
                    code="no_key",
                    hint=f"give every record another `{field}`, a string or an integer",
                    path=f"$[{index}]",
                )
            members[key_text(key)] = record
        return members

    def _ops(self, changes: Difference, base: Base) -> list[Op]:
        puts = [self._op("put", key, base, known.text) for key, known in changes.puts.items()]
        return puts + [self._op("delete", key, base) for key in changes.deletes]

    def _op(
        self, kind: Literal["put", "delete"], key: str, base: Base, body: str | None = None
    ) -> Op:
        """A write that says what it is based on; its key and text were checked already."""
        text = base.basis.texts.get(key)
        return Op(
            lane="",
            seq=0,
            kind=kind,
            collection=self._collection.name,
            key=key,
            body=body,
            group=1,
            seen="absent" if text is None else "present",
            base=text,
        )

    async def _write(self, ops: Sequence[Op], changes: Difference, base: Base) -> list[Result]:
        try:
            results = await self._handle.engine.submit(ops, loop=self._handle.loop())
        except BaseException as error:
            # Any other error of ours says that nothing was written.
            if isinstance(error, DeadlineExceeded) or not isinstance(error, StandfastError):
                base.doubts.update((op.key, changes.puts.get(op.key)) for op in ops)
            raise
        for result in results:
            if result.outcome.status == "refused" and result.outcome.code != "batch":
                raise_refusal(result.op, result.outcome)
        return results

    def _remember(self, keys: Sequence[str], changes: Difference, base: Base) -> None:
        """The base is what was saved, also if that was merged: what the merge added is then a
        change by others, and not mistaken for something that the caller removed."""
        for key in keys:
            known = changes.puts.get(key)
            if known is None:
                base.basis.forget(key)
            else:
                base.basis.remember(key, known)

    async def _settle_doubts(self, base: Base) -> None:
        """Find out what became of writes without an answer.

        Where they are stored, the caller's dict was saved: a change that was taken back since then
        has to be written, too.
        """
        stored = await self._collection.get_many(base.doubts)
        for key, known in base.doubts.items():
            if known is None and key not in stored:
                base.basis.forget(key)
            elif known is not None and key in stored and encode(stored[key]) == known.text:
                base.basis.remember(key, known)
        base.doubts.clear()

    # ---- the file of former times

    async def _look_before_saving(self) -> None:
        """Nothing was loaded yet: is this the first run, or was something forgotten?"""
        empty = False
        if self._path.is_file():
            if self._whole:
                found = await self._collection.get(WHOLE_KEY, MISSING)
                empty = found is MISSING
            else:
                empty = await self._collection.first() is None
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


def _merged(op: Op, mine: str, now: str) -> Op:
    """A put on an old base as one that keeps what others have changed since.

    With a true conflict it keeps its base, so that the conflict is recorded.
    """
    if not all(text.startswith("{") for text in (op.base or "{}", mine, now)):
        return op
    found = three_way(decode(op.base or "{}"), decode(mine), decode(now), prefer="mine")
    body = encode(found.value)
    if found.true_conflicts:
        return msgspec.structs.replace(op, body=body)
    return msgspec.structs.replace(op, body=body, base=now, seen="present")


def _held_by_all(changes: Difference, others: Sequence[Base]) -> Difference:
    """Only what is a change whichever of several loads a dict was made from."""
    if not others:
        return changes
    texts = [each.basis.texts for each in others]
    puts = {
        key: known
        for key, known in changes.puts.items()
        if all(each.get(key) != known.text for each in texts)
    }
    deletes = [key for key in changes.deletes if all(key in each for each in texts)]
    return Difference(puts, deletes, changes.reshaped)


def _same_place(recorded: Path, path: Path) -> bool:
    """Whether a path names the file that a collection was filled from.

    The same path does.  So does the same relative path where the recorded folder does not exist:
    the app was deployed to another machine or folder.
    """
    here = path.resolve()
    if recorded == here:
        return True
    if recorded.parent.is_dir():
        return False
    try:
        relative = here.relative_to(Path.cwd())
    except ValueError:
        relative = Path(*here.parts[-2:])
    return recorded.parts[-len(relative.parts) :] == relative.parts


def _caller() -> object:
    """The task that runs now, or the thread where there is none."""
    try:
        return asyncio.current_task() or threading.current_thread()
    except RuntimeError:
        return threading.current_thread()


def _holds_nothing(path: Path) -> bool:
    """Whether a file is an empty object or array; one of no bytes was damaged."""
    if path.stat().st_size > _SMALL_BYTES:
        return False
    return b"".join(path.read_bytes().split()) in (b"{}", b"[]")


class AsyncJsonFile:
    """As `JsonFile`, for tasks of an event loop.  `store`: an open asynchronous store.

    A task that is cancelled gives up the answer only: its save is carried out to its end.
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

    def __repr__(self) -> str:
        return f"AsyncJsonFile({str(self._place.path)!r})"

    @property
    def handle(self) -> StoreHandle:
        """That of the store, once it is open; not for users."""
        assert self._handle is not None, "opened by the first load or save"
        return self._handle

    async def load(self) -> Any:
        """Everything that is stored, as the file would hold it: a fresh dict, which is yours.

        The keys are strings, in the order in which the documents were created, as in the file that
        was migrated; those of one moment in bytewise order.  With `whole`, the one document's value
        (`{}` when there is none); a file that was migrated as a list comes back as a list.  What is
        returned carries what it was made from: `save` compares with that.  Pages of 1,000 documents
        are a snapshot each.

        ConfigError("not_migrated") when nothing is stored and the file is still there;
        ConfigError("other_file") when the collection was filled from another file of that name.  In
        an outage it comes from the mirror, with pending writes applied:
        Unavailable("not_mirrored") when this data directory has never loaded it before.
        """
        file = await self._opened()
        return await file.load(self._caller())

    async def save(self, data: Any) -> Saved:
        """Write what changed since this dict was loaded or saved, and delete what was removed.

        All or nothing, up to 10,000 changed documents; more go in batches of so many.  What others
        have written since the load is merged with it, never overwritten silently.  A dict of your
        own, not one that `load` returned, is compared with the loads of this task or thread; where
        nothing was loaded, nothing is deleted, and documents that exist are merged as if both had
        added them.  After an error nothing is taken for saved: save again.

        DataError, before anything is written, for what JSON cannot hold: see `docs/json_file.md`.
        """
        return await self._to_its_end(self._save(data, self._caller()))

    @asynccontextmanager
    async def edit(self) -> AsyncGenerator[Any]:
        """`async with file.edit() as data:`, as `JsonFile.edit`."""
        file, caller = await self._opened(), self._caller()
        taken = await self._take(file.turns, caller)
        try:
            data = await file.load(caller)
            yield data
        except BaseException:
            if taken:
                file.turns.done()
            raise
        await self._to_its_end(self._save_in_turn(file, data, caller, taken=taken))

    async def _save(self, data: Any, caller: object) -> Saved:
        file = await self._opened()
        taken = await self._take(file.turns, caller)
        return await self._save_in_turn(file, data, caller, taken=taken)

    async def _save_in_turn(self, file: _File, data: Any, caller: object, *, taken: bool) -> Saved:
        try:
            return await file.save(data, caller)
        finally:
            if taken:
                file.turns.done()

    def _caller(self) -> object:
        return _caller()

    async def _to_its_end(self, save: Coroutine[Any, Any, Saved]) -> Saved:
        return await asyncio.shield(asyncio.ensure_future(save))

    async def _take(self, turns: Turns, caller: object) -> bool:
        """Wait for the caller's turn; False: it has it already, and waits for nobody."""
        if turns.holder is caller:
            return False
        turn = turns.ask()
        try:
            await self._wait_for(turn)
        except BaseException as error:
            turns.give_up(turn)
            if isinstance(error, TimeoutError | CancelledError):
                raise busy(self._place.path.name) from None
            raise
        turns.holder = caller
        return True

    async def _wait_for(self, turn: Future[None]) -> None:
        await asyncio.wait_for(asyncio.wrap_future(turn), JSON_FILE_TURN_S)

    async def _opened(self) -> _File:
        if self._handle is None:
            self._handle = (await asyncio.to_thread(shared_store)).as_async().handle
        return self._file_of(self._handle)

    def _file_of(self, handle: StoreHandle) -> _File:
        with _opening:
            if self._file is None:
                self._file = _File(handle, self._place)
            return self._file


class _InThread(AsyncJsonFile):
    """The calls of `JsonFile`: their caller is a thread, which may block."""

    def __init__(self, place: _Place, handle: StoreHandle | None) -> None:
        self._place = place
        self._handle = handle
        self._file = None

    async def _to_its_end(self, save: Coroutine[Any, Any, Saved]) -> Saved:
        return await save

    async def _wait_for(self, turn: Future[None]) -> None:
        turn.result(JSON_FILE_TURN_S)

    async def _opened(self) -> _File:
        if self._handle is None:
            self._handle = shared_store().calls.handle
        return self._file_of(self._handle)


class JsonFile:
    """A JSON file of former times, in the store: `load()` gives a dict, `save(dict)` takes it back.

    The collection has the name that `standfast migrate` derives from the file's, or that of
    `collection`, and one document for each member of the file's object; with `whole`, one document
    of any form.  `store`: an open store; by default `standfast.open()`, one for all files of the
    process with the same settings, closed when the program ends.  Thread-safe.
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

    @contextmanager
    def edit(self) -> Generator[Any]:
        """`with file.edit() as data:` loads, lets you change `data` in place, and saves.

        One edit or save of this file at a time in this process, whichever object, task or thread it
        comes from: none overwrites what another did.  Nothing is saved when the block raises.
        Unavailable("busy") when another edit does not end within 60 s.
        """
        block = self.calls.edit()
        data = drive(block.__aenter__(), self.calls)
        try:
            yield data
        except BaseException as error:
            drive(block.__aexit__(type(error), error, error.__traceback__), self.calls)
            raise
        drive(block.__aexit__(None, None, None), self.calls)


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
    _turns.clear()


at_fork(in_child=_after_fork)
