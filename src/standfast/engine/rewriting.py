"""A journal that is destroyed under an open store, and is written anew.

What is still read through the open file goes into a new one, with the ids that it has; what is not,
from memory (`Remembered`), where what this process has journaled last is kept.  What was in the
place of the journal is set aside.  Whoever shares the directory notices that its file is not in its
place any more, and does the same: the new file then holds what either knows, each op once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw

from standfast.backends.sqlite.errors import mapped
from standfast.engine.journal_rows import ADDED, Pending, add_to_totals, size_of
from standfast.engine.salvage import COLUMNS, readable
from standfast.engine.set_aside import remove_companions, set_aside
from standfast.engine.sqlite_file import LocalFile
from standfast.errors import StandfastError, Unavailable
from standfast.limits import MAX_REMEMBERED_BYTES, SPOOL_WAIT_S
from standfast.ops.types import Op, pack
from standfast.system.failpoints import failpoint
from standfast.system.files import make_directory
from standfast.system.locks import FileLock

logger = logging.getLogger("standfast")

_LOCK = "journal.lock"
_PAGE = 500
_INSERT = (
    "INSERT OR IGNORE INTO ops (id, lane, seq, collection, key, bytes, at_us, op)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_APPEND = (
    "INSERT OR IGNORE INTO ops (lane, seq, collection, key, bytes, at_us, op)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class Remembered:
    """Pending ops by their ids in the journal, the newest of them.  Thread-safe."""

    def __init__(self) -> None:
        self._ops: dict[int, Op] = {}
        self._bytes = 0
        self._turn = threading.Lock()

    def add(self, pending: Iterable[Pending]) -> None:
        """These were journaled; the oldest are left out when there is no room for all."""
        with self._turn:
            for one in pending:
                self._pop(one.id)
                self._ops[one.id] = one.op
                self._bytes += size_of(one.op)
            while self._bytes > MAX_REMEMBERED_BYTES:
                self._pop(next(iter(self._ops)))

    def change(self, pending: Pending) -> None:
        """One has another content now, in its place of the order."""
        with self._turn:
            known = self._ops.get(pending.id)
            if known is not None:
                self._bytes += size_of(pending.op) - size_of(known)
                self._ops[pending.id] = pending.op

    def remove(self, ids: Iterable[int]) -> None:
        """These are not pending any more."""
        with self._turn:
            for one in ids:
                self._pop(one)

    def clear(self) -> None:
        """Nothing is pending."""
        with self._turn:
            self._ops, self._bytes = {}, 0

    def everything(self) -> list[Pending]:
        """What is remembered, in order."""
        with self._turn:
            return [Pending(one, self._ops[one]) for one in sorted(self._ops)]

    def _pop(self, number: int) -> None:
        op = self._ops.pop(number, None)
        if op is not None:
            self._bytes -= size_of(op)


class Rewritten(NamedTuple):
    """The new file; `aside`, what was in its place; whether the old one could not be read whole."""

    file: LocalFile
    aside: str
    was_damaged: bool


def rewrite(
    old: LocalFile,
    remembered: Remembered,
    *,
    begin: Callable[[Path], LocalFile],
    settled: Collection[int],
) -> Rewritten:
    """Write a journal anew that is gone or cannot be read; without what is settled.

    `begin` opens the file at a path, or makes it, and raises where what is there is no journal.
    """
    path = old.path
    with mapped(f"making the directory of {path}"):
        make_directory(path.parent)
    with _alone(path.with_name(_LOCK)):
        aside, file = "", None
        if not old.in_place and path.exists():
            with contextlib.suppress(StandfastError):
                old.leave()
                file = begin(path)  # another process was faster, or it was replaced
        if file is None:
            aside = _move_away(path)
            file = begin(path)
        try:
            failpoint("journal-begun-anew")
            with file.writing("writing the journal anew", durable=True) as conn:
                conn.execute(ADDED)
                was_damaged = _copy(old, conn, remembered, settled)
        except BaseException:
            file.close()
            raise
    failpoint("journal-written-anew")
    if aside and not was_damaged:  # all of it is in the new one; whoever has it open reads it still
        _remove(path.with_name(aside))
        aside = ""
    return Rewritten(file, aside, was_damaged)


@contextmanager
def _alone(path: Path) -> Generator[None]:
    lock, until = FileLock(path), time.monotonic() + SPOOL_WAIT_S
    with mapped(f"locking {path}"):
        while not lock.acquire():
            if time.monotonic() > until:
                raise Unavailable(
                    "the journal is written anew by another process",
                    code="locked",
                    hint="try again",
                )
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.release()


def _move_away(path: Path) -> str:
    with mapped(f"setting {path} aside"):
        if os.path.lexists(path):
            return set_aside(path).name
        remove_companions(path)  # of the file that is gone; open ones stay readable
        return ""


def _remove(aside: Path) -> None:
    with contextlib.suppress(OSError):
        aside.unlink()
    remove_companions(aside)


def _copy(
    old: LocalFile, conn: apsw.Connection, remembered: Remembered, settled: Collection[int]
) -> bool:
    was_damaged = False
    try:
        with old.reading("reading the old journal") as source:
            _copy_notes(source, conn)
            for row in _rows(source):
                if row[0] not in settled:
                    _put(conn, row)
    except StandfastError:
        was_damaged = True
        conn.execute("DELETE FROM meta WHERE name = 'spool_taken'")  # it may be what is lost
        with contextlib.suppress(StandfastError), old.reading("reading the old journal") as source:
            for row in readable(source):
                if row[0] not in settled:
                    _put(conn, row)
        for number, op in remembered.everything():
            if number not in settled:
                where = (op.collection, op.key, size_of(op), op.at_us)
                _put(conn, (number, op.lane, op.seq, *where, pack(op)))
    return was_damaged


def _copy_notes(source: apsw.Connection, conn: apsw.Connection) -> None:
    for table in ("meta", "lanes", "losses"):
        rows = cast("list[Any]", source.execute(f"SELECT * FROM {table}").fetchall())
        conn.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", rows)


def _rows(source: apsw.Connection) -> Iterator[tuple[Any, ...]]:
    page: list[Any] = [(-(1 << 62),)]
    statement = f"SELECT {COLUMNS} FROM ops WHERE id > ? ORDER BY id LIMIT ?"
    while page := cast("list[Any]", source.execute(statement, (page[-1][0], _PAGE)).fetchall()):
        yield from page


def _put(conn: apsw.Connection, row: tuple[Any, ...]) -> None:
    """Take one op over, once; another one may have its id, in a journal that was put there."""
    conn.execute(_INSERT, row)
    if not conn.changes():
        conn.execute(_APPEND, row[1:])
    if conn.changes():
        add_to_totals(conn, 1, row[5])
        conn.execute("INSERT OR IGNORE INTO lanes VALUES (?, ?)", (row[1], row[6]))
