"""The mirror: what the primary last confirmed, kept locally; disposable.

Every row is tagged with the watermarks of the directory's lanes in the snapshot that it came from
(R8), which show the pending ops that are in it.  Rows, watermark and retained ops of a batch are
written in one transaction (R6): safe from kill -9 at once, from a power cut a moment later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
import msgspec

from standfast.engine.overlay import CompleteMark, MirrorRow
from standfast.engine.sqlite_file import LocalFile
from standfast.limits import MAX_MIRROR_ROWS, MAX_RETAINED_BYTES, RETENTION_S
from standfast.ops.types import Observed, Op, Row, State, pack_batch
from standfast.system.failpoints import failpoint

FILE = "mirror.db"
#: "stnm" in ASCII.
MARK = 0x73746E6D

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE rows (
    collection TEXT NOT NULL,
    key        TEXT NOT NULL,
    text       TEXT,                        -- NULL: there is no document
    version    INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    expires_us INTEGER,
    watermarks TEXT NOT NULL,
    seen_us    INTEGER NOT NULL,
    PRIMARY KEY (collection, key)
) STRICT;
CREATE TABLE lanes (lane TEXT PRIMARY KEY, watermark INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE retained (
    id    INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    lane  TEXT NOT NULL,
    last  INTEGER NOT NULL,
    batch BLOB NOT NULL                     -- (op, version) of a whole batch
) STRICT;
CREATE INDEX retained_at ON retained (at_us);
"""
# Collections that it holds whole; not in every file that an earlier version has made.
_WHOLE = """
CREATE TABLE IF NOT EXISTS whole (
    collection TEXT PRIMARY KEY,
    since_us   INTEGER NOT NULL,            -- when the full scan that filled it began
    watermarks TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
_encode_tags = msgspec.json.Encoder().encode
_decode_tags = msgspec.json.Decoder(dict[str, int]).decode

_GET = (
    "SELECT text, version, created_us, updated_us, expires_us, watermarks, seen_us"
    " FROM rows WHERE collection = ? AND key = ?"
)
# What a lower version says is older; of the same version, the later snapshot knows more lanes.
_PUT = (
    "INSERT INTO rows (collection, key, text, version, created_us, updated_us, expires_us,"
    " watermarks, seen_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (collection, key) DO UPDATE SET text = excluded.text, version = excluded.version,"
    " created_us = excluded.created_us, updated_us = excluded.updated_us,"
    " expires_us = excluded.expires_us, watermarks = excluded.watermarks,"
    " seen_us = excluded.seen_us"
    " WHERE excluded.version > version"
    " OR (excluded.version = version AND excluded.seen_us >= seen_us)"
)
_LIVE = "collection = ? AND text IS NOT NULL AND (expires_us IS NULL OR expires_us > ?)"
_RETAINED_BYTES = "SELECT coalesce(sum(length(batch)), 0) FROM retained"
#: Retained ops are cleared once in so many batches.
_CLEAR_EVERY = 256
#: The rows are counted once in so many batches.
_COUNT_EVERY = 4096


class Mirror:
    """The mirror of one data directory.  Thread-safe, and used by all of its processes."""

    def __init__(self, path: Path) -> None:
        self._file = LocalFile(path, mark=MARK, schema=_SCHEMA, what="the mirror")
        self._batches = 0
        with self._file.writing("opening the mirror", durable=False) as conn:
            conn.execute(_WHOLE)
        with self._file.reading("looking at the mirror") as conn:
            self._retained_bytes: int = conn.execute(_RETAINED_BYTES).get

    def belongs_to(self, history: str) -> None:
        """Make sure that it mirrors this history; what it held of another is of no use.

        What it holds of a database that had no history yet, it holds of the one that begins there.
        """
        with self._file.writing("looking at the mirror", durable=True) as conn:
            found = conn.execute("SELECT value FROM meta WHERE name = 'history'").get
            if found == history:
                return
            if found is not None:
                _clear(conn)
            failpoint("mirror-emptied")
            conn.execute("INSERT OR REPLACE INTO meta VALUES ('history', ?)", (history,))

    def clear(self) -> None:
        """Forget everything: a mirror that missed a change must not be read."""
        with self._file.writing("emptying the mirror", durable=False) as conn:
            _clear(conn)

    def get(self, collection: str, key: str) -> MirrorRow | None:
        """What the primary last said of one place; None when it never said anything."""
        with self._file.reading("reading the mirror") as conn:
            found = conn.execute(_GET, (collection, key)).fetchone()
        if found is None:
            return None
        text, version, created_us, updated_us, expires_us, tags, seen_us = found
        state = State(collection, key, text, version, created_us, updated_us, expires_us)
        return MirrorRow(state, _decode_tags(tags), seen_us)

    def take(self, observed: Observed, *, seen_us: int) -> None:
        """Take over what a read from the primary showed (write-through, R5)."""
        failpoint("mirror-before-take")
        with self._file.writing("writing the mirror", durable=False) as conn:
            _put(conn, observed, seen_us)
        failpoint("mirror-taken")

    def confirm(
        self,
        observed: Observed,
        *,
        lane: str,
        watermark: int,
        retained: Sequence[tuple[Op, int | None]],
        durable: bool = False,
    ) -> None:
        """Take over what a batch of ours made: rows, the lane's watermark, and its ops (R6)."""
        failpoint("mirror-before-confirm")
        now_us = time.time_ns() // 1000
        with self._file.writing("writing the mirror", durable=durable) as conn:
            _put(conn, observed, now_us)
            conn.execute(
                "INSERT INTO lanes VALUES (?, ?) ON CONFLICT (lane)"
                " DO UPDATE SET watermark = max(watermark, excluded.watermark)",
                (lane, watermark),
            )
            if retained:
                batch = pack_batch(retained)
                conn.execute(
                    "INSERT INTO retained (at_us, lane, last, batch) VALUES (?, ?, ?, ?)",
                    (now_us, lane, retained[-1][0].seq, batch),
                )
                self._retained_bytes += len(batch)
            self._batches += 1
            if self._batches % _CLEAR_EVERY == 0:
                conn.execute(
                    "DELETE FROM retained WHERE at_us < ?", (now_us - int(RETENTION_S * 1e6),)
                )
                self._retained_bytes = conn.execute(_RETAINED_BYTES).get
            if self._retained_bytes > MAX_RETAINED_BYTES:
                conn.execute(
                    "DELETE FROM retained WHERE id < (SELECT (min(id) + max(id)) / 2 FROM retained)"
                )
                self._retained_bytes = conn.execute(_RETAINED_BYTES).get
            if self._batches % _COUNT_EVERY == 0:
                _shrink(conn)
            failpoint("mirror-before-commit")
        failpoint("mirror-confirmed")

    # ---- whole collections

    def take_complete(
        self, collection: str, *, since_us: int, watermarks: Mapping[str, int]
    ) -> None:
        """Note that it holds all documents that the collection had then."""
        with self._file.writing("writing the mirror", durable=False) as conn:
            conn.execute(
                "INSERT OR REPLACE INTO whole VALUES (?, ?, ?)",
                (collection, since_us, _encode_tags(watermarks).decode()),
            )

    def complete_mark(self, collection: str) -> CompleteMark | None:
        """Since when it holds the collection whole; None when it does not."""
        with self._file.reading("reading the mirror") as conn:
            found = conn.execute(
                "SELECT since_us, watermarks FROM whole WHERE collection = ?", (collection,)
            ).fetchone()
        return None if found is None else CompleteMark(found[0], _decode_tags(found[1]))

    def unseen(self, collection: str, *, before_us: int) -> list[str]:
        """The keys of documents that were not read since."""
        with self._file.reading("reading the mirror") as conn:
            found = conn.execute(
                "SELECT key FROM rows WHERE collection = ? AND text IS NOT NULL AND seen_us < ?",
                (collection, before_us),
            )
            return [record[0] for record in found]

    def page(
        self, collection: str, *, prefix: str, after: str | None, limit: int, now_us: int
    ) -> list[Row]:
        """Its live documents in bytewise key order, after a key, at most `limit`."""
        where, values = [_LIVE, "key >= ?"], [collection, now_us, prefix]
        if prefix:
            where.append("substr(key, 1, ?) = ?")
            values += [len(prefix), prefix]
        if after is not None:
            where.append("key > ?")
            values.append(after)
        with self._file.reading("reading the mirror") as conn:
            found = conn.execute(
                "SELECT key, text, version, created_us, updated_us, expires_us, seen_us FROM rows"
                f" WHERE {' AND '.join(where)} ORDER BY key LIMIT ?",
                (*values, limit),
            )
            return [Row(*record) for record in found]

    def count_live(self, collection: str, *, now_us: int) -> int:
        """The number of documents of a collection that it knows."""
        with self._file.reading("reading the mirror") as conn:
            return conn.execute(
                f"SELECT count(*) FROM rows WHERE {_LIVE}", (collection, now_us)
            ).get

    def expected_watermark(self, lane: str) -> int:
        """The watermark of a lane as the primary last returned it."""
        with self._file.reading("reading the mirror") as conn:
            return conn.execute("SELECT watermark FROM lanes WHERE lane = ?", (lane,)).get or 0

    def forget_lane(self, lane: str) -> None:
        """A lane was fenced, and nothing of it is pending."""
        with self._file.writing("writing the mirror", durable=False) as conn:
            conn.execute("DELETE FROM lanes WHERE lane = ?", (lane,))
        failpoint("lane-forgotten")

    def count(self) -> int:
        """The number of places that it knows."""
        with self._file.reading("reading the mirror") as conn:
            return conn.execute("SELECT count(*) FROM rows").get

    def close(self) -> None:
        """Close the file.  Idempotent."""
        self._file.close()


def _shrink(conn: apsw.Connection) -> None:
    """Forget some of what is longest known, absences first, when there is too much."""
    if conn.execute("SELECT count(*) FROM rows").get > MAX_MIRROR_ROWS:
        conn.execute(
            "DELETE FROM rows WHERE rowid IN"
            " (SELECT rowid FROM rows ORDER BY text IS NOT NULL, seen_us LIMIT ?)",
            (MAX_MIRROR_ROWS // 10,),
        )
        conn.execute("DELETE FROM whole")


def _clear(conn: apsw.Connection) -> None:
    for table in ("rows", "lanes", "retained", "whole"):
        conn.execute(f"DELETE FROM {table}")


def _put(conn: apsw.Connection, observed: Observed, seen_us: int) -> None:
    tags = _encode_tags(observed.watermarks).decode()
    conn.executemany(
        _PUT,
        [
            (
                *(state.collection, state.key, state.text, state.version),
                *(state.created_us, state.updated_us, state.expires_us, tags, seen_us),
            )
            for state in observed.states
        ],
    )
