from __future__ import annotations

from collections.abc import Iterator

import pytest

from standfast.api.sync import Collection
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from support.faulty import Link, Open, Opened, Serialized, Server, wait_direct
from support.link_fixtures import memory, open_it

__all__ = ["memory", "open_it"]


@pytest.fixture(params=["memory", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The primary, of both kinds; what is scripted lies before it."""
    if request.param == "memory":
        yield Server()
        return
    backend = PostgresBackend(parse_url(request.getfixturevalue("pg_prepared")))
    yield Server(Serialized(backend))
    backend.close()


@pytest.fixture
def link(server: Server) -> Link:
    return Link(server)


@pytest.fixture
def opened(link: Link, open_it: Open) -> Opened:
    """A store over `link`, with nothing pending, and its engine."""
    store, engine = open_it(link)
    wait_direct(engine)
    return store, engine


@pytest.fixture
def c(opened: Opened) -> Collection:
    return opened[0]["c"]
