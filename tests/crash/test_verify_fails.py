"""Verification is real: a row that is not what the run brought stops everything, and is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from standfast.backends.base import Backend, Load, LoadReport
from standfast.migrate.plan import Options
from standfast.migrate.runner import Runner
from support.crash_files import CANARY
from support.crash_snapshot import look
from support.crash_stage import Stage
from support.crash_world import World, execute_sqlite

Damage = Callable[[World], None]


def on_postgres(statement: str, *, replica: bool = False) -> Damage:
    """SQL of somebody else; as a replica it fires no trigger, so that no version tells of it."""

    def damage(world: World) -> None:
        assert world.url is not None
        with psycopg.connect(world.url) as conn:
            if replica:
                conn.execute("SET session_replication_role = replica")
            text = sql.SQL(statement.replace("CANARY", CANARY))  # type: ignore[arg-type]
            assert conn.execute(text).rowcount == 1

    return damage


def on_sqlite(*statements: str) -> Damage:
    def damage(world: World) -> None:
        for statement in statements:
            text = statement.replace("CANARY", CANARY)
            execute_sqlite(world.storage / "fallback.db", text)

    return damage


#: What is damaged: the database, the key in `guilds`, and how.
CASES: dict[str, tuple[str, str, Damage]] = {
    "changed": (
        *("pg", "gone"),
        on_postgres("UPDATE guilds SET data = '\"CANARY?\"' WHERE key = 'gone'"),
    ),
    "changed unseen": (
        *("pg", "gone"),
        on_postgres("UPDATE guilds SET data = '\"CANARY?\"' WHERE key = 'gone'", replica=True),
    ),
    "data alone": (
        *("pg", "differs"),
        on_postgres("UPDATE guilds SET data = '{}' WHERE key = 'differs'", replica=True),
    ),
    "raw alone": (
        *("pg", "differs"),
        on_postgres(
            "UPDATE guilds SET raw = replace(raw, '1.0e2', '2.0e2') WHERE key = 'differs'",
            replica=True,
        ),
    ),
    "raw that was none": (
        *("pg", "gone"),
        on_postgres("UPDATE guilds SET raw = '\"CANARY?\"' WHERE key = 'gone'", replica=True),
    ),
    "lost": ("pg", "new", on_postgres("DELETE FROM guilds WHERE key = 'new'")),
    "equal row changed": (
        *("pg", "equal"),
        on_postgres("UPDATE guilds SET data = '{}' WHERE key = 'equal'"),
    ),
    "sqlite changed": (
        *("sqlite", "gone"),
        on_sqlite("UPDATE guilds SET data = '\"CANARY?\"' WHERE key = 'gone'"),
    ),
    "sqlite changed unseen": (
        *("sqlite", "differs"),
        on_sqlite(
            "DROP TRIGGER guilds_standfast_update",
            "UPDATE guilds SET data = replace(data, '1.0e2', '2.0e2') WHERE key = 'differs'",
        ),
    ),
    "sqlite no JSON": (
        *("sqlite", "new"),
        on_sqlite(
            "DROP TRIGGER guilds_standfast_update",
            "UPDATE guilds SET data = '[CANARY' WHERE key = 'new'",
        ),
    ),
    "sqlite lost": ("sqlite", "new", on_sqlite("DELETE FROM guilds WHERE key = 'new'")),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Stage, str, Damage]:
    """A stage before its migration, the key that is damaged later, and how."""
    kind, key, damage = CASES[request.param]
    stage: Stage = request.getfixturevalue(f"{kind}_stage")
    stage.world.put_back(stage.fresh)
    return stage, key, damage


def assert_refused(stage: Stage, key: str) -> None:
    """`migrate` names the row, exits with 1 and leaves every original where and as it is."""
    done = stage.world.migrate()
    assert done.code == 1, done.all
    assert f"`guilds` key '{key}'" in done.err
    assert "no original was moved" in done.err
    found = look(stage.world)
    assert found.files == stage.before.files
    assert found.litter() == []
    assert [state["state"] for state in found.states] == ["verify-failed"]


def test_a_wrong_row_stops_the_run(case: tuple[Stage, str, Damage]) -> None:
    """One row damaged between load and verification: exit 1 with its name; all
    originals stay; what somebody wrote is archived by the rollback that gives everything back."""
    stage, key, damage = case
    stage.kill_migrate("state-loaded")
    damage(stage.world)
    assert_refused(stage, key)
    if key == "equal":
        # The run never wrote it: it is somebody else's, and stays.
        done = stage.world.rollback()
        assert done.code == 0, done.all
        found = look(stage.world)
        assert found.files == stage.before.files
        assert found.rows.pop(("guilds", key)).data == "{}"
        assert found.rows.items() <= stage.before.rows.items()
        return
    done = stage.world.rollback()
    assert (done.code, f"`guilds` key '{key}'" in done.err) == (1, True), done.all
    done = stage.world.rollback("--discard-newer")
    assert done.code == 0, done.all
    stage.assert_nothing_happened()


def test_a_wrong_row_is_found_in_the_same_process(
    fresh: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that loads finds it as well, before it moves any file."""
    name = "changed unseen" if fresh.world.url else "sqlite changed unseen"
    _, key, damage = CASES[name]
    with fresh.world.backend() as backend:
        _damage_after_load(backend, lambda: damage(fresh.world), monkeypatch)
        paths = [fresh.world.app / name for name in sorted(fresh.before.files)]
        result = Runner(backend, fresh.world.storage).run(paths, Options(on_conflict="file"))
    assert result.green is False
    assert result.verdict is not None
    assert [(c, k) for c, k, _ in result.verdict.wrong] == [("guilds", key)]
    assert result.verdict.compared == 20
    assert look(fresh.world).files == fresh.before.files
    assert_refused(fresh, key)


def _damage_after_load(
    backend: Backend, damage: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = backend.load

    def hooked(run: str, state: str, loads: Sequence[Load]) -> Mapping[str, LoadReport]:
        reports = load(run, state, loads)
        damage()
        return reports

    monkeypatch.setattr(backend, "load", hooked)


def test_killed_when_the_verification_has_failed(fresh: Stage) -> None:
    """Killed right after the failure is on record: the next commands still say which row."""
    damage: Any = CASES["lost" if fresh.world.url else "sqlite lost"][2]
    fresh.kill_migrate("state-loaded")
    damage(fresh.world)
    fresh.kill_migrate("state-verify-failed")
    assert_refused(fresh, "new")
    assert_refused(fresh, "new")


def test_a_row_that_is_right_again_lets_the_run_finish(fresh: Stage) -> None:
    """A failed verification is not for ever: it is made again, and a green one finishes the run."""
    fresh.kill_migrate("state-loaded")
    with fresh.world.backend() as backend:
        text = backend.read("guilds", ["gone"])["gone"].text
    swap = "UPDATE guilds SET data = '%s' WHERE key = 'gone'"
    damage = on_postgres if fresh.world.url else on_sqlite
    damage(swap % '"wrong"')(fresh.world)
    assert_refused(fresh, "gone")
    damage(swap % text)(fresh.world)
    done = fresh.world.migrate()
    assert done.code == 0, done.all
    assert look(fresh.world).files == {}
