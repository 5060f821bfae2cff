"""Where the engine may be killed: every failpoint, and how often the scenario comes to it.

The scenario is `life` in `support.hold_app`; the count is what it passes at the very least.  In a
fresh data directory other steps are made than in one that dead processes have left.
"""

from __future__ import annotations

from collections.abc import Iterator

from support.crash_points import in_source

#: In a directory that two dead processes have left, with writes pending.
LEFT_BEHIND: dict[str, int] = {}
#: In a directory and a database that nobody has used.
FRESH: dict[str, int] = {}
HOLD = LEFT_BEHIND | FRESH


def in_engine() -> Iterator[tuple[str, str]]:
    """Every failpoint of the engine and the backends that is none of a migration's load."""
    for where, name in in_source():
        room = where.split("/")[1]
        if room in ("engine", "backends") and "_load.py" not in where and "pgload.py" not in where:
            yield where, name
