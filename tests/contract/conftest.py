from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import parse_url
from standfast.engine.embedded import EmbeddedEngine

pytest.register_assert_rewrite("contract.suite")


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
    with Store(EmbeddedEngine(make_backend())) as store:
        yield store
