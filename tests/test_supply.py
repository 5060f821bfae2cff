"""What the package is made with: minimum versions that hold the security fixes that are known."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
#: The first version without a hole, or a loss of data, that is known; and which.
MINIMUM = {
    "psycopg": ("3.3.6", "hangs on cancel; the binary's libpq is later than CVE-2025-1094"),
    "apsw": ("3.51.3", "SQLite's reset of the write-ahead log corrupts a database"),
    "aiohttp": ("3.14.1", "CVE-2025-69223, CVE-2026-54278"),
}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def requirements() -> list[str]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(one for extra in extras for one in extra)]


@pytest.mark.parametrize("name", MINIMUM)
def test_minimum_versions_hold_the_fixes_that_are_known(name: str) -> None:
    """Whoever installs the package gets no version below, and it is tested with none below."""
    (wanted,) = [one for one in requirements() if re.split(r"[\[<>=!~]", one)[0] == name]
    lowest = re.search(r">=([\d.]+)", wanted)
    assert lowest is not None
    assert numbers(lowest.group(1)) >= numbers(MINIMUM[name][0]), MINIMUM[name][1]
    pinned = re.search(rf"^{name}==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert numbers(pinned.group(1)) >= numbers(MINIMUM[name][0])


def test_every_dependency_is_pinned_and_has_a_lowest_version() -> None:
    """Pins by version; no dependency is taken in whatever version there is."""
    pins = (ROOT / "constraints.txt").read_text().lower()
    for one in requirements():
        name = re.split(r"[\[<>=!~]", one)[0].lower()
        if name != "standfast":
            assert ">=" in one, one
            assert f"\n{name}==" in pins, one
