"""The numbered schema migrations of each database, as SQL files."""

from __future__ import annotations

from pathlib import Path

#: The schema that this version of the library writes and understands.
SCHEMA_VERSION = 3


def migrations(database: str) -> list[tuple[int, str]]:
    """`(number, SQL)` of every migration of `"postgres"` or `"sqlite"`, in order."""
    folder = Path(__file__).parent / database / "sql"
    return [
        (number, (folder / f"{number:04d}.sql").read_text(encoding="utf-8"))
        for number in range(1, SCHEMA_VERSION + 1)
    ]
