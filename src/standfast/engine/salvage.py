"""A damaged journal: set aside, its readable rows taken over one by one, the others counted.

What is lost is named by lane and sequence where the index can still be read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec

from standfast.engine.lanes import FOLDER, is_dead
from standfast.engine.set_aside import set_aside
from standfast.errors import CorruptData
from standfast.ops.types import unpack

logger = logging.getLogger("standfast")

#: Ids that are tried one by one where the order of the rows cannot be read.
MAX_TRIED = 2_000_000
#: What is read of each op.
COLUMNS = "id, lane, seq, collection, key, bytes, at_us, op"
#: Lost ops that are named one by one.
MAX_NAMED = 1000


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What a damaged journal has lost: how many writes (None: unknown), and which of them.

    `is_older`: it is whole, but as it was before its last writes; `lost` of them at most, and the
    last one has that name.
    """

    file: str
    salvaged: int
    lost: int | None
    names: tuple[tuple[str, int], ...] = ()
    is_older: bool = False

    def __str__(self) -> str:
        if self.is_older:
            lane, seq = self.names[0]
            return (
                f"the journal is older than what it has acknowledged (was it, or its -wal file,"
                f" replaced or removed?): up to {self.lost} acknowledged writes were lost, the last"
                f" of them {lane}/{seq}; remove {self.file} when you know of it"
            )
        lost = "an unknown number of" if self.lost is None else self.lost
        return (
            f"the journal was damaged: {lost} acknowledged writes were lost, {self.salvaged}"
            f" salvaged; the damaged file is {self.file}, remove it when it is of no use any more"
        )


class Salvaged(msgspec.Struct, frozen=True, kw_only=True):
    """What could be read of it: rows of `ops`, lanes, and named values."""

    ops: list[tuple[Any, ...]]
    lanes: list[tuple[str, int]]
    meta: list[tuple[str, str]]
    loss: Loss


def salvage(path: Path) -> Salvaged:
    """Set a damaged journal aside, and read what can be read of it.

    Raises CorruptData while a process of the directory is running: it is using that file.
    """
    folder = path.parent / FOLDER
    lanes = sorted(lock.stem for lock in folder.glob("*.lock"))
    if any(not is_dead(path.parent, lane) for lane in lanes):
        raise CorruptData(
            f"the journal {path} is damaged, and a process is using it",
            code="corrupt",
            hint="stop every process of this data directory, and open the store again: what can be"
            " read of the journal is taken over",
        )
    aside = set_aside(path)
    found = _read(aside, lanes)
    logger.error("%s", found.loss)
    return found


def _read(path: Path, lanes: list[str]) -> Salvaged:
    nothing = Loss(file=path.name, salvaged=0, lost=None)
    known = [(lane, 0) for lane in lanes]
    try:
        conn = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error:
        return Salvaged(ops=[], lanes=known, meta=[], loss=nothing)
    with closing(conn):
        named = _all(conn, "SELECT lane, seq, id FROM ops INDEXED BY sqlite_autoindex_ops_1")
        rows = _rows(conn, {one[2] for one in named})
        meta = _all(conn, "SELECT name, value FROM meta")
        noted = _all(conn, "SELECT lane, opened_us FROM lanes")
        expected = _all(conn, "SELECT ops FROM totals")
    kept = {(row[1], row[2]) for row in rows}
    missing = [(lane, seq) for lane, seq, _ in named if (lane, seq) not in kept]
    lost = max(len(missing), expected[0][0] - len(rows) if expected else 0)
    loss = Loss(
        file=path.name,
        salvaged=len(rows),
        lost=lost if expected or named else None,
        names=tuple(missing[:MAX_NAMED]),
    )
    of_ops = [(row[1], 0) for row in rows]
    every = list(dict(reversed([*noted, *known, *of_ops])).items())
    return Salvaged(ops=rows, lanes=every, meta=meta, loss=loss)


def readable(conn: apsw.Connection) -> list[tuple[Any, ...]]:
    """The rows of a damaged file's ops that can be read, in order."""
    named = _all(conn, "SELECT id FROM ops INDEXED BY sqlite_autoindex_ops_1")
    return _rows(conn, {one[0] for one in named})


def _rows(conn: apsw.Connection, known: set[int]) -> list[tuple[Any, ...]]:
    columns = f"SELECT {COLUMNS} FROM ops"
    found: dict[int, tuple[Any, ...]] = {}
    for order in ("ORDER BY id", "ORDER BY id DESC"):
        for row in _until_damage(conn, f"{columns} {order}"):
            found[row[0]] = row
    last = max((one[0] for one in _all(conn, "SELECT seq FROM sqlite_sequence")), default=0)
    tried = known or set(range(max(1, last - MAX_TRIED), last + 1))
    for number in tried - found.keys():
        for row in _until_damage(conn, f"{columns} WHERE id = {number}"):
            found[number] = row
    return [found[number] for number in sorted(found) if _is_whole(found[number])]


def _is_whole(row: tuple[Any, ...]) -> bool:
    try:
        op = unpack(row[7])
    except (msgspec.MsgspecError, ValueError, TypeError):
        return False
    return (op.lane, op.seq, op.collection, op.key) == row[1:5]


def _all(conn: apsw.Connection, statement: str) -> list[tuple[Any, ...]]:
    return list(_until_damage(conn, statement))


def _until_damage(conn: apsw.Connection, statement: str) -> Iterator[tuple[Any, ...]]:
    try:
        yield from conn.execute(statement)
    except apsw.Error:
        return
