from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standfast.api.sync import Store
from support.bots import Home
from support.faulty import Link, Open, Opened, Server, open_link
from support.place_fixtures import place

__all__ = ["place"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The URL of a fresh database; None: SQLite."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("pg_database")
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


@pytest.fixture
def memory() -> Server:
    """A primary that can go away at once."""
    return Server()


@pytest.fixture
def open_it(tmp_path: Path) -> Iterator[Open]:
    """Opens a store over a link in the test's data directory; all are closed afterwards."""
    stores: list[tuple[Link, Store]] = []

    def open_one(link: Link, *, data_dir: Path = tmp_path / "data", **options: Any) -> Opened:
        store, engine = open_link(link, data_dir, **options)
        stores.append((link, store))
        return store, engine

    yield open_one
    for link, store in stores:
        link.down = True
        store.close(timeout_s=0.0)
