"""Stores for the tests of the adapters: in memory, and on a PostgreSQL of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import standfast
from support.cluster import Cluster
from support.databases import temporary_database


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A server; a test that stops it starts it again."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The URL of an empty database."""
    with temporary_database(cluster.url()) as url:
        yield url


@pytest.fixture(params=["memory", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[standfast.Store]:
    """A store that has outages."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("database")
    with standfast.open(url, data_dir=tmp_path / "standfast", deadline_s=10) as store:
        yield store


@pytest.fixture
def async_store(store: standfast.Store) -> standfast.AsyncStore:
    """The same for tasks."""
    return store.as_async()
