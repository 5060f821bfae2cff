from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from contract.turns import has_turn
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import parse_url
from standfast.engine.embedded import EmbeddedEngine
from support.databases import Reused, temporary_database
from support.roles import AppRole, app_role
from support.traps import set_traps

pytest.register_assert_rewrite("contract.suite")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make chaos` what another kind of connection has its turn with."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.name == "test_backends.py":
            kind = item.cls.__name__ if item.cls else ""
            if not has_turn(kind, item.function.__name__):
                item.add_marker("slow")


@pytest.fixture(params=["memory", "sqlite", "postgresql", "postgresql-app"])
def make_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Backend]]:
    """Each call opens the same database once more: what another program would do.

    `postgresql-app` is a role with the least rights, as `standfast schema sql --role` grants them,
    in a bookkeeping that a role without login owns.
    """
    if request.param == "memory":
        memory = MemoryBackend()
        yield lambda: memory
        return
    made: list[Backend] = []
    closing = ExitStack()
    if request.param == "sqlite":
        path = tmp_path / "data" / "fallback.db"

        def make() -> Backend:
            made.append(SqliteBackend(path))
            return made[-1]
    elif request.param == "postgresql-app":
        app: AppRole = request.getfixturevalue("odd_app")

        def make() -> Backend:
            made.append(app.backend())
            return made[-1]
    else:
        target = parse_url(request.getfixturevalue("pg_installed"))

        def make() -> Backend:
            made.append(PostgresBackend(target))
            return made[-1]

    with closing:
        yield make
        for backend in made:
            backend.close()


@pytest.fixture
def store(make_backend: Callable[[], Backend]) -> Iterator[Store]:
    with Store(EmbeddedEngine(make_backend())) as store:
        yield store


@pytest.fixture(scope="session")
def trap_template(pg_admin_url: str) -> Iterator[str]:
    """The name of a database with traps for names that are looked up by the search path."""
    with temporary_database(pg_admin_url) as url:
        set_traps(url)
        yield _name(url)


@pytest.fixture(scope="session")
def app_template(pg_admin_url: str, trap_template: str) -> Iterator[AppRole]:
    """An app with the least rights, whose sessions begin oddly, and a database as the printed
    script leaves it: the roles are the server's, so they serve in every copy."""
    with (
        temporary_database(pg_admin_url, template=trap_template) as url,
        app_role(pg_admin_url, url) as app,
    ):
        app.make_odd()
        yield app


@pytest.fixture(scope="session")
def app_database(pg_admin_url: str, app_template: AppRole) -> Iterator[Reused]:
    with temporary_database(pg_admin_url, template=_name(app_template.dba_url)) as url:
        replace(app_template, dba_url=url).run_script(["things"])  # whose rights on `public` stay
        reused = Reused(url)
        yield reused
        reused.close()


@pytest.fixture
def odd_app(app_template: AppRole, app_database: Reused) -> Iterator[AppRole]:
    """That app, in a database as the printed script leaves it."""
    yield replace(app_template, dba_url=app_database.url)
    app_database.reset()


@pytest.fixture(scope="session")
def installed_database(pg_admin_url: str) -> Iterator[Reused]:
    with temporary_database(pg_admin_url) as url:
        backend = PostgresBackend(parse_url(url))
        backend.install(())
        backend.close()
        reused = Reused(url)
        yield reused
        reused.close()


@pytest.fixture
def pg_installed(installed_database: Reused) -> Iterator[str]:
    """The URL of a database in which the bookkeeping is there, and nothing else.

    For what is not about making it: `TestPostgres` makes it in each of its tests.
    """
    yield installed_database.url
    installed_database.reset()


def _name(url: str) -> str:
    return urlsplit(url).path[1:]
