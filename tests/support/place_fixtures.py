"""Folders to migrate, as fixtures; a `conftest.py` imports those that its tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.moving import Place


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A folder with a fresh database, once for each kind."""
    url = request.getfixturevalue("pg_prepared") if request.param == "postgresql" else None
    found = Place(tmp_path / "app", url)
    found.root.mkdir()
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def untouched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The same with a database in which not even the bookkeeping is."""
    url = request.getfixturevalue("pg_database") if request.param == "postgresql" else None
    found = Place(tmp_path / "app", url)
    found.root.mkdir()
    yield found
    found.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Place]:
    """The same with SQLite alone, for what does not depend on the database."""
    found = Place(tmp_path / "app", None)
    found.root.mkdir()
    yield found
    found.close()
