"""The journal's mark: how far it had come, noted beside it, so that a loss is noticed.

SQLite takes a write-ahead log that was removed, emptied or replaced for one that never was: the
file opens without an error, as it was some time ago.  Its ids are never given twice, so that a
journal whose last id is below the noted one has lost acknowledged writes.

The mark is neither flushed nor needed: an old one, or none, notices less, and alarms nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from standfast.engine.salvage import Loss
from standfast.engine.set_aside import set_aside
from standfast.ops.types import Op
from standfast.system.files import read_regular

logger = logging.getLogger("standfast")

FILE = "journal.mark"
_FLAGS = os.O_CREAT | os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class _Mark(msgspec.Struct, frozen=True):
    """The id of the last op added, how many were pending then, and the name of that op."""

    last: int
    pending: int
    lane: str = ""
    seq: int = 0


class JournalMark:
    """The mark of one data directory's journal.  Never raises: nothing rests on it."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE

    def note_added(self, last: int, op: Op, *, pending: int) -> None:
        """A transaction is on disk: its last id and op, and what is pending with it."""
        self._write(_Mark(last, pending, op.lane, op.seq))

    def note_removed(self, *, pending: int) -> None:
        """Ops were removed, and so many are still pending."""
        found = self._read()
        if found is not None and pending < found.pending:
            self._write(msgspec.structs.replace(found, pending=pending))

    @property
    def pending(self) -> int:
        """How many ops were pending when it was last noted; 0 where that is not known."""
        found = self._read()
        return found.pending if found is not None else 0

    def forget(self) -> None:
        """What the journal has lost is known otherwise."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def loss(self, last: int, *, only_look: bool = False) -> Loss | None:
        """What a journal has lost whose last id is this one; noticed once, unless it is a look."""
        found = self._read()
        if found is None or last >= found.last or not found.pending:
            return None
        file = FILE
        if not only_look:
            with contextlib.suppress(OSError):
                file = set_aside(self._path).name
        loss = Loss(
            file=file,
            salvaged=0,
            lost=min(found.last - last, found.pending),
            names=((found.lane, found.seq),),
            is_older=True,
        )
        if not only_look:
            logger.error("%s", loss)
        return loss

    def _read(self) -> _Mark | None:
        try:
            return msgspec.json.decode(read_regular(self._path)[0].split(b"\n")[0], type=_Mark)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, mark: _Mark) -> None:
        with contextlib.suppress(OSError):
            handle = os.open(self._path, _FLAGS, 0o600)
            try:
                # One write: whoever reads meanwhile, or after a kill, finds a whole line or none.
                os.write(handle, msgspec.json.encode(mark) + b"\n")
            finally:
                os.close(handle)
