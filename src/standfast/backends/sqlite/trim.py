"""What a SQLite file keeps of the past, trimmed within the transactions of writes.

Conflicts and runs are kept for ever: they are what a person decides by.
"""

from __future__ import annotations

import apsw

from standfast.limits import CHANGES_KEPT_S, FENCES_KEPT_S, MAX_TRIMMED_ROWS, TOMBSTONES_KEPT_S

_LANES = (
    "DELETE FROM _standfast_lanes WHERE (lane, generation) IN (SELECT lane, generation"
    " FROM _standfast_lanes WHERE updated_at < ? AND state = 'fenced' LIMIT ?)"
)
# Found from the oldest on: there is no index of the times.
_CHANGES = (
    "DELETE FROM _standfast_changes WHERE id IN (SELECT id FROM _standfast_changes WHERE id <"
    " coalesce((SELECT id FROM _standfast_changes WHERE at >= ? ORDER BY id LIMIT 1),"
    " 9223372036854775807) ORDER BY id LIMIT ?)"
)
# A version must never be given twice: the collection goes on above what is forgotten (R17).
_FLOORS = (
    "UPDATE _standfast_collections SET version_floor = max(version_floor, coalesce((SELECT"
    " max(t.version) FROM _standfast_tombstones t WHERE t.collection = name AND t.deleted_at < ?1),"
    " 0)) WHERE name IN (SELECT collection FROM _standfast_tombstones WHERE deleted_at < ?1)"
)
_TOMBSTONES = (
    "DELETE FROM _standfast_tombstones WHERE (collection, key) IN"
    " (SELECT collection, key FROM _standfast_tombstones WHERE deleted_at < ? LIMIT ?)"
)


def trim(conn: apsw.Connection, now_us: int) -> None:
    """Remove what is older than its limit, a bounded number of rows of each table."""
    conn.execute(_LANES, (now_us - int(FENCES_KEPT_S * 1e6), MAX_TRIMMED_ROWS))
    conn.execute(_CHANGES, (now_us - int(CHANGES_KEPT_S * 1e6), MAX_TRIMMED_ROWS))
    before_us = now_us - int(TOMBSTONES_KEPT_S * 1e6)
    conn.execute(_FLOORS, (before_us,))
    conn.execute(_TOMBSTONES, (before_us, MAX_TRIMMED_ROWS))
