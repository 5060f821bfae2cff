"""A primary that can go away at once, and stores over it, as fixtures for a `conftest.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standfast.api.sync import Store
from support.faulty import Link, Open, Opened, Server, open_link


@pytest.fixture
def memory() -> Server:
    """The primary where the kind of database does not matter."""
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
