"""The rows of the journal: pending ops, totals, folded heads, in a transaction of its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import apsw
import msgspec

from standfast.engine.heads import Head, pack_head, unpack_head
from standfast.errors import Unavailable
from standfast.ops.batch import Place
from standfast.ops.types import Op, pack, unpack

SCHEMA = """
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

# Folded heads with their bytes, and what damaged files have lost; not in every file that an earlier
# version has made.
ADDED = """
CREATE TABLE IF NOT EXISTS heads (
    collection TEXT NOT NULL,
    key        TEXT NOT NULL,
    first      INTEGER NOT NULL,            -- ids of the first and the last op in it
    last       INTEGER NOT NULL,
    in_op      INTEGER NOT NULL,            -- whether the last op, a put, holds its text
    head       BLOB NOT NULL,
    PRIMARY KEY (collection, key)
) STRICT;
CREATE TABLE IF NOT EXISTS head_totals (
    single INTEGER PRIMARY KEY CHECK (single = 1),
    bytes  INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO head_totals SELECT 1, coalesce(sum(length(head)), 0) FROM heads;
CREATE TRIGGER IF NOT EXISTS head_kept AFTER INSERT ON heads BEGIN
    UPDATE head_totals SET bytes = bytes + length(new.head);
END;
CREATE TRIGGER IF NOT EXISTS head_forgotten AFTER DELETE ON heads BEGIN
    UPDATE head_totals SET bytes = bytes - length(old.head);
END;
CREATE TABLE IF NOT EXISTS losses (at_us INTEGER PRIMARY KEY, loss TEXT NOT NULL) STRICT
"""
_HEAD = (
    "SELECT first, last, head,"
    " (SELECT min(id) FROM ops WHERE collection = ?1 AND key = ?2),"
    " (SELECT max(id) FROM ops WHERE collection = ?1 AND key = ?2),"
    " CASE WHEN in_op THEN (SELECT op FROM ops WHERE id = last) END"
    " FROM heads WHERE collection = ?1 AND key = ?2"
)
_REMOVE = "DELETE FROM ops WHERE id = ? AND lane = ? AND seq = ? RETURNING bytes"
CHANGE = "UPDATE ops SET lane = ?, seq = ?, op = ? WHERE id = ? AND lane = ? AND seq = ?"
FORGET_HEAD = "DELETE FROM heads WHERE collection = ? AND key = ?"
LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'ops'"
#: So many ops of one place, and more, are folded into a head.
_MANY_OPS = 8
#: Ids of ops in the spool are above: they come after everything in the file.
SPOOLED = 1 << 62


class Pending(NamedTuple):
    """One op of the journal, or of the spool, with its place in the order of acknowledgement."""

    id: int
    op: Op

    @property
    def is_spooled(self) -> bool:
        """Whether it is in the spool."""
        return self.id >= SPOOLED


class Totals(NamedTuple):
    """How much is pending in the data directory."""

    ops: int
    bytes: int


class Transaction:
    """A write transaction of the journal: what is pending can be read, and ops be added, in it."""

    def __init__(self, conn: apsw.Connection) -> None:
        self._conn = conn
        self._hot: set[Place] = set()
        self.added: list[Pending] = []
        self.last: Op | None = None
        """The last op that was added."""
        self.reached = (0, 0)
        """Its id, and how many are pending with it."""

    def at(self, collection: str, key: str) -> list[Op]:
        """The pending ops of one place, in order."""
        ops = ops_at(self._conn, collection, key)
        if len(ops) >= _MANY_OPS:
            self._hot.add((collection, key))
        return ops

    def head(self, collection: str, key: str) -> Head | None:
        """The folded head of a place with all of its pending ops; None when there is none."""
        head = head_at(self._conn, collection, key)
        if head is not None:
            self._hot.add((collection, key))
        return head

    def add(
        self,
        ops: Sequence[Op],
        *,
        max_ops: int,
        max_bytes: int,
        heads: Mapping[Place, Head] = MappingProxyType({}),
    ) -> None:
        """Append ops; `Unavailable("journal_full")` when they do not fit any more (I7).

        `heads` are the folded heads of their places, these ops included.
        """
        if not ops:
            return
        sizes = [size_of(op) for op in ops]
        with_them = add_to_totals(self._conn, len(ops), sum(sizes))
        if with_them.ops > max_ops or with_them.bytes > max_bytes:  # which is rolled back
            totals = Totals(with_them.ops - len(ops), with_them.bytes - sum(sizes))
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
        last = self._conn.last_insert_rowid()
        self.last, self.reached = ops[-1], (last, with_them.ops)
        self.added += map(Pending, range(last - len(ops) + 1, last + 1), ops)
        self._keep_heads(ops, heads, first=last - len(ops) + 1, room=max_bytes - with_them.bytes)

    def _keep_heads(
        self, ops: Sequence[Op], heads: Mapping[Place, Head], *, first: int, room: int
    ) -> None:
        """Keep the heads of these places, in the room that the ops of the journal have left."""
        kept = head_bytes(self._conn)
        if kept > room:
            self._conn.execute("DELETE FROM heads")
            kept = 0
        last = {(op.collection, op.key): (number, op) for number, op in enumerate(ops, first)}
        for place, (number, op) in last.items():
            head = heads.get(place)
            if head is not None and place not in self._hot:
                continue  # those few are quickly applied again
            self._conn.execute(FORGET_HEAD, place)
            if head is None:
                continue
            in_op = op.kind == "put" and op.body == head.view.text
            packed = pack_head(head, without_text=in_op)
            if kept + len(packed) <= room:
                kept += len(packed)
                self._conn.execute(
                    "INSERT INTO heads VALUES (?1, ?2,"
                    " (SELECT min(id) FROM ops WHERE collection = ?1 AND key = ?2), ?3, ?4, ?5)",
                    (*place, number, in_op, packed),
                )


def add_spooled(conn: apsw.Connection, ops: Sequence[Op]) -> list[Pending]:
    """Take ops over; one that is there already was taken over before a kill -9.

    Up to which is noted with them: the spool may be there for longer, and so may they not be.
    """
    if ops:
        name = msgspec.json.encode((ops[-1].lane, ops[-1].seq)).decode()
        conn.execute("INSERT OR REPLACE INTO meta VALUES ('spool_taken', ?)", (name,))
    added: list[Pending] = []
    for op in ops:
        size = size_of(op)
        conn.execute(
            "INSERT OR IGNORE INTO ops (lane, seq, collection, key, bytes, at_us, op)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (op.lane, op.seq, op.collection, op.key, size, op.at_us, pack(op)),
        )
        if conn.changes():
            added.append(Pending(conn.last_insert_rowid(), op))
            add_to_totals(conn, 1, size)
            conn.execute(FORGET_HEAD, (op.collection, op.key))
            # Noted already, unless it was in a journal that is gone: so that it will be fenced.
            conn.execute("INSERT OR IGNORE INTO lanes VALUES (?, ?)", (op.lane, op.at_us))
    return added


def remove(conn: apsw.Connection, pending: Iterable[Pending]) -> None:
    """Remove ops, with the heads of their places."""
    count = size = 0
    places: set[Place] = set()
    for one in pending:
        # In a journal that was begun anew, another op may have its id.
        where = (one.id, one.op.lane, one.op.seq)
        counted = conn.execute(_REMOVE, where).get
        if counted is not None:
            count, size = count + 1, size + counted
            places.add((one.op.collection, one.op.key))
    conn.executemany(FORGET_HEAD, places)
    add_to_totals(conn, -count, -size)


def head_at(conn: apsw.Connection, collection: str, key: str) -> Head | None:
    """The folded head of a place; None when there is none with all of its ops."""
    found = conn.execute(_HEAD, (collection, key)).fetchone()
    if found is None or found[0:2] != found[3:5]:
        return None
    return unpack_head(found[2], last=unpack(found[5]) if found[5] is not None else None)


def ops_at(
    conn: apsw.Connection,
    collection: str,
    key: str,
    settled: Mapping[int, Op] = MappingProxyType({}),
) -> list[Op]:
    """The pending ops of one place, in order."""
    found = conn.execute(
        "SELECT id, op FROM ops WHERE collection = ? AND key = ? ORDER BY id", (collection, key)
    )
    return [unpack(record[1]) for record in found if record[0] not in settled]


def size_of(op: Op) -> int:
    """What an op counts of the journal's bytes."""
    return sum([_bytes(text) for text in (op.body, op.base, op.key) if text]) + 100


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def head_bytes(conn: apsw.Connection) -> int:
    """The bytes of the folded heads, which count for the journal's limit, too."""
    return conn.execute("SELECT bytes FROM head_totals").get


def pending_ops(conn: apsw.Connection) -> int:
    """How many ops are pending."""
    return conn.execute("SELECT ops FROM totals").get


def add_to_totals(conn: apsw.Connection, ops: int, size: int) -> Totals:
    """Count what was added, or removed; returns how much is pending now."""
    counted = "UPDATE totals SET ops = ops + ?, bytes = bytes + ? RETURNING ops, bytes"
    return Totals(*conn.execute(counted, (ops, size)).get)
