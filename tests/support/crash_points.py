"""Where the crash tests kill: every failpoint, and how often the scenario comes to it.

`migrate` takes the scenario's four files, `rollback` takes that run back.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.sources import nodes_of, sources

SRC = Path(__file__).parents[2] / "src"

#: Failpoints of `migrate`, in their order, and how often it passes each.
MIGRATE: dict[str, int] = {
    "scanned": 1,
    "planned": 1,
    "run-dir": 1,
    "state-started": 1,
    "original-kept": 4,
    "checksums": 1,
    "changes-kept": 1,
    "state-backed-up": 1,
    "load-begins": 1,
    "transaction-begun": 1,
    "collection-written": 4,
    "record-written": 1,
    "load-committed": 1,
    "state-loaded": 1,
    "verified": 1,
    "state-cleaning": 1,
    "original-parked": 4,
    "original-unlinked": 4,
    "original-moved": 4,
    "state-done": 1,
    # State, originals, checksums, changes, and the state again four times.
    "draft-written": 11,
    "draft-renamed": 11,
}
#: The same of `rollback`.
ROLLBACK: dict[str, int] = {
    "newer-archived": 1,
    "state-rolling-back": 1,
    "transaction-begun": 1,
    "collection-written": 4,
    "record-written": 1,
    "rollback-committed": 1,
    "original-restored": 4,
    "state-rolled-back": 1,
    "draft-written": 6,
    "draft-renamed": 6,
}
#: Failpoints of backups, restores and moves between databases: tests/backup/test_kill.py.
CREATE = ("backup-snapshot", "backup-collection", "backup-written", "backup-known")
FILL = ("filling-begun", "filling-collection", "filling-recorded", "filling-committed")
PRUNE = ("backup-removed",)
CLEAN_UP = ("cleanup-removed",)
PROMOTE = ("promote-closed", "promote-copied", "promote-moved")
#: Failpoints of the command that throws away what another left that was killed before its load.
DISCARD: dict[str, int] = {"copies-discarded": 1, "state-discarded": 1}
#: Failpoints of a migration whose verification fails: tests/crash/test_verify_fails.py.
VERIFY_FAILS: dict[str, int] = {"state-verify-failed": 1}


def firsts(points: Mapping[str, int]) -> list[str]:
    """Each failpoint at its first time."""
    return [f"{name}@1" for name in points]


def in_turn(points: Sequence[str], *, first: int) -> list[Any]:
    """Each point on one kind of database, with those of the other kind left to the long runs.

    The kinds take turns, so that two tests which begin with different ones try every point on both.
    For the arguments `stage` and `failpoint`.
    """
    return [
        pytest.param(kind, point, marks=[pytest.mark.slow] * ((number + kinds + first) % 2))
        for number, point in enumerate(points)
        for kinds, kind in enumerate(("sqlite", "pg"))
    ]


def others(points: Mapping[str, int], *, than: Sequence[str]) -> list[str]:
    """All times at which the failpoints are passed, without those that run every time."""
    every = [f"{name}@{n}" for name, hits in points.items() for n in range(1, hits + 1)]
    return [each for each in every if each not in than]


def in_source() -> Iterator[tuple[str, str]]:
    """Every call of `failpoint` in the package: its place and the name; "" when that is not plain.

    Calls are found by the name of the function, however it was imported.
    """
    for path in sources():
        for node in nodes_of(path):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name == "failpoint":
                where = f"{path.relative_to(SRC)}:{node.lineno}"
                argument = node.args[0] if len(node.args) == 1 else None
                plain = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                yield where, argument.value if plain else ""
