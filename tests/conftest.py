"""What every test can use: Hypothesis profiles, a clean environment, a real PostgreSQL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from support.cluster import Cluster
from support.far import Far, FarPg
from support.tls import make_context

# No deadlines and no too_slow check: on a busy machine they would fail tests by the clock.
_untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _untimed, max_examples=50)
settings.register_profile("ci", _untimed, max_examples=200, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# The developer's own database and libpq settings must not reach any test.
for _name in list(os.environ):
    if _name == "DATABASE_URL" or _name.startswith(("STANDFAST_", "PG")):
        del os.environ[_name]

_TEST_DATABASE_URL = os.environ.get("TEST_DATABASE_URL", "")
#: `make far`: every database that tests share is so many milliseconds away.
_TEST_RTT_MS = float(os.environ.get("TEST_RTT_MS", "0"))


def pytest_configure() -> None:
    """Refuse a TEST_DATABASE_URL in a form in which the database's name cannot be replaced."""
    if _TEST_DATABASE_URL and "://" not in _TEST_DATABASE_URL:
        raise pytest.UsageError("TEST_DATABASE_URL must be a URL: postgresql://...")


@pytest.fixture(scope="session")
def pg_cluster() -> Iterator[Cluster]:
    """A running server of our own, one for all tests: who stops it starts it again.

    It ignores TEST_DATABASE_URL, since only a server of our own may be stopped.
    """
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pg_admin_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a role that may create databases: TEST_DATABASE_URL, else `pg_cluster`'s.

    With TEST_RTT_MS it leads over a line with that round trip.
    """
    url = _TEST_DATABASE_URL
    if not url:
        cluster: Cluster = request.getfixturevalue("pg_cluster")
        url = cluster.url()
    if not _TEST_RTT_MS:
        yield url
        return
    with Far.to(url, rtt_ms=_TEST_RTT_MS) as far:
        yield far.url(url)


@pytest.fixture(scope="session")
def pg_url(pg_admin_url: str) -> Iterator[str]:
    """URL, over TCP and with a password, of a database that all tests share."""
    yield from _temporary_database(pg_admin_url)


@pytest.fixture
def pg_database(pg_admin_url: str) -> Iterator[str]:
    """URL of a fresh, empty database for this test alone; dropped afterwards."""
    yield from _temporary_database(pg_admin_url)


@pytest.fixture
def far_pg(pg_database: str, tmp_path: Path) -> Iterator[Callable[..., FarPg]]:
    """Makes lines to a fresh database: `far_pg(rtt_ms=80, bandwidth=1_000_000, tls="on")`."""
    with ExitStack() as stack:

        def make(**settings: Any) -> FarPg:
            if settings.get("tls"):
                if make_context(tmp_path) is None:
                    pytest.skip("there is no openssl")
                settings["certificate"] = (tmp_path / "tls.key", tmp_path / "tls.crt")
            line = stack.enter_context(Far.to(pg_database, **settings))
            return FarPg(line.url(pg_database), pg_database, line)

        yield make


def _temporary_database(admin_url: str) -> Iterator[str]:
    name = f"standfast_test_{secrets.token_hex(6)}"
    _execute(admin_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))
    finally:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        _execute(admin_url, drop.format(sql.Identifier(name)))


def _execute(url: str, statement: sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
