"""What PostgreSQL keeps of lanes and conflicts: fences and records."""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import tuple_row

from standfast.backends.postgres.trim import trim_bookkeeping
from standfast.limits import MAX_TRIMMED_AT_OPEN
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


def fence(conn: Connection[Any], lanes: list[str], directory: str | None) -> dict[str, int]:
    """Close lanes inside the caller's transaction, also such as never wrote anything.

    A statement of theirs that is still on its way then finds its lane closed.  A little of the past
    is trimmed, too: programs that end soon after they began do it in this way alone.
    """
    found = conn.execute(
        "INSERT INTO standfast.lanes AS l (lane, directory, state)"
        " SELECT u.lane, %s, 'fenced' FROM unnest(%s::uuid[]) AS u(lane) ORDER BY u.lane"
        " ON CONFLICT (lane, generation) DO UPDATE SET state = 'fenced', updated_at = now()"
        " RETURNING l.lane::text, l.watermark",
        (directory, lanes),
    )
    final = dict(found.fetchall())
    trim_bookkeeping(conn, rows=MAX_TRIMMED_AT_OPEN)
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


def owner(conn: Connection[Any]) -> str | None:
    """The role that alone may remove lines; None where that is ours."""
    row = conn.execute(
        "SELECT pg_get_userbyid(relowner)::text, pg_has_role(relowner, 'USAGE') FROM pg_class"
        " WHERE oid = 'standfast.conflicts'::regclass"
    ).fetchone()
    return row[0] if row and not row[1] else None


def forget(conn: Connection[Any], age_s: float, *, dry_run: bool) -> int:
    """Remove the lines that were resolved longer ago than this; only their owner may."""
    where: LiteralString = (
        " FROM standfast.conflicts WHERE state = 'resolved'"
        " AND resolved_at < now() - make_interval(secs => %s)"
    )
    if not dry_run:
        return conn.execute("DELETE" + where, (age_s,)).rowcount
    row = conn.execute("SELECT count(*)" + where, (age_s,)).fetchone()
    return int(row[0]) if row else 0


def _entry(record: tuple[Any, ...]) -> ConflictRecord:
    return ConflictRecord(**dict(zip(_FIELDS, record, strict=True)))
