"""The pytest plugin: fresh, empty stores in memory, whose primary `standfast.testing` can take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from standfast.api.aio import AsyncStore
from standfast.api.opening import open_store
from standfast.api.sync import Store


@pytest.fixture
def standfast_store(tmp_path: Path) -> Iterator[Store]:
    """An empty store in memory, for this test alone; `standfast.testing.outage` works on it."""
    with open_store("memory://", data_dir=tmp_path / "standfast") as store:
        yield store


@pytest.fixture
def standfast_async_store(standfast_store: Store) -> AsyncStore:
    """The same store for the tasks of whatever event loop the test runs."""
    return standfast_store.as_async()
