"""Several apps in one database: each works as if alone, and trims its own part alone (A12)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import standfast
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from support.cli import run_cli
from support.hold import wait_direct
from support.outage import Outage
from support.pg import Sql, new_role
from support.roles import AppRole, app_role


@pytest.fixture
def tenants(pg_admin_url: str, pg_database: str) -> Iterator[tuple[AppRole, AppRole]]:
    """Two apps with the least rights in one database, each with a schema of its own."""
    with app_role(pg_admin_url, pg_database) as first, new_role(pg_admin_url) as name:
        second = AppRole(name, pg_database, first.owner)
        with psycopg.connect(pg_database, autocommit=True) as dba:
            dba.execute("CREATE SCHEMA bota; CREATE SCHEMA botb")
        first.run_script(["views_a", "log_a"], schema="bota")
        second.run_script(["views_b", "log_b"], schema="botb")
        try:
            yield first, second
        finally:
            with psycopg.connect(pg_database, autocommit=True) as dba:
                dba.execute("DROP SCHEMA bota CASCADE; DROP SCHEMA botb CASCADE")
                dba.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))


def places(tenants: tuple[AppRole, AppRole], tmp_path: Path, admin_url: str) -> list[Outage]:
    """A data directory of each app, and the way to its part of the database."""
    return [
        Outage(f"{app.url}?schema=bot{letter}", tmp_path / letter, admin_url=admin_url)
        for app, letter in zip(tenants, "ab", strict=True)
    ]


def test_two_apps_work_side_by_side(
    tenants: tuple[AppRole, AppRole], pg_admin_url: str, pg_database: str, tmp_path: Path
) -> None:
    """A4, A12: both write, lose the database, journal, and replay what they journaled, at the same
    time; each lists, counts and shows its own collections, conflicts and lanes alone."""
    one, two = places(tenants, tmp_path, pg_admin_url)
    for place, letter in ((one, "a"), (two, "b")):
        place.root.mkdir()
        with place.store() as store:
            wait_direct(store)
            store[f"views_{letter}"].put("1", {"n": 0})
            store[f"log_{letter}"].put("gone", 1)
            store[f"log_{letter}"].delete("gone")
    database = Outage(pg_database, tmp_path, admin_url=pg_admin_url)
    with one.store() as first, two.store() as second:
        wait_direct(first)
        wait_direct(second)
        with database.away():
            for store, letter in ((first, "a"), (second, "b")):
                for _ in range(5):
                    store[f"views_{letter}"].increment("1", "/n", 1)
                assert store.health().lag_ops == 5
        for store, letter in ((first, "a"), (second, "b")):
            wait_direct(store)
            assert store[f"views_{letter}"].get("1") == {"n": 5}
    for place, letter in ((one, "a"), (two, "b")):
        with closing(PostgresBackend(parse_url(place.url))) as backend:
            assert backend.collections() == [f"log_{letter}", f"views_{letter}"]
            assert backend.differences() == []
        assert place.run("schema", "status").code == 0
        assert place.run("conflicts", "list", "--all").out == ""
    with Sql(pg_database) as db:
        assert db.one("SELECT count(DISTINCT app) FROM standfast.lanes") == 2


def test_an_app_trims_its_own_part_alone(
    tenants: tuple[AppRole, AppRole], pg_admin_url: str, tmp_path: Path, db: Sql
) -> None:
    """A12, C2: what another app keeps of the past is not trimmed, nor its floors raised."""
    one, two = places(tenants, tmp_path, pg_admin_url)
    for place, letter in ((one, "a"), (two, "b")):
        place.root.mkdir()
        with place.store() as store:
            wait_direct(store)
            store[f"views_{letter}"].put("1", 1)
            store[f"views_{letter}"].delete("1")
    db("UPDATE standfast.tombstones SET deleted_at = 'epoch'")
    db("UPDATE standfast.changes SET at = 'epoch'")
    db("UPDATE standfast.lanes SET updated_at = 'epoch'")
    kept = "SELECT count(*) FROM standfast.{} WHERE {} ~ 'b$'"
    before = [db.one(kept.format(table, "collection")) for table in ("tombstones", "changes")]
    lanes = "SELECT app, count(*) FROM standfast.lanes GROUP BY app"
    of_second = dict(db(lanes))[tenants[1].name]
    with closing(PostgresBackend(parse_url(one.url))) as backend:
        backend.trim()
    assert db("SELECT DISTINCT right(collection, 1) FROM standfast.tombstones") == [("b",)]
    after = [db.one(kept.format(table, "collection")) for table in ("tombstones", "changes")]
    assert after == before
    assert dict(db(lanes)) == {tenants[1].name: of_second}
    floors = dict(db("SELECT name, version_floor FROM standfast.collections"))
    assert (floors["views_a"], floors["views_b"]) == (2, 0)


def test_an_app_does_not_close_the_lanes_of_another(
    tenants: tuple[AppRole, AppRole], pg_admin_url: str, tmp_path: Path, db: Sql
) -> None:
    """A12: who knows the name of another app's lane can neither close it nor write under it."""
    one, two = places(tenants, tmp_path, pg_admin_url)
    one.root.mkdir()
    with one.store() as store:
        wait_direct(store)
        store["views_a"].put("1", 1)
        lane = db.one("SELECT lane::text FROM standfast.lanes WHERE state = 'open'")
        with closing(PostgresBackend(parse_url(two.url))) as backend:
            with pytest.raises(standfast.StandfastError) as caught:
                backend.fence([lane])
            assert caught.value.code == "no_rights"
            backend.close_lane(lane)
            assert backend.outcomes(lane) == []
        assert store["views_a"].put("1", 2).durable_on == "primary"


def test_what_one_app_may_not_use_is_refused_by_name(
    tenants: tuple[AppRole, AppRole], pg_admin_url: str, tmp_path: Path
) -> None:
    """A12: a collection of another app is neither read nor written nor shown."""
    one, two = places(tenants, tmp_path, pg_admin_url)
    env = {"DATABASE_URL": two.url, "STANDFAST_DATA_DIR": str(tmp_path / "b")}
    assert run_cli("put", "views_a", "1", "1", cwd=tmp_path, env=env).code == 2
    assert run_cli("get", "views_a", "1", cwd=tmp_path, env=env).code == 1
    assert one.url != two.url
