from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from standfast.backends.base import Backend
from support.backups import backend_of


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    found: str = request.getfixturevalue("pg_prepared")
    return found


@pytest.fixture
def backend(url: str) -> Iterator[Backend]:
    made = backend_of(url)
    yield made
    made.close()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Backend]:
    """Another, empty database."""
    made = backend_of(f"sqlite:///{tmp_path}/scratch.db")
    yield made
    made.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def pg_backend(pg_prepared: str) -> Iterator[Backend]:
    """A fresh PostgreSQL database."""
    made = backend_of(pg_prepared)
    yield made
    made.close()
