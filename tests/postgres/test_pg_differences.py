"""What is not as it was installed is named: by `schema status`, by doctor, and by the DBA's script
put right (row F16)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from standfast.backends.postgres.differences import differences, expected_functions
from support.cli import run_cli
from support.pg import Sql
from support.roles import AppRole, app_role


@pytest.fixture
def app(pg_admin_url: str, pg_database: str) -> Iterator[AppRole]:
    with app_role(pg_admin_url, pg_database) as app:
        app.run_script(["things"])
        yield app


def found(app: AppRole) -> list[str]:
    with closing(app.backend()) as backend:
        return backend.differences()


def test_nothing_differs_after_an_installation(app: AppRole, db: Sql) -> None:
    """The migrations are read as the server has them: each function, policy and trigger."""
    assert found(app) == []
    assert len(expected_functions()) == db.one(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'standfast'::regnamespace"
    )


CHANGES = [
    ("GRANT EXECUTE ON FUNCTION standfast.require(boolean) TO PUBLIC", "executed by everybody"),
    (
        "CREATE OR REPLACE FUNCTION standfast.require(fine boolean) RETURNS boolean LANGUAGE sql"
        " SET search_path = pg_catalog, pg_temp AS 'SELECT true'",
        "function standfast.require was changed",
    ),
    ("ALTER FUNCTION standfast.bury RESET search_path", "function standfast.bury was changed"),
    ("ALTER FUNCTION standfast.bury SECURITY DEFINER", "function standfast.bury was changed"),
    ("CREATE FUNCTION standfast.more() RETURNS int LANGUAGE sql AS 'SELECT 1'", "is not one of"),
    ("DROP FUNCTION standfast.bury", "function standfast.bury is missing"),
    ("ALTER TABLE standfast.lanes DISABLE ROW LEVEL SECURITY", "row security is off"),
    ("DROP TRIGGER standfast_check_insert ON things", "trigger standfast_check_insert is missing"),
    ("ALTER TABLE things DISABLE TRIGGER standfast_stamp_insert", "is switched off or not ours"),
]


def test_what_was_changed_is_named(app: AppRole, db: Sql) -> None:
    """F16: each change of what is installed is a sentence of its own."""
    for change, sentence in CHANGES:
        db("BEGIN")
        db(change)
        seen = differences(db.connection)
        db("ROLLBACK")
        assert any(sentence in line for line in seen), (change, seen)
    assert found(app) == []


def test_a_table_that_is_gone_is_named_to_whoever_may_see_that(app: AppRole, db: Sql) -> None:
    """F16: the owner of the bookkeeping sees it; to an app, a table that it may not read is
    another's."""
    db("ALTER TABLE things RENAME TO others")
    assert differences(db.connection) == ["collection `things`: its table is missing"]
    assert found(app) == []


def test_the_commands_show_it_and_the_script_mends_it(
    app: AppRole, db: Sql, tmp_path: Path
) -> None:
    """F16: `schema status` and doctor name the right that is missing; the script gives it back."""
    env = {"DATABASE_URL": f"{app.url}?schema=public"}
    assert run_cli("schema", "status", cwd=tmp_path, env=env).code == 0
    db(f"REVOKE EXECUTE ON FUNCTION standfast.require(boolean) FROM {app.name}")
    ran = run_cli("schema", "status", cwd=tmp_path, env=env)
    assert ran.code == 1
    assert "standfast.require may not be executed by this role" in ran.err
    assert run_cli("schema", "status", "--json", cwd=tmp_path, env=env).document["differences"]
    checks = run_cli("doctor", "--json", cwd=tmp_path, env=env).document["checks"]
    (check,) = [check for check in checks if check["name"] == "installation"]
    assert (check["verdict"], "standfast.require" in check["found"]) == ("warn", True)
    app.run_script(["things"])
    assert run_cli("schema", "status", cwd=tmp_path, env=env).code == 0
