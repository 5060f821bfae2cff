from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bots import Home
from support.link_fixtures import memory, open_it
from support.place_fixtures import place

__all__ = ["memory", "open_it", "place"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The URL of a fresh database; None: SQLite."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("pg_prepared")
    return url


@pytest.fixture(params=["blocking", "awaited"])
def home(request: pytest.FixtureRequest, database: str | None, tmp_path: Path) -> Iterator[Home]:
    """A database for bots, of both kinds and through both APIs."""
    found = Home(database, tmp_path, face=request.param)
    yield found
    found.close()


@pytest.fixture
def shared(database: str | None, tmp_path: Path) -> Iterator[Home]:
    """The same through the synchronous API, for tests with threads."""
    found = Home(database, tmp_path)
    yield found
    found.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Home]:
    """SQLite through the synchronous API, for what depends on neither."""
    found = Home(None, tmp_path)
    yield found
    found.close()
