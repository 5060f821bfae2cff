"""What PostgreSQL keeps of the past, trimmed in bounded batches.

Conflicts and runs are kept for ever: they are what a person decides by.  Everything here is done
with the rights of whoever writes to the collections; a role sees, and trims, its own part alone.
"""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import Connection

from standfast.backends.postgres.tables import Table
from standfast.backends.postgres.write import BURIED_DELETE, statement
from standfast.limits import (
    CHANGES_KEPT_S,
    EXPIRED_KEPT_S,
    FENCES_KEPT_S,
    LAST_LANES,
    LAST_LANES_KEPT_S,
    MAX_CHANGES,
    MAX_TRIMMED_ROWS,
    TOMBSTONES_KEPT_S,
    TRIM_STATEMENT_S,
)

#: For the trimmer's own transactions, in the same round trip.
_LIMIT: LiteralString = "SELECT set_config('statement_timeout', %s, true)"

#: The last closed lanes of each data directory are kept for longer: by them it sees that the
#: database has not gone back in time (R23).  So are lanes that nobody closed.
_LANES: LiteralString = (
    "DELETE FROM standfast.lanes WHERE (lane, generation) IN (SELECT d.lane, d.generation"
    " FROM standfast.lanes d"
    " WHERE d.updated_at < now() - make_interval(secs => %(fences)s)"
    " AND (d.updated_at < now() - make_interval(secs => %(lanes)s)"
    " OR d.state = 'fenced' AND (d.generation > 0 OR d.directory IS NULL"
    " OR d.lane NOT IN (SELECT r.lane FROM (SELECT l.lane, row_number() OVER"
    " (PARTITION BY l.directory ORDER BY l.updated_at DESC) AS age FROM standfast.lanes l"
    " WHERE l.generation = 0 AND l.watermark > 0) r WHERE r.age <= %(last)s)))"
    " LIMIT %(rows)s)"
)
#: The oldest have the lowest numbers, as nearly as it matters: no index on the time is needed.
_CHANGES: LiteralString = (
    "DELETE FROM standfast.changes WHERE id IN (SELECT o.id FROM (SELECT c.id, c.at"
    " FROM standfast.changes c ORDER BY c.id LIMIT %(rows)s) o"
    " WHERE o.at < now() - make_interval(secs => %(changes)s)"
    " OR o.id <= (SELECT max(n.id) FROM standfast.changes n) - %(newest)s)"
)
#: A version must never be given twice: the collection goes on above what is forgotten (R17).  The
#: statement of a writer sees either the tombstone or the floor; one of which both hides, since it
#: began before and ends after, is sent back by `finish_puts`.
_TOMBSTONES: LiteralString = (
    "WITH old AS MATERIALIZED (SELECT t.collection, t.key, t.version FROM standfast.tombstones t"
    " WHERE t.deleted_at < now() - make_interval(secs => %(tombstones)s)"
    " ORDER BY t.deleted_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED),"
    " raised AS (UPDATE standfast.collections c SET version_floor = h.version FROM"
    " (SELECT old.collection, max(old.version) AS version FROM old GROUP BY old.collection) h"
    " WHERE c.name = h.collection AND c.version_floor < h.version)"
    " DELETE FROM standfast.tombstones t USING old"
    " WHERE t.collection = old.collection AND t.key = old.key"
)
#: Whoever has a row locked is about to give it another expiry.
_EXPIRED: LiteralString = (
    BURIED_DELETE.replace(
        "{where}",
        "t.{key} = ANY (ARRAY("
        "SELECT t.{key} FROM {table} t WHERE t.expires_at < now() - make_interval(secs => %s)"
        " LIMIT %s FOR UPDATE SKIP LOCKED))",
    )
    + " INSERT INTO standfast.changes (collection, keys)"
    " SELECT %s, CASE WHEN count(*) <= 1000 THEN array_agg(key) END FROM gone"
    " HAVING count(*) > 0 RETURNING (SELECT count(*) FROM gone)"
)


def trim_bookkeeping(
    conn: Connection[Any], *, rows: int = MAX_TRIMMED_ROWS, limited: bool = False
) -> int:
    """Remove what is older than its limit, inside the caller's transaction; how many rows went.

    `limited`: no statement of the transaction may take longer from here on.
    """
    values = {
        "fences": FENCES_KEPT_S,
        "lanes": LAST_LANES_KEPT_S,
        "last": LAST_LANES,
        "changes": CHANGES_KEPT_S,
        "newest": MAX_CHANGES,
        "tombstones": TOMBSTONES_KEPT_S,
        "rows": rows,
    }
    with conn.pipeline():  # one round trip
        if limited:
            _limit(conn)
        done = [conn.execute(one, values) for one in (_LANES, _CHANGES, _TOMBSTONES)]
    return sum(each.rowcount for each in done)


def trim_expired(conn: Connection[Any], table: Table, *, rows: int) -> int:
    """Remove documents that have expired; each leaves the version to continue from."""
    with conn.pipeline():
        _limit(conn)
        found = conn.execute(
            statement(table, _EXPIRED), (EXPIRED_KEPT_S, rows, table.collection, table.collection)
        ).fetchone()
    return int(found[0]) if found else 0


def _limit(conn: Connection[Any]) -> None:
    conn.execute(_LIMIT, (f"{TRIM_STATEMENT_S * 1000:.0f}ms",))
