"""The table of ARCHITECTURE.md that says how long the way of a call is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| ([a-z0-9 ]+?) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


def figures(text: str) -> dict[str, list[int]]:
    return {name: list(map(int, counts)) for name, *counts in _ROW.findall(text)}


def test_the_way_of_a_call_is_as_long_as_the_table_says(pg_database: str) -> None:
    """What `tools/callpath.py` counts is what ARCHITECTURE.md says, within a tenth.

    After a change of the path: run the tool, and put its table into the place of that one.
    """
    counted = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "callpath.py"), "--url", pg_database],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    now = figures(counted.stdout)
    said = figures((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert now.keys() == said.keys()
    for name, counts in now.items():
        for found, expected in zip(counts, said[name], strict=True):
            assert abs(found - expected) <= max(2, expected // 10), (name, counts, said[name])
