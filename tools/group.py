"""Print the requirements of a dependency group of pyproject.toml (PEP 735), one a line.

    python tools/group.py test

For every pip: only those since 25.1 install groups by themselves.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def requirements(
    groups: Mapping[str, list[Any]], name: str, *, inside: tuple[str, ...] = ()
) -> Iterator[str]:
    """The requirements of a group and of those that it includes; ValueError when it cannot be."""
    if name not in groups:
        raise ValueError(f"no dependency group {name!r}, only: {', '.join(groups)}")
    if name in inside:
        raise ValueError(f"dependency groups include each other: {' > '.join((*inside, name))}")
    for entry in groups[name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from requirements(groups, entry["include-group"], inside=(*inside, name))


def main() -> None:
    """Print the named group, or end with the error."""
    groups = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["dependency-groups"]
    try:
        print("\n".join(requirements(groups, sys.argv[1])))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
