"""Where the engine may be killed: every failpoint, and how often the scenario comes to it.

The scenario is `life` in `support.outage_app`; the count is what it passes at the very least.  In a
fresh data directory other steps are made than in one that dead processes have left.
"""

from __future__ import annotations

from collections.abc import Iterator

from support.crash_points import in_source

#: In a directory that two dead processes have left, with writes pending.
LEFT_BEHIND: dict[str, int] = {
    "file-made": 2,
    "file-in-wal-mode": 2,
    "lane-locked": 2,
    "lane-noted": 2,
    "connected": 6,
    "drain-locked": 4,
    "fence-before": 2,
    "pg-lanes-fenced": 3,
    "fence-done": 2,
    "mirror-before-take": 10,
    "mirror-taken": 10,
    "fence-reissued": 2,
    "lane-before-close": 3,
    "lane-closed": 3,
    "lane-forgotten": 3,
    "journal-before-replace": 1,
    "journal-replaced": 1,
    "journal-before-commit": 20,
    "journal-committed": 20,
    "journal-answered": 20,
    "replay-before-apply": 3,
    "pg-rows-locked": 20,
    "pg-before-commit": 20,
    "replay-applied": 3,
    "mirror-before-confirm": 20,
    "mirror-before-commit": 20,
    "mirror-confirmed": 20,
    "journal-before-remove": 4,
    "journal-removed": 4,
    "handover-begun": 2,
    "handover-drained": 2,
    "adopted-fenced": 1,
    "lane-file-removed": 2,
    "handover-done": 2,
    "direct-before-apply": 20,
    "direct-applied": 20,
    "confirm-answered": 20,
    "doubt-before-reconnect": 1,
    "doubt-fenced": 1,
    "doubt-before-journal": 1,
    "close-begun": 1,
    "close-flushed": 1,
    "close-stopped": 1,
    "lane-end-fenced": 1,
    "close-done": 1,
}
#: In a directory and a database that nobody has used.
FRESH: dict[str, int] = {
    "file-made": 2,
    "file-in-wal-mode": 2,
    "file-schema-made": 2,
    "file-before-checkpoint": 2,
    "lane-locked": 1,
    "lane-noted": 1,
    "connected": 6,
    "direct-before-apply": 20,
    "pg-tables-made": 6,
    "pg-rows-locked": 20,
    "pg-before-commit": 20,
    "direct-applied": 20,
    "mirror-emptied": 1,
    "history-before-note": 1,
    "history-noted": 1,
    "mirror-before-confirm": 20,
    "confirm-answered": 20,
    "lane-end-fenced": 1,
}
HOLD = LEFT_BEHIND | FRESH
#: Steps that the scenario does not come to: killed at in `engine.test_last_resort_kills`.
LAST_RESORT = frozenset(
    """
    spool-before-write spool-written spool-synced spool-emptied snapshot-before-write
    snapshot-written reserve-given-up journal-begun-anew journal-written-anew
    """.split()
)
#: Steps of a failover that lost writes: killed at in `hold.test_failover`.
FAILOVER = frozenset("journal-before-front journal-fronted regained regained-page".split())
#: The step of a drop: killed at in `engine.test_drop`.
DROP = frozenset({"pg-table-dropped"})


def in_engine() -> Iterator[tuple[str, str]]:
    """Every failpoint of the engine and the backends that is none of a migration's load, nor
    of a restore's."""
    for where, name in in_source():
        room, file = where.split("/")[1], where.split("/")[-1].split(":")[0]
        if room in ("engine", "backends") and file not in ("load.py", "copying.py"):
            yield where, name
