"""The rows of the mirror's file: how they are written, and what is newer than what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import apsw
import msgspec

from standfast.engine.overlay import MirrorRow
from standfast.limits import MAX_MIRROR_ROWS
from standfast.ops.batch import Place
from standfast.ops.types import Observed, Op, State

SCHEMA = """
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
"""
# What a file that an earlier version has made may lack, or have for nothing.
UPGRADE = """
CREATE TABLE IF NOT EXISTS whole (             -- collections that it holds whole
    collection TEXT PRIMARY KEY,
    since_us   INTEGER NOT NULL,            -- when the full scan that filled it began
    watermarks TEXT NOT NULL
) STRICT, WITHOUT ROWID;
DROP INDEX IF EXISTS retained_at;
"""
IS_CURRENT = """
SELECT count(*) FILTER (WHERE name = 'whole') > count(*) FILTER (WHERE name = 'retained_at')
  FROM sqlite_schema
"""
_row = attrgetter("collection", "key", "text", "version", "created_us", "updated_us", "expires_us")
encode_tags = msgspec.json.Encoder().encode
decode_tags = msgspec.json.Decoder(dict[str, int]).decode

_GET = (
    "SELECT text, version, created_us, updated_us, expires_us, watermarks, seen_us"
    " FROM rows WHERE collection = ? AND key = ?"
)
_KNOWN = "SELECT key, text, version, expires_us, seen_us FROM rows WHERE collection = ? AND key"
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
# What a batch of ours made is newer than any row that does not hold the batch: if such a row has a
# higher version, the primary has lost that since (R23).
_PUT_OWN = _PUT + " OR coalesce(json_extract(watermarks, ?), 0) < ?"
#: Where the watermark of the lane stands that was closed last.
LAST_LANE = "last_lane"


#: What a look at a row is compared with: key, text, version, expires_us, seen_us.
Known: TypeAlias = tuple[str, str | None, int, int | None, int]


class News(NamedTuple):
    """What one transaction tells the mirror; `lane` is empty for what a read showed."""

    observed: Observed
    seen_us: int
    lane: str = ""
    watermark: int = 0
    retained: Sequence[tuple[Op, int | None]] = ()
    lost: Mapping[str, int] = {}
    """Versions of these keys that the primary is known to have lost (R23)."""
    dropped: tuple[str, int] | None = None
    """A collection that was dropped, and the highest version that it had."""

    @property
    def size(self) -> int:
        """Bytes of documents in it."""
        texts = sum(len(state.text or "") for state in self.observed.states)
        return texts + sum(len(op.body or "") for op, _ in self.retained) + 100


def row_at(conn: apsw.Connection, place: Place) -> MirrorRow | None:
    """What the file holds of a place."""
    found = conn.execute(_GET, place).fetchone()
    if found is None:
        return None
    text, version, created_us, updated_us, expires_us, tags, seen_us = found
    state = State(*place, text, version, created_us, updated_us, expires_us)
    return MirrorRow(state, decode_tags(tags), seen_us)


def known(
    conn: apsw.Connection, states: Sequence[State], *, in_order: bool = False
) -> dict[str, Known]:
    """What the file holds of the places of one collection, by their keys.

    `in_order`: the states are in the order of their keys, and close to each other.
    """
    if not states:
        return {}
    collection = states[0].collection
    if not in_order:
        found = (conn.execute(_KNOWN + " = ?", (collection, one.key)).fetchone() for one in states)
        return {record[0]: record for record in found if record is not None}
    wanted = {state.key for state in states}
    span = (collection, states[0].key, states[-1].key)
    between = conn.execute(_KNOWN + " BETWEEN ? AND ?", span)
    return {record[0]: record for record in between if record[0] in wanted}


def forget_lane(conn: apsw.Connection, lane: str) -> None:
    """Forget a lane, and keep it as the last one that wrote."""
    conn.execute(
        "INSERT OR REPLACE INTO meta SELECT ?, json_object(lane, watermark) FROM lanes"
        " WHERE lane = ? AND watermark > 0",
        (LAST_LANE, lane),
    )
    conn.execute("DELETE FROM lanes WHERE lane = ?", (lane,))


def set_history(conn: apsw.Connection, history: str) -> None:
    """Note which history it mirrors."""
    conn.execute("INSERT OR REPLACE INTO meta VALUES ('history', ?)", (history,))


def shrink(conn: apsw.Connection) -> None:
    """Forget some of what is longest known, absences first, when there is too much."""
    if conn.execute("SELECT count(*) FROM rows").get > MAX_MIRROR_ROWS:
        conn.execute(
            "DELETE FROM rows WHERE rowid IN"
            " (SELECT rowid FROM rows ORDER BY text IS NOT NULL, seen_us LIMIT ?)",
            (MAX_MIRROR_ROWS // 10,),
        )
        conn.execute("DELETE FROM whole")


def is_newer(state: State, news: News, known: MirrorRow) -> bool:
    """The same rules as those of the file."""
    own = bool(news.lane) and known.watermarks.get(news.lane, 0) < news.watermark
    lost = news.lost.get(state.key) == known.state.version
    return state.version >= known.state.version or own or lost


def clear(conn: apsw.Connection) -> None:
    """Forget everything but the history."""
    conn.execute("DELETE FROM meta WHERE name = ?", (LAST_LANE,))
    for table in ("rows", "lanes", "retained", "whole"):
        conn.execute(f"DELETE FROM {table}")


def drop_rows(conn: apsw.Connection, news: News, collection: str, version: int) -> None:
    """A collection was dropped in which no version was above this one: all of it is gone."""
    tags = encode_tags(news.observed.watermarks).decode()
    conn.execute(
        "UPDATE rows SET text = NULL, version = ?1, created_us = 0, updated_us = 0,"
        " expires_us = NULL, watermarks = ?2, seen_us = ?3 WHERE collection = ?4 AND version <= ?1",
        (version, tags, news.seen_us, collection),
    )
    conn.execute("INSERT OR REPLACE INTO whole VALUES (?, ?, ?)", (collection, news.seen_us, tags))


def forget_lost(conn: apsw.Connection, news: News) -> None:
    """Versions that the primary is known to have lost give way to lower ones (R23)."""
    states = [one for one in news.observed.states if one.key in news.lost]
    conn.executemany(
        "DELETE FROM rows WHERE collection = ? AND key = ? AND version = ?",
        [(one.collection, one.key, news.lost[one.key]) for one in states],
    )


def put_rows(conn: apsw.Connection, news: News) -> None:
    """Write what is newer than the rows that are there."""
    tags = encode_tags(news.observed.watermarks).decode()
    common: tuple[Any, ...] = (tags, news.seen_us)
    if news.lane:
        common += (f'$."{news.lane}"', news.watermark)
    conn.executemany(
        _PUT_OWN if news.lane else _PUT,
        [_row(state) + common for state in news.observed.states],
    )
