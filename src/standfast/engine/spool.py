"""The spool: acknowledged ops as JSON lines, for when the journal cannot be written.

One line holds the ops of one call, with a checksum of their text, and is on disk before the call
is acknowledged (I1).  A line that was cut off was never acknowledged.  What is in the spool comes
after what is in the journal, which takes it over as soon as it can be written again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from standfast.backends.sqlite.errors import mapped
from standfast.backends.sqlite.file import gone, inode_of
from standfast.engine.set_aside import clear_place, found_aside, set_aside
from standfast.errors import Unavailable
from standfast.limits import MAX_SPOOL_BYTES, SPOOL_WAIT_S
from standfast.ops.batch import Place
from standfast.ops.types import Identity, Op
from standfast.system.failpoints import failpoint
from standfast.system.files import fsync_directory, read_regular
from standfast.system.locks import FileLock

logger = logging.getLogger("standfast")

FILE = "spool.jsonl"
#: Errors that the next attempt meets again: the rights of the file are wrong, or it is a link.
_REFUSED = (errno.EACCES, errno.EPERM, errno.ELOOP)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_DEFAULTS = {
    field.name: field.default
    for field in msgspec.structs.fields(Op)
    if field.default is not msgspec.NODEFAULT
}


class Content(NamedTuple):
    """What a spool holds: the ops in order, where its last whole line ends, and how many whole
    lines before that cannot be read."""

    ops: list[Op]
    end: int = 0
    damaged: int = 0


def line_of(ops: Sequence[Op]) -> bytes:
    """The line of one call."""
    text = json.dumps([_fields(op) for op in ops], separators=(",", ":"))
    return f'{{"sum":"{_sum(text)}","ops":{text}}}\n'.encode("ascii")


def content_of(data: bytes) -> Content:
    """What the bytes of a spool hold."""
    ops: list[Op] = []
    damaged = 0
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.splitlines():
        found = _parsed(line)
        if found is None:
            damaged += 1
        else:
            ops += found
    return Content(ops, len(whole), damaged)


def _fields(op: Op) -> dict[str, Any]:
    fields = msgspec.structs.asdict(op)
    return {
        name: value for name, value in fields.items() if value != _DEFAULTS.get(name, _DEFAULTS)
    }


def _parsed(line: bytes) -> list[Op] | None:
    try:
        head, text = line.decode("ascii").split(',"ops":', 1)
        text = text[:-1]
        if head != f'{{"sum":"{_sum(text)}"':
            return None
        return msgspec.convert(json.loads(text), list[Op])
    except (ValueError, msgspec.ValidationError):
        return None


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


class Spool:
    """The spool of one data directory.  Thread-safe, and used by all of its processes."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE
        self._lock = FileLock(data_dir / "spool.lock")
        self._turn = threading.RLock()
        self._state: tuple[int, ...] | None = None
        self._content = Content([])
        self._places: dict[Place, list[Op]] = {}
        self._settled: set[Identity] = set()
        self._taken: Identity | None = None
        self._skipped = 0
        self.changes = 0
        """How often its content was seen to have changed."""

    # ---- reading

    @property
    def is_empty(self) -> bool:
        """Whether there is no op in it, whatever became of it."""
        self.look()
        return not self._content.ops

    def ops(self) -> list[Op]:
        """Every op in it that was not taken over, in order, settled ones included."""
        self.look()
        return self._content.ops[self._skipped :]

    def taken_through(self, name: Identity | None) -> None:
        """The journal has taken over the op of this name, and what comes before it.

        A spool that could not be emptied afterwards holds ops that are not pending here any more.
        """
        if name != self._taken:
            with self._turn:
                self._taken = name
                self._index_anew()
                self.changes += 1

    def pending(self) -> list[tuple[int, Op]]:
        """The ops that are neither taken over nor known to be settled, with a lasting index."""
        self.look()
        settled = self._settled
        return [
            (index, op)
            for index, op in enumerate(self._content.ops)
            if index >= self._skipped and (op.lane, op.seq) not in settled
        ]

    def at(self, collection: str, key: str) -> list[Op]:
        """The ops of one place that are not known to be settled, in order."""
        self.look()
        found = self._places.get((collection, key), ())
        return [op for op in found if (op.lane, op.seq) not in self._settled]

    @property
    def damaged(self) -> int:
        """How many of its lines cannot be read; files that were set aside are not counted."""
        self.look()
        return self._content.damaged

    @property
    def aside(self) -> list[Path]:
        """Earlier spools with lines that could not be read, and what was in the place of one."""
        with mapped(f"looking for what was set aside beside {self.path}"):
            return found_aside(self.path)

    def losses(self) -> list[str]:
        """What was set aside, a sentence each, while it is there."""
        return [
            f"{path.name} was set aside, since not all of it could be read as a spool: writes that"
            " were acknowledged in it may be missing on the primary; if only its rights are wrong,"
            f" correct them, stop the app and rename it to {FILE}; remove it when it is of no use"
            " any more"
            for path in self.aside
        ]

    def look(self) -> None:
        """Read it if it has changed."""
        try:
            found = os.stat(self.path)
        except OSError:
            state = None
        else:
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if state != self._state:
            with self._turn:
                self._read()

    def _read(self) -> None:
        with mapped(f"reading the spool {self.path}"):
            clear_place(self.path)
            try:
                data, found = read_regular(self.path)
            except FileNotFoundError:
                data, found = b"", None
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise  # it may be read later
                self._set_aside(error)
                data, found = b"", None
        self._state = found and (found.st_ino, found.st_size, found.st_mtime_ns)
        self._content = content_of(data)
        if not self._content.ops:
            self._settled.clear()
        self._index_anew()
        self.changes += 1

    def _set_aside(self, failure: OSError) -> None:
        """It must not stop every write: what is in it waits for a person."""
        aside = set_aside(self.path)
        logger.error(
            "the spool cannot be read (%s), and was set aside as %s", failure.strerror, aside.name
        )

    def _index_anew(self) -> None:
        self._places = {}
        ops, taken = self._content.ops, self._taken
        counts = range(len(ops), 0, -1) if taken else ()
        self._skipped = next((n for n in counts if (ops[n - 1].lane, ops[n - 1].seq) == taken), 0)
        self._index(ops[self._skipped :])

    def _index(self, ops: Iterable[Op]) -> None:
        for op in ops:
            self._places.setdefault((op.collection, op.key), []).append(op)

    # ---- writing

    @contextmanager
    def locked(self) -> Generator[Content]:
        """No other process changes it inside the block; what it holds."""
        with self._turn:
            until = time.monotonic() + SPOOL_WAIT_S
            with mapped(f"locking the spool {self.path}"):
                ours = not self._lock.held
                while not self._lock.acquire():
                    if time.monotonic() > until:
                        raise Unavailable(
                            f"the spool {self.path} is in use by another process",
                            code="locked",
                            hint="try again",
                        )
                    time.sleep(0.005)
            try:
                self.look()
                yield self._content
            finally:
                if ours:
                    self._lock.release()

    def append(self, calls: Iterable[Sequence[Op]]) -> None:
        """Add the ops of these calls, each call's together; on disk when it returns (I1).

        Raises `Unavailable`, or ConfigError from the file system; then nothing was added.
        """
        data = b"".join(map(line_of, calls))
        with self.locked() as content, mapped(f"writing the spool {self.path}"):
            if content.end + len(data) > MAX_SPOOL_BYTES:
                raise Unavailable(
                    f"the spool is full: {content.end} bytes are pending",
                    code="journal_full",
                    hint="nothing was written; make the journal writable again",
                )
            self._write(content.end, data)
            self._follow(content, data)

    def _follow(self, content: Content, data: bytes) -> None:
        """What was appended is known without reading all of it again."""
        found = os.stat(self.path)
        self._state = (found.st_ino, found.st_size, found.st_mtime_ns)
        new = content_of(data).ops
        content.ops.extend(new)
        self._index(new)
        self._content = content._replace(end=content.end + len(data))
        self.changes += 1

    def _write(self, end: int, data: bytes) -> None:
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_CREAT | os.O_RDWR | _BINARY | _NOFOLLOW, 0o600)
        try:
            inode = (os.fstat(handle).st_dev, os.fstat(handle).st_ino)
            os.ftruncate(handle, end)  # what a killed process did not finish
            os.lseek(handle, end, os.SEEK_SET)
            failpoint("spool-before-write")
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                failpoint("spool-written")
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, end)
                raise
            if inode_of(self.path) != inode:
                raise gone(self.path, "the spool")
        finally:
            os.close(handle)
        if is_new:
            fsync_directory(self.path.parent)
        failpoint("spool-synced")

    def settle(self, ops: Iterable[Op]) -> None:
        """The primary has these; the file is emptied when it has all of it.

        Needs no space, and never raises: after a kill -9 they are replayed, and skipped.
        """
        with self._turn:
            self._settled.update((op.lane, op.seq) for op in ops)
            self.changes += 1
            try:
                with self.locked():
                    if not self.pending():
                        self.empty()
            except (Unavailable, OSError):
                return

    def empty(self) -> None:
        """Remove what is in it, under the lock; one with damaged lines is kept beside it."""
        try:
            if self._content.damaged:
                aside = set_aside(self.path)
                logger.error(
                    "%d lines of the spool cannot be read, and were not replayed: they are in %s",
                    self._content.damaged,
                    aside.name,
                )
            elif self.path.exists():
                os.truncate(self.path, 0)
        except OSError as error:
            logger.warning("the spool cannot be emptied: %s", error.strerror)
        self._read()
