"""What PostgreSQL keeps of lanes and conflicts: fences and records."""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import tuple_row

from standfast.ops.types import ConflictRecord, Identity

_ENTRY: LiteralString = (
    "SELECT id, (extract(epoch FROM at) * 1000000)::bigint, coalesce(lane::text, ''),"
    " coalesce(seq, 0), collection, key, kind, pointer, reason, base, mine, theirs, state,"
    " resolution FROM standfast.conflicts"
)
_FIELDS = (
    *("id", "at_us", "lane", "seq", "collection", "key", "kind", "pointer", "reason", "base"),
    *("mine", "theirs", "state", "resolution"),
)


#: How long a fence is kept: no statement of the lane can still be on its way then.
FENCES_KEPT = "7 days"
#: The last lanes of each data directory are kept for longer: by them it sees that the database has
#: not gone back in time (R23).  Several, since stores of one directory may close at once.
LAST_LANES, LAST_LANES_KEPT = 4, "1 year"
_TRIM_LANES: LiteralString = (
    "DELETE FROM standfast.lanes d WHERE d.state = 'fenced'"
    " AND d.updated_at < now() - %(kept)s::interval"
    " AND (d.updated_at < now() - %(long)s::interval OR d.generation > 0 OR d.directory IS NULL"
    " OR d.lane NOT IN (SELECT r.lane FROM (SELECT l.lane, row_number() OVER"
    " (PARTITION BY l.directory ORDER BY l.updated_at DESC) AS age FROM standfast.lanes l"
    " WHERE l.generation = 0 AND l.watermark > 0) r WHERE r.age <= %(last)s))"
)
#: How long the log of changes is kept: who was away for longer has to look at everything.
CHANGES_KEPT = "7 days"


def fence(conn: Connection[Any], lanes: list[str], directory: str | None) -> dict[str, int]:
    """Close lanes inside the caller's transaction, also such as never wrote anything.

    A statement of theirs that is still on its way then finds its lane closed.
    """
    found = conn.execute(
        "INSERT INTO standfast.lanes AS l (lane, directory, state)"
        " SELECT u.lane, %s, 'fenced' FROM unnest(%s::uuid[]) AS u(lane) ORDER BY u.lane"
        " ON CONFLICT (lane, generation) DO UPDATE SET state = 'fenced', updated_at = now()"
        " RETURNING l.lane::text, l.watermark",
        (directory, lanes),
    )
    final = dict(found.fetchall())
    conn.execute(_TRIM_LANES, {"kept": FENCES_KEPT, "last": LAST_LANES, "long": LAST_LANES_KEPT})
    conn.execute("DELETE FROM standfast.changes WHERE at < now() - %s::interval", (CHANGES_KEPT,))
    return final


def conflicts(
    conn: Connection[Any], *, state: str | None, after: int, limit: int, name: Identity | None
) -> list[ConflictRecord]:
    """Conflict records in the order of their ids."""
    lane, seq = name or (None, None)
    with conn.cursor(row_factory=tuple_row) as cur:
        cur.execute(
            _ENTRY + " WHERE id > %(after)s AND (%(state)s::text IS NULL OR state = %(state)s)"
            " AND (%(lane)s::uuid IS NULL OR lane = %(lane)s AND seq = %(seq)s::bigint)"
            " ORDER BY id LIMIT %(limit)s",
            {"after": after, "state": state, "lane": lane, "seq": seq, "limit": limit},
        )
        return [_entry(record) for record in cur]


def conflict(conn: Connection[Any], number: int) -> ConflictRecord | None:
    """One conflict record."""
    row = conn.execute(_ENTRY + " WHERE id = %s", (number,)).fetchone()
    return _entry(row) if row else None


def counts(conn: Connection[Any]) -> dict[str, int]:
    """The number of lines by state."""
    found = conn.execute("SELECT state, count(*) FROM standfast.conflicts GROUP BY state")
    return dict(found.fetchall())


def resolve(conn: Connection[Any], number: int, resolution: str) -> bool:
    """Mark an open line as resolved."""
    cur = conn.execute(
        "UPDATE standfast.conflicts SET state = 'resolved', resolved_at = now(), resolution = %s"
        " WHERE id = %s AND state = 'open'",
        (resolution, number),
    )
    return cur.rowcount == 1


def _entry(record: tuple[Any, ...]) -> ConflictRecord:
    return ConflictRecord(**dict(zip(_FIELDS, record, strict=True)))
