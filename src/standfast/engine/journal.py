"""The journal: acknowledged ops that the primary has not confirmed yet, in order, on disk.

An outbox, never disposable: WAL with synchronous=FULL, the setting that lost nothing in real power
cuts.  It belongs to the data directory, and holds the ops of all lanes that write there; the order
of its ids is the order of their acknowledgements.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec

from standfast.engine.sqlite_file import LocalFile
from standfast.errors import Unavailable
from standfast.limits import MAX_JOURNAL_BYTES, MAX_JOURNAL_OPS
from standfast.ops.types import Op, ServerIdentity, pack, unpack
from standfast.system.failpoints import failpoint

FILE = "journal.db"
#: "stnj" in ASCII.
MARK = 0x73746E6A

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE lanes (
    lane      TEXT PRIMARY KEY,
    opened_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE ops (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    lane       TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    collection TEXT NOT NULL,
    key        TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    at_us      INTEGER NOT NULL,
    op         BLOB NOT NULL,
    UNIQUE (lane, seq)
) STRICT;
CREATE INDEX ops_place ON ops (collection, key);
CREATE TABLE totals (single INTEGER PRIMARY KEY CHECK (single = 1), ops INTEGER, bytes INTEGER);
INSERT INTO totals VALUES (1, 0, 0);
"""


class Pending(NamedTuple):
    """One op of the journal with its place in the order of acknowledgement."""

    id: int
    op: Op


class Totals(NamedTuple):
    """How much is pending in the data directory."""

    ops: int
    bytes: int


class History(msgspec.Struct, frozen=True):
    """The database that the journal belongs to (I9): who it is, and under which address."""

    identity: str
    system: str
    display: str

    def is_of(self, server_identity: ServerIdentity) -> bool:
        """Whether this is the database that says hello."""
        same = self.identity == server_identity.identity
        return same and (
            not self.system or not server_identity.system or self.system == server_identity.system
        )


class Transaction:
    """A write transaction of the journal: what is pending can be read, and ops be added, in it."""

    def __init__(self, conn: apsw.Connection) -> None:
        self._conn = conn

    def at(self, collection: str, key: str) -> list[Op]:
        """The pending ops of one place, in order."""
        return _at(self._conn, collection, key)

    def add(self, ops: Sequence[Op], *, max_ops: int, max_bytes: int) -> None:
        """Append ops; `Unavailable("journal_full")` when they do not fit any more (I7)."""
        totals = Totals(*self._conn.execute("SELECT ops, bytes FROM totals").get)
        sizes = [_size(op) for op in ops]
        if totals.ops + len(ops) > max_ops or totals.bytes + sum(sizes) > max_bytes:
            raise Unavailable(
                f"the journal is full: {totals.ops} writes, {totals.bytes} bytes are pending",
                code="journal_full",
                hint="nothing was written; bring the primary back, or raise the journal's limit",
            )
        self._conn.executemany(
            "INSERT INTO ops (lane, seq, collection, key, bytes, at_us, op)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (op.lane, op.seq, op.collection, op.key, size, op.at_us, pack(op))
                for op, size in zip(ops, sizes, strict=True)
            ],
        )
        _count(self._conn, len(ops), sum(sizes))


class Journal:
    """The journal of one data directory.  Thread-safe, and used by all of its processes."""

    def __init__(
        self,
        data_dir: Path,
        *,
        max_ops: int = MAX_JOURNAL_OPS,
        max_bytes: int = MAX_JOURNAL_BYTES,
    ) -> None:
        self.max_ops = max_ops
        self.max_bytes = max_bytes
        self._file = LocalFile(data_dir / FILE, mark=MARK, schema=_SCHEMA, what="the journal")
        self.path = self._file.path
        self.directory = self._directory()

    def _directory(self) -> str:
        """The UUID under which the primary knows the lanes of this directory."""
        with self._file.writing("naming the directory", durable=True) as conn:
            conn.execute("INSERT OR IGNORE INTO meta VALUES ('directory', ?)", (str(uuid.uuid4()),))
            return conn.execute("SELECT value FROM meta WHERE name = 'directory'").get

    # ---- the database that it belongs to

    def history(self) -> History | None:
        """The database that the journal belongs to; None before the first one was reached."""
        with self._file.reading("reading the history") as conn:
            text = conn.execute("SELECT value FROM meta WHERE name = 'history'").get
        return msgspec.json.decode(text, type=History) if text else None

    def set_history(self, history: History) -> None:
        """From now on it belongs to this database."""
        failpoint("history-before-note")
        with self._file.writing("noting the history", durable=True) as conn:
            conn.execute(
                "INSERT OR REPLACE INTO meta VALUES ('history', ?)",
                (msgspec.json.encode(history).decode(),),
            )
        failpoint("history-noted")

    # ---- lanes

    def open_lane(self, lane: str) -> None:
        """Note a lane before its first transaction, so that it will be fenced when it dies."""
        with self._file.writing("opening a lane", durable=True) as conn:
            conn.execute("INSERT INTO lanes VALUES (?, ?)", (lane, _now_us()))
        failpoint("lane-noted")

    def lanes(self) -> list[str]:
        """Every lane of the directory that is not known to be closed or fenced, oldest first."""
        with self._file.reading("reading the lanes") as conn:
            found = conn.execute("SELECT lane FROM lanes ORDER BY opened_us, lane")
            return [record[0] for record in found]

    def close_lane(self, lane: str) -> bool:
        """Forget a lane that is closed or fenced; False while something of it is pending."""
        failpoint("lane-before-close")
        with self._file.writing("closing a lane", durable=False) as conn:
            conn.execute(
                "DELETE FROM lanes WHERE lane = ?1"
                " AND NOT EXISTS (SELECT 1 FROM ops WHERE lane = ?1)",
                (lane,),
            )
            closed = conn.changes() > 0
        failpoint("lane-closed")
        return closed

    # ---- ops

    @contextmanager
    def writing(self) -> Generator[Transaction]:
        """One durable transaction: what it adds is on disk when it returns (I1)."""
        with self._file.writing("writing the journal", durable=True) as conn:
            yield Transaction(conn)
            failpoint("journal-before-commit")
        failpoint("journal-committed")

    def at(self, collection: str, key: str) -> list[Op]:
        """The pending ops of one place, in order."""
        with self._file.reading("reading the journal") as conn:
            return _at(conn, collection, key)

    def keys(self, collection: str) -> list[str]:
        """The keys of a collection that have pending ops."""
        with self._file.reading("reading the journal") as conn:
            found = conn.execute("SELECT DISTINCT key FROM ops WHERE collection = ?", (collection,))
            return [record[0] for record in found]

    def first(self, limit: int, *, after: int = 0) -> list[Pending]:
        """The oldest pending ops above an id, in order, at most `limit`."""
        with self._file.reading("reading the journal") as conn:
            found = conn.execute(
                "SELECT id, op FROM ops WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
            )
            return [Pending(record[0], unpack(record[1])) for record in found]

    def totals(self) -> Totals:
        """How much is pending."""
        with self._file.reading("reading the journal") as conn:
            return Totals(*conn.execute("SELECT ops, bytes FROM totals").get)

    def oldest_us(self) -> int | None:
        """When the oldest pending op was acknowledged, by this machine's clock."""
        with self._file.reading("reading the journal") as conn:
            return conn.execute("SELECT at_us FROM ops ORDER BY id LIMIT 1").get

    def holds(self, lane: str) -> bool:
        """Whether anything of a lane is pending."""
        with self._file.reading("reading the journal") as conn:
            return bool(conn.execute("SELECT 1 FROM ops WHERE lane = ? LIMIT 1", (lane,)).get)

    def has(self, lane: str, seq: int) -> bool:
        """Whether the op that a receipt names is pending."""
        with self._file.reading("reading the journal") as conn:
            if conn.execute("SELECT 1 FROM ops WHERE lane = ? AND seq = ?", (lane, seq)).get:
                return True
            moved = conn.execute("SELECT 1 FROM ops WHERE lane <> ? LIMIT 1", (lane,)).get
        return bool(moved) and any(p.op.name == (lane, seq) for p in self.everything())

    def everything(self, page: int = 1000) -> Generator[Pending]:
        """Every pending op in order, read in pages."""
        after = 0
        while found := self.first(page, after=after):
            yield from found
            after = found[-1].id

    def remove(self, done: Iterable[Pending], *, durable: bool = False) -> None:
        """Remove ops that the primary has applied; a power cut may bring them back, without harm.

        `durable` is for ops that must not come back: writes that were discarded.

        The mirror has the outcome already: who reads the journal first, then the mirror, sees each
        op in one of the two.
        """
        failpoint("journal-before-remove")
        with self._file.writing("clearing the journal", durable=durable) as conn:
            count = size = 0
            for pending in done:
                conn.execute("DELETE FROM ops WHERE id = ?", (pending.id,))
                if conn.changes():
                    count, size = count + 1, size + _size(pending.op)
            _count(conn, -count, -size)
        failpoint("journal-removed")

    def replace(self, pending: Sequence[Pending], change: Callable[[Op], Op]) -> None:
        """Write ops anew in their place of the order: rejected, or moved to another lane (R1)."""
        failpoint("journal-before-replace")
        with self._file.writing("changing the journal", durable=True) as conn:
            for one in pending:
                op = change(one.op)
                conn.execute(
                    "UPDATE ops SET lane = ?, seq = ?, op = ? WHERE id = ?",
                    (op.lane, op.seq, pack(op), one.id),
                )
        failpoint("journal-replaced")

    def version(self) -> int:
        """A number that changes when another process, or this one, has written to the file."""
        with self._file.reading("looking at the journal") as conn:
            return conn.execute("PRAGMA data_version").get

    def close(self) -> None:
        """Close the file.  Idempotent."""
        self._file.close()


def _at(conn: apsw.Connection, collection: str, key: str) -> list[Op]:
    found = conn.execute(
        "SELECT op FROM ops WHERE collection = ? AND key = ? ORDER BY id", (collection, key)
    )
    return [unpack(record[0]) for record in found]


def _size(op: Op) -> int:
    return len(op.body or "") + len(op.base or "") + len(op.key) + 100


def _count(conn: apsw.Connection, ops: int, size: int) -> None:
    conn.execute("UPDATE totals SET ops = ops + ?, bytes = bytes + ?", (ops, size))


def _now_us() -> int:
    return time.time_ns() // 1000
