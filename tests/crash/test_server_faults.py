"""A PostgreSQL that dies, stops or cuts the connection off in the middle of a migration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from standfast.backends.postgres.backend import PostgresBackend
from standfast.cli.output import Exit, exit_code
from standfast.config.settings import parse_url
from standfast.errors import Unavailable
from standfast.migrate.plan import Options
from standfast.migrate.rollback import rollback
from standfast.migrate.runner import Runner
from standfast.migrate.steps import Steps
from support.cluster import Cluster
from support.crash_files import SOURCES
from support.crash_snapshot import files_of, look
from support.crash_stage import Stage, make_stage
from support.crash_world import TIMEOUT_S, Done, Started, World


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server of these tests' own: they kill it."""
    with Cluster() as found:
        yield found


@pytest.fixture(scope="module")
def mortal_stage(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("crash-mortal")
    return make_stage(World(folder / "world", admin_url=cluster.url()), folder)


@pytest.fixture
def fresh(cluster: Cluster, mortal_stage: Stage) -> Stage:
    cluster.start()
    mortal_stage.world.put_back(mortal_stage.fresh)
    return mortal_stage


@pytest.fixture
def migrated(cluster: Cluster, mortal_stage: Stage) -> Stage:
    cluster.start()
    mortal_stage.world.put_back(mortal_stage.migrated)
    return mortal_stage


Fault = Callable[[Cluster, World], None]


def kill(cluster: Cluster, world: World) -> None:
    cluster.kill()


def stop(cluster: Cluster, world: World) -> None:
    cluster.stop("fast")


def terminate(cluster: Cluster, world: World) -> None:
    """Only the sessions of standfast, as an administrator or a failover does."""
    with psycopg.connect(cluster.url(), autocommit=True) as conn:
        ended = conn.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'standfast'"
        ).fetchone()
        assert ended is not None
        assert ended[0] > 0


FAULTS = [kill, stop, terminate]


@contextmanager
def in_the_load(cluster: Cluster, world: World, *command: str) -> Iterator[Started]:
    """A command while its load has written one collection and waits for a lock on the next."""
    assert world.url is not None
    blocker = psycopg.connect(world.url)
    try:
        # In the way of a load alone: reading goes on.
        blocker.execute("LOCK TABLE players IN ROW EXCLUSIVE MODE")
        process = world.start(*command)
        with psycopg.connect(cluster.url(), autocommit=True) as watcher:
            deadline = time.monotonic() + TIMEOUT_S
            while not watcher.execute(
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'standfast'"
                " AND wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%players%'"
            ).fetchone():
                assert time.monotonic() < deadline, "the load never came to the lock"
                time.sleep(0.005)
        yield process
    finally:
        blocker.close()


def assert_unreachable(done: Done) -> None:
    assert done.code == 3, done.all
    assert "error: " in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("fault", FAULTS)
def test_in_the_middle_of_the_load(cluster: Cluster, fresh: Stage, fault: Fault) -> None:
    """Server killed or stopped, or connection cut, with half of the rows written: exit 3, no row
    and no file is changed, and the same command finishes when the server is back."""
    world = fresh.world
    with in_the_load(cluster, world, *world.migration()) as process:
        fault(cluster, world)
        assert_unreachable(world.end(process))
    cluster.start()
    assert files_of(world.app) == fresh.before.files
    found = look(world)
    assert found.rows == fresh.before.rows
    assert found.versions == fresh.before.versions
    fresh.assert_finishes()


def mortal_backend(world: World) -> PostgresBackend:
    """The database, given up sooner than usual once it is gone."""
    assert world.url is not None
    return PostgresBackend(parse_url(world.url), connect_timeout_s=0.5)


@pytest.mark.parametrize(
    ("step", "fault"), [("backup", kill), ("load", kill), ("verify", kill), ("verify", stop)]
)
def test_before_a_step(cluster: Cluster, fresh: Stage, step: str, fault: Fault) -> None:
    """The server gone before a step: Unavailable (exit 3), files byte-identical and in place, the
    rows as before or all loaded; the next command finishes."""
    world = fresh.world

    def tell(now: str, _: str) -> None:
        if now == step:
            fault(cluster, world)

    paths = [world.app / name for name in SOURCES]
    with closing(mortal_backend(world)) as backend:
        run = Runner(backend, world.storage, steps=Steps(tell)).run
        with pytest.raises(Unavailable) as caught:
            run(paths, Options(on_conflict="file"))
    assert exit_code(caught.value) == Exit.UNREACHABLE
    cluster.start()
    assert files_of(world.app) == fresh.before.files
    found = look(world)
    whole = fresh.after if step == "verify" else fresh.before
    assert (found.rows, found.versions) == (whole.rows, whole.versions)
    fresh.assert_finishes()


def test_after_the_verification_no_server_is_needed(cluster: Cluster, fresh: Stage) -> None:
    """Files are moved after a green verification whether the server still lives or not."""
    world = fresh.world

    def tell(step: str, _: str) -> None:
        if step == "clean up":
            cluster.kill()

    with world.backend() as backend:
        paths = [world.app / name for name in SOURCES]
        result = Runner(backend, world.storage, steps=Steps(tell)).run(
            paths, Options(on_conflict="file")
        )
    assert result.green
    cluster.start()
    fresh.assert_finished()


@pytest.mark.parametrize("fault", FAULTS)
def test_in_the_middle_of_a_rollback(cluster: Cluster, migrated: Stage, fault: Fault) -> None:
    """The same in the transaction of a rollback: exit 3, nothing is taken back yet, and the same
    command finishes when the server is back."""
    world = migrated.world
    with in_the_load(cluster, world, "rollback", migrated.run) as process:
        fault(cluster, world)
        assert_unreachable(world.end(process))
    cluster.start()
    found = look(world)
    assert (found.rows, found.files) == (migrated.after.rows, {})
    done = world.rollback()
    assert done.code == 0, done.all
    migrated.assert_nothing_happened()


def test_before_a_rollback(cluster: Cluster, migrated: Stage) -> None:
    """A server that goes before a rollback has begun: Unavailable, and nothing is changed."""
    world = migrated.world
    with closing(mortal_backend(world)) as backend, pytest.raises(Unavailable):
        rollback(backend, world.storage, migrated.run, steps=Steps(lambda *_: cluster.kill()))
    cluster.start()
    assert look(world).outcome(written=set()) == migrated.after.outcome(written=set())


def test_a_server_that_is_not_there(cluster: Cluster, fresh: Stage, tmp_path: Path) -> None:
    """Without a server no command changes or creates anything, not even the data directory."""
    cluster.stop()
    for args in (fresh.world.migration(), ["rollback", "2"], ["plan", str(fresh.world.app)]):
        done = fresh.world.run(*args, "--data-dir", str(tmp_path / "new"))
        assert_unreachable(done)
    assert files_of(fresh.world.app) == fresh.before.files
    assert list(tmp_path.iterdir()) == []
