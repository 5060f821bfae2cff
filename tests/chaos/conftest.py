"""Servers of these tests' own: they stop, kill and freeze them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from support import backends
from support.cluster import Cluster
from support.databases import create_database


@pytest.fixture(scope="session")
def mortal_cluster() -> Iterator[Cluster]:
    """A server that these tests may kill; each leaves it running."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def mortal_url(mortal_cluster: Cluster) -> str:
    """The direct URL of a fresh database on it; it goes with the server."""
    mortal_cluster.thaw()
    mortal_cluster.start()
    name = f"chaos_{secrets.token_hex(6)}"
    with backends.looking(mortal_cluster.url()) as connection:
        create_database(connection, name)
    return mortal_cluster.url(name)
