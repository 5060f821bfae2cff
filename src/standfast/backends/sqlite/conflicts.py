"""What a SQLite file keeps of lanes and conflicts: fences, watermarks, conflict records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from standfast.ops.types import ConflictRecord, Identity, Op

_FIELDS = (
    *("id", "at_us", "lane", "seq", "collection", "key", "kind", "pointer", "reason", "base"),
    *("mine", "theirs", "state", "resolution"),
)
_ENTRY = (
    "SELECT id, at, coalesce(lane, ''), coalesce(seq, 0), collection, key, kind, pointer,"
    " reason, base, mine, theirs, state, resolution FROM _standfast_conflicts"
)


def fence(
    conn: apsw.Connection, lanes: Sequence[str], directory: str | None, now_us: int
) -> dict[str, int]:
    """Close lanes inside the caller's transaction, even those that have written nothing."""
    final: dict[str, int] = {}
    for lane in lanes:
        final[lane] = conn.execute(
            "INSERT INTO _standfast_lanes (lane, state, updated_at, directory)"
            " VALUES (?1, 'fenced', ?2, ?3)"
            " ON CONFLICT (lane, generation) DO UPDATE SET state = 'fenced', updated_at = ?2"
            " RETURNING watermark",
            (lane, now_us, directory),
        ).get
    return final


def moved(conn: apsw.Connection, ops: Sequence[Op]) -> set[Identity]:
    """Those first names of ops that moved from closed lanes under which others have applied them.

    They are kept with the lane that the names are of, by sequence.
    """
    names = [op.origin for op in ops if op.origin]
    found = "SELECT 1 FROM _standfast_lanes WHERE lane = ? AND generation = ? AND generation > 0"
    return {name for name in names if conn.execute(found, name).get}


def note_moved(conn: apsw.Connection, ops: Sequence[Op], now_us: int) -> None:
    """Keep the first names of ops that are applied now."""
    conn.executemany(
        "INSERT INTO _standfast_lanes (lane, generation, state, updated_at)"
        " VALUES (?, ?, 'fenced', ?)",
        [(*op.origin, now_us) for op in ops if op.origin],
    )


def watermarks(conn: apsw.Connection, directory: str | None) -> dict[str, int]:
    """The watermarks of the open lanes of a data directory."""
    found = conn.execute(
        "SELECT lane, watermark FROM _standfast_lanes WHERE directory = ? AND state = 'open'",
        (directory,),
    )
    return {record[0]: record[1] for record in found}


def entered(conn: apsw.Connection, ops: Sequence[Op]) -> set[Identity]:
    """The pending ops that the conditions depend on and that have a conflict record."""
    return {
        name
        for name in {name for op in ops for name in op.pending}
        if conn.execute("SELECT 1 FROM _standfast_conflicts WHERE lane = ? AND seq = ?", name).get
    }


def enter(conn: apsw.Connection, entries: Sequence[ConflictRecord], now_us: int) -> None:
    """Write conflict records, in the transaction whose watermark passes their ops (R12)."""
    for entry in entries:
        values = [getattr(entry, field) for field in _FIELDS[2:]]
        conn.execute(
            "INSERT INTO _standfast_conflicts (at, lane, seq, collection, key, kind, pointer,"
            " reason, base, mine, theirs, state, resolution)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (now_us, *values),
        )


def conflicts(
    conn: apsw.Connection, *, state: str | None, after: int, limit: int, name: Identity | None
) -> list[ConflictRecord]:
    """Conflict records in the order of their ids."""
    lane, seq = name or (None, None)
    found = conn.execute(
        _ENTRY + " WHERE id > :after AND (:state IS NULL OR state = :state)"
        " AND (:lane IS NULL OR lane = :lane AND seq = :seq) ORDER BY id LIMIT :limit",
        {"after": after, "state": state, "lane": lane, "seq": seq, "limit": limit},
    )
    return [_entry(record) for record in found]


def counts(conn: apsw.Connection) -> dict[str, int]:
    """The number of lines by state."""
    found = conn.execute("SELECT state, count(*) FROM _standfast_conflicts GROUP BY state")
    return {record[0]: record[1] for record in found}


def resolve(conn: apsw.Connection, number: int, resolution: str, now_us: int) -> bool:
    """Mark an open line as resolved, inside the caller's transaction."""
    conn.execute(
        "UPDATE _standfast_conflicts SET state = 'resolved', resolved_at = ?, resolution = ?"
        " WHERE id = ? AND state = 'open'",
        (now_us, resolution, number),
    )
    return conn.changes() == 1


def forget(conn: apsw.Connection, before_us: int, *, dry_run: bool) -> int:
    """Remove the lines that were resolved before this moment, inside the caller's transaction."""
    where = "FROM _standfast_conflicts WHERE state = 'resolved' AND resolved_at < ?"
    count = conn.execute(f"SELECT count(*) {where}", (before_us,)).get
    if not dry_run:
        conn.execute(f"DELETE {where}", (before_us,))
    return count


def _entry(record: tuple[Any, ...]) -> ConflictRecord:
    return ConflictRecord(**dict(zip(_FIELDS, record, strict=True)))
