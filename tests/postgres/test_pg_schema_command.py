"""`standfast schema sql`: what it prints is all that a DBA needs, and the app works with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString, cast

import psycopg
import pytest

import standfast
from support.cli import run_cli
from support.hold import wait_direct
from support.pg import Sql, new_role, url_as


@pytest.fixture
def owner(role: str, pg_database: str) -> Iterator[str]:
    """The name of a role that the script makes; gone at the end, with what it owns."""
    name = f"{role}_keeper"
    yield name
    with psycopg.connect(pg_database, autocommit=True) as dba:
        dba.execute("DROP SCHEMA IF EXISTS standfast CASCADE")
        for one in (role, name):
            dba.execute(cast(LiteralString, f"DROP OWNED BY {one} CASCADE"))
        dba.execute(cast(LiteralString, f"DROP ROLE {name}"))


def printed(url: str, place: Path, *arguments: str) -> str:
    """What the command prints for the DBA's own connection."""
    ran = run_cli("schema", "sql", *arguments, cwd=place, env={"DATABASE_URL": url})
    assert ran.code == 0, ran.err
    assert ran.err == ""
    return ran.out


@pytest.mark.parametrize("offline", [[], ["--offline"]])
def test_what_it_prints_is_enough(
    role: str, owner: str, pg_database: str, db: Sql, tmp_path: Path, offline: list[str]
) -> None:
    """The options --role, --owner, --collection and --index: an app with no other right writes,
    reads, finds and migrates; the owner cannot log in, and the index is there."""
    options = ["--role", role, "--owner", owner, "--collection", "views", "--index", *offline]
    db(printed(pg_database, tmp_path, *options))
    url = url_as(pg_database, role)
    with standfast.open(url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        assert store["views"].put("1", {"a": 1}).durable_on == "primary"
        assert [document.key for document in store["views"].find({"a": 1})] == ["1"]
    assert db.one("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", owner) is False
    assert db.one(
        "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'standfast'"
    ) == (owner)
    assert db.one("SELECT count(*) FROM pg_indexes WHERE indexname = 'views_find'") == 1
    assert run_cli("schema", "status", cwd=tmp_path, env={"DATABASE_URL": url}).code == 0
    if not offline:  # run again it changes nothing
        before = db.catalog()
        db(printed(pg_database, tmp_path, *options))
        assert db.catalog() == before


def test_formerly_hands_over_what_belongs_to_the_app(
    pg_admin_url: str, role: str, owner: str, pg_database: str, db: Sql, tmp_path: Path
) -> None:
    """--formerly: lanes, runs and rejected writes of the role as which the app worked until now."""
    with new_role(pg_admin_url) as former:
        base = ["--owner", owner, "--collection", "views"]
        db(printed(pg_database, tmp_path, "--role", former, *base))
        for statement in (
            "INSERT INTO standfast.lanes (lane) VALUES (gen_random_uuid())",
            "INSERT INTO standfast.runs (run, state) VALUES ('r', 'loaded')",
            "INSERT INTO standfast.conflicts (collection, key, kind, reason, app)"
            f" VALUES ('none', '1', 'put', 'refused', '{former}')",
        ):
            with Sql(url_as(pg_database, former)) as theirs:
                theirs(statement)
        counts = "SELECT (SELECT count(*) FROM standfast.lanes), (SELECT count(*) FROM"
        counts += " standfast.runs), (SELECT count(*) FROM standfast.conflicts)"
        with Sql(url_as(pg_database, role)) as ours:
            db(printed(pg_database, tmp_path, "--role", role, *base))
            assert ours(counts) == [(0, 0, 0)]
            db(printed(pg_database, tmp_path, "--role", role, "--formerly", former, *base))
            assert ours(counts) == [(1, 1, 1)]
        db(f"DROP OWNED BY {former} CASCADE")
