from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.backends.base import Backend
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.postgres import PostgresBackend
from holdfast.backends.sqlite import SqliteBackend
from holdfast.engine.inline import InlineEngine
from holdfast.settings import parse_url
from holdfast.store import Store

pytest.register_assert_rewrite("holdfast.testing")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def make_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Backend]]:
    """Each call opens the same database once more: what another program would do."""
    if request.param == "memory":
        memory = MemoryBackend()
        yield lambda: memory
        return
    made: list[Backend] = []
    if request.param == "sqlite":
        path = tmp_path / "data" / "fallback.db"

        def make() -> Backend:
            made.append(SqliteBackend(path))
            return made[-1]
    else:
        target = parse_url(request.getfixturevalue("pg_database"))

        def make() -> Backend:
            made.append(PostgresBackend(target))
            return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def store(make_backend: Callable[[], Backend]) -> Iterator[Store]:
    with Store(InlineEngine(make_backend())) as store:
        yield store
