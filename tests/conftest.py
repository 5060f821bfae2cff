"""What every test can use: Hypothesis profiles, a clean environment, a real PostgreSQL."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import CodeType
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from support import bytecode
from support import cluster as clusters
from support.cluster import Cluster
from support.databases import install_bookkeeping, prepared_database, temporary_database
from support.far import Far, FarPg
from support.tls import make_context

# No deadlines and no too_slow check: on a busy machine they would fail tests by the clock.
_untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _untimed, max_examples=25)
settings.register_profile("ci", _untimed, max_examples=200, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Each of the hundreds of processes that tests start would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The developer's own database and libpq settings must not reach any test.
for _name in list(os.environ):
    if _name == "DATABASE_URL" or _name.startswith(("STANDFAST_", "PG")):
        del os.environ[_name]

_TEST_DATABASE_URL = os.environ.get("TEST_DATABASE_URL", "")
#: `make far`: every database that tests share is so many milliseconds away.
_TEST_RTT_MS = float(os.environ.get("TEST_RTT_MS", "0"))


#: Fixtures that need a server, and the names that tests give the database that needs one.
_SERVER_FIXTURES = {"pg_cluster", "pg_admin_url", "pg_url", "pg_database", "pg_prepared"}
_SERVER_PARAMETERS = {"postgresql", "postgresql-app", "pg"}
#: Where nearly every test starts programs and kills them.
_PROCESS_FOLDERS = {"crash", "chaos", "hold"}


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a TEST_DATABASE_URL in a form in which the database's name cannot be replaced.

    With `-m "not pg ..."` a server is refused too, so that no test can want one unnoticed.
    """
    if _TEST_DATABASE_URL and "://" not in _TEST_DATABASE_URL:
        raise pytest.UsageError("TEST_DATABASE_URL must be a URL: postgresql://...")
    clusters.allowed = "not pg" not in config.getoption("markexpr", "")
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        bytecode.prepare(config)
    else:
        gc.disable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave folders alone of which every test would be deselected."""
    without = "not process" in config.getoption("markexpr", "")
    return True if without and collection_path.name in _PROCESS_FOLDERS else None


def pytest_collection_finish() -> None:
    """The thousands of tests that were collected stay until the end: the garbage collector need not
    look at them while there are ever more of them, nor again and again afterwards."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a PostgreSQL server (`pg`) and what starts programs (`process`)."""
    for item in items:
        if isinstance(item, pytest.Function) and _needs_server(item):
            item.add_marker("pg")
        if item.path.parent.name in _PROCESS_FOLDERS:
            item.add_marker("process")


def _needs_server(item: pytest.Function) -> bool:
    """Whether a test asks for a server: by a fixture, by a parameter, or by making a Cluster."""
    if not _SERVER_FIXTURES.isdisjoint(item.fixturenames):
        return True
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if any(isinstance(value, str) and value in _SERVER_PARAMETERS for value in parameters):
        return True
    definitions = item._fixtureinfo.name2fixturedefs.values()  # pyright: ignore[reportPrivateUsage]
    functions = [item.function, *(found.func for each in definitions for found in each)]
    codes = [getattr(inspect.unwrap(function), "__code__", None) for function in functions]
    return any(isinstance(code, CodeType) and "Cluster" in code.co_names for code in codes)


@pytest.fixture(scope="session")
def pg_cluster() -> Iterator[Cluster]:
    """A running server of our own, one for all tests of a worker: who stops it starts it again.

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
    """URL, over TCP and with a password, of a database that all tests of a worker share."""
    with temporary_database(pg_admin_url) as url:
        yield url


@pytest.fixture
def pg_database(pg_admin_url: str) -> Iterator[str]:
    """URL of a fresh, empty database for this test alone; dropped afterwards."""
    with temporary_database(pg_admin_url) as url:
        yield url


@pytest.fixture(scope="session")
def pg_template(pg_admin_url: str) -> Iterator[str]:
    """The name of a database in which the bookkeeping is, and nothing else."""
    with temporary_database(pg_admin_url) as url:
        install_bookkeeping(url)
        yield urlsplit(url).path[1:]


@pytest.fixture
def pg_prepared(pg_admin_url: str, pg_template: str) -> Iterator[str]:
    """URL of a database for this test alone, as a store that wrote nothing has left it.

    For whatever is not about making the bookkeeping, which costs the server 60 ms in each test.
    """
    with prepared_database(pg_admin_url, pg_template) as url:
        yield url


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
