"""Worlds for the crash tests: prepared once for each database, copied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.crash_stage import Stage, make_stage
from support.crash_world import World


@pytest.fixture(scope="session")
def sqlite_stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("crash-sqlite")
    return make_stage(World(folder / "world"), folder)


@pytest.fixture(scope="session")
def pg_stage(pg_admin_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("crash-pg")
    world = World(folder / "world", admin_url=pg_admin_url)
    try:
        yield make_stage(world, folder)
    finally:
        world.close()


@pytest.fixture(params=["sqlite", "pg"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """The scenario on each database; the test puts the world into the state it needs."""
    found: Stage = request.getfixturevalue(f"{request.param}_stage")
    return found


@pytest.fixture
def fresh(stage: Stage) -> Stage:
    """The scenario before the migration."""
    stage.world.put_back(stage.fresh)
    return stage


@pytest.fixture
def migrated(stage: Stage) -> Stage:
    """The scenario after the migration."""
    stage.world.put_back(stage.migrated)
    return stage


@pytest.fixture
def fresh_pg(pg_stage: Stage) -> Stage:
    """The scenario before the migration, on PostgreSQL alone."""
    pg_stage.world.put_back(pg_stage.fresh)
    return pg_stage
