"""Snapshots: whole collections as plain JSON, the last resort for reading.

`snapshot/<collection>.json` is for people and older code too.  A note beside it says as of when it
is; the first write, or newer read, after it removes the note, before it is answered: so a snapshot
with its note is never older than what this directory has acknowledged or shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from standfast.document.codec import encode
from standfast.engine.overlay import CompleteMark, MirrorRow
from standfast.ops.types import Row, State
from standfast.system import elsewhere
from standfast.system.failpoints import failpoint
from standfast.system.files import make_directory, read_regular, write_atomic

logger = logging.getLogger("standfast")

FOLDER = "snapshot"

_Times = tuple[int, int, int, int | None]


class Note(msgspec.Struct, frozen=True):
    """What is known of a snapshot: version and times of each document, and of which history."""

    history: str
    seen_us: int
    watermarks: dict[str, int]
    sha256: str
    rows: dict[str, _Times]


class Content(NamedTuple):
    """A snapshot that was read: its documents, their keys in bytewise order, and as of when."""

    rows: dict[str, MirrorRow]
    keys: list[str]
    mark: CompleteMark


class Snapshots:
    """The snapshots of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._names: dict[str, str] = {}
        self._distrusted = elsewhere.is_marked(self._folder)
        self._read: dict[str, tuple[tuple[str | int, ...], Content]] = {}

        if self._distrusted:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Remove what an earlier process could not."""
        self.spoil_all()
        if not any(note.stat().st_size for note in self._folder.glob(".*.note")):
            elsewhere.forget(elsewhere.marks_of(self._folder))
            self._distrusted = False

    def path(self, collection: str) -> Path:
        """Where the snapshot of a collection is."""
        return self._folder / f"{collection}.json"

    def _note(self, collection: str) -> Path:
        return self._folder / f".{collection}.note"

    # ---- writing

    def write(
        self,
        collection: str,
        rows: Callable[[], list[Row]],
        *,
        history: str,
        seen_us: int,
        watermarks: Mapping[str, int],
    ) -> None:
        """Write a collection; `rows` is called when a write meanwhile is sure to be noticed.

        Raises OSError.
        """
        make_directory(self._folder)
        note = self._note(collection)
        note.unlink(missing_ok=True)
        handle = os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            found = rows()
            members = (f"{encode(row.key)}:{row.text}" for row in found)
            data = ("{" + ",\n".join(members) + "}\n").encode()
            failpoint("snapshot-before-write")
            write_atomic(self.path(collection), data)
            times = {
                row.key: (row.version, row.created_us, row.updated_us, row.expires_us)
                for row in found
            }
            sha256 = hashlib.sha256(data).hexdigest()
            content = msgspec.json.encode(Note(history, seen_us, dict(watermarks), sha256, times))
            # Into this file, and no other one: a write that came meanwhile has removed it.
            while content:
                content = content[os.write(handle, content) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        failpoint("snapshot-written")

    def is_current(self, collection: str) -> bool:
        """Whether nothing was written or seen since the last one."""
        with contextlib.suppress(OSError):
            return self._note(collection).stat().st_size > 0
        return False

    def spoil(self, collections: Iterable[str]) -> None:
        """These have changed: their snapshots are not read any more."""
        for collection in collections:
            note = self._names.get(collection)
            if note is None:
                note = self._names[collection] = str(self._note(collection))
            if os.path.lexists(note):
                self._remove(note)

    def spoil_all(self) -> None:
        """What was known of the database holds no longer."""
        try:
            for note in self._folder.glob(".*.note"):
                self._remove(str(note))
        except OSError as error:
            self._distrust(error)

    def _remove(self, note: str) -> None:
        """An empty note is none.  The primary has answered, so nobody's call fails by this."""
        for remove in (Path.unlink, _empty):
            try:
                remove(Path(note))
            except FileNotFoundError:
                return
            except OSError as error:
                failure = error
            else:
                return
        self._distrust(failure)

    def _distrust(self, error: OSError) -> None:
        """Neither this process nor, by a mark, the next one reads any."""
        if not self._distrusted:
            logger.warning("snapshots are not read: they cannot be removed: %s", error.strerror)
            elsewhere.mark(self._folder)
        self._distrusted = True

    # ---- reading

    def row(self, collection: str, key: str, *, history: str) -> MirrorRow | None:
        """What the snapshot says of a key; None where there is no snapshot to be read."""
        content = self.content(collection, history=history)
        if content is None:
            return None
        missing = State(collection, key, None, 0)
        mark = content.mark
        return content.rows.get(key) or MirrorRow(
            missing, mark.watermarks, mark.since_us, "snapshot"
        )

    def content(self, collection: str, *, history: str) -> Content | None:
        """What the snapshot of a collection holds; None where there is none to be read."""
        if self._distrusted:
            return None
        try:
            found = self._note(collection).stat()
            state = (history, found.st_ino, found.st_size, found.st_mtime_ns)
            known = self._read.get(collection)
            if known is None or known[0] != state:
                known = self._read[collection] = (state, self._content(collection, history))
        except (OSError, ValueError, msgspec.MsgspecError):
            self._read.pop(collection, None)
            return None
        return known[1]

    def _content(self, collection: str, history: str) -> Content:
        """Raises OSError, ValueError or MsgspecError where it is not to be read."""
        note = msgspec.json.decode(self._note(collection).read_bytes(), type=Note)
        data, _ = read_regular(self.path(collection))
        if note.history != history or hashlib.sha256(data).hexdigest() != note.sha256:
            raise ValueError("another history, or not the file that was written")
        texts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        rows = {
            key: MirrorRow(
                State(collection, key, bytes(texts[key]).decode(), *times),
                note.watermarks,
                note.seen_us,
                "snapshot",
            )
            for key, times in note.rows.items()
        }
        mark = CompleteMark(note.seen_us, note.watermarks)
        return Content(rows, sorted(rows, key=str.encode), mark)


def _empty(path: Path) -> None:
    os.truncate(path, 0)
