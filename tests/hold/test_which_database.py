"""Which database, which history: copies, restores, clocks, and what is missing (rows H1 to H8)."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql

import standfast
from standfast import StandfastError, Unavailable
from standfast.api.sync import Store
from support import backends
from support.cluster import Cluster
from support.databases import create_database
from support.far import Far, FarPg
from support.hold import (
    SOON_S,
    conflicts,
    extra_database,
    has,
    is_direct,
    named,
    on_primary,
    run,
    soon,
    wait_direct,
)
from support.pg import Sql, url_as

MakeFar = Callable[..., FarPg]


@pytest.fixture(scope="module")
def mortal() -> Iterator[Cluster]:
    """A server that these tests stop and restore; each leaves it running."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def mortal_url(mortal: Cluster) -> str:
    name = f"h_{secrets.token_hex(6)}"
    with backends.looking(mortal.url()) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return mortal.url(name)


def back_up(cluster: Cluster) -> None:
    """A base backup: the files of a server that was stopped in good order."""
    cluster.stop()
    shutil.rmtree(cluster.root / "backup", ignore_errors=True)
    subprocess.run(["cp", "-a", cluster.data, cluster.root / "backup"], check=True)
    cluster.start()


def restore(cluster: Cluster) -> None:
    cluster.stop()
    shutil.rmtree(cluster.data)
    subprocess.run(["cp", "-a", cluster.root / "backup", cluster.data], check=True)
    cluster.start()


def test_a_directory_serves_one_database_at_a_time(far_pg: MakeFar, tmp_path: Path) -> None:
    """H1, R22: a directory that a live store uses for one database is refused for another one."""
    far = far_pg()
    data_dir = tmp_path / "data"
    name = f"other_{secrets.token_hex(6)}"
    with (
        extra_database(far.near_url, name) as other_url,
        standfast.open(far.url, data_dir=data_dir) as store,
        contextlib.ExitStack() as stack,
    ):
        wait_direct(store)
        store["c"].put("first", 1)
        make_elsewhere(other_url, tmp_path, "theirs")
        other: Store | None = None
        with contextlib.suppress(StandfastError):
            other = stack.enter_context(standfast.open(other_url, data_dir=data_dir))
        keys = [str(number) for number in range(5)]
        with far.line.down():
            for key in keys:
                store["c"].put(key, 1)
            if other is not None:  # it should not be there: what harm it does shows sooner so
                other["c"].put("more", 1)
                with contextlib.suppress(AssertionError):
                    soon(has(other_url, "c", keys), within_s=2.0)
        assert not set(keys) & on_primary(other_url, "c").keys(), "they are in another database"
        soon(has(far.near_url, "c", keys), within_s=SOON_S)
        assert other is None
        assert run(other_url, data_dir, "journal", "drain").code == 5


def test_a_copy_by_template_gets_nothing_of_the_original(far_pg: MakeFar, tmp_path: Path) -> None:
    """H2, I9, R22: a database made from a template of ours is another database."""
    far = far_pg()
    data_dir = tmp_path / "data"
    with standfast.open(far.url, data_dir=data_dir) as store:
        wait_direct(store)
        store["c"].put("first", 1)
        far.line.set(max_connections=0)
        far.line.cut()
        store["c"].put("pending", 1)
    template = far.near_url.rpartition("/")[2]
    with extra_database(far.near_url, f"{template}_copy", template=template) as copy_url:
        with standfast.open(copy_url, data_dir=data_dir) as store:
            with contextlib.suppress(AssertionError):
                soon(has(copy_url, "c", ["pending"]), within_s=1.0)
            assert "pending" not in on_primary(copy_url, "c")
            assert not is_direct(store)
            assert "other_database" in store.health().cause
        far.line.set(max_connections=None)
        with standfast.open(far.url, data_dir=data_dir) as store:
            wait_direct(store)
        assert on_primary(far.near_url, "c") == {"first": 1, "pending": 1}


def test_a_restore_while_the_app_was_stopped_is_noticed(
    mortal: Cluster, mortal_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """H3, I10, R23: after a base backup was restored, own writes are read, and it is named."""
    with standfast.open(mortal_url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("k", "early")
    back_up(mortal)
    with standfast.open(mortal_url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        for number in range(5):
            store["c"].put("k", f"undone {number}")
    restore(mortal)
    reads_its_own_writes(mortal_url, tmp_path / "data")
    assert "went_back" in caplog.text


def reads_its_own_writes(url: str, data_dir: Path) -> None:
    """Own acknowledged writes are read locally and in an outage, and built upon there."""
    with Far.to(url) as line, standfast.open(line.url(url), data_dir=data_dir) as store:
        wait_direct(store)
        c = store["c"]
        assert c.put("k", "own").durable_on == "primary"
        assert c.get("k", consistency="local") == "own"
        with line.down():
            soon(lambda: store.health().state != "direct" or c.put("x", 1), within_s=SOON_S)
            assert c.get("k") == "own"
            c.update("k", lambda value: f"{value}, too")
            assert c.get("k") == "own, too"
        wait_direct(store)
        assert on_primary(url, "c")["k"] == "own, too"


LOWER = {
    "restored": "SET session_replication_role = replica; DELETE FROM c;"
    " INSERT INTO c SELECT * FROM kept",
    "rebuilt": "DROP TABLE c; CREATE TABLE c (key text PRIMARY KEY, data jsonb NOT NULL,"
    " created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());"
    " INSERT INTO c (key, data) SELECT key, data FROM kept",
    "column-dropped": "ALTER TABLE c DROP COLUMN version CASCADE",
}


@pytest.mark.parametrize("how", LOWER)
def test_a_table_whose_versions_start_lower(pg_database: str, tmp_path: Path, how: str) -> None:
    """H3, R23: what the primary shows with a lower version is taken over by the mirror."""
    with standfast.open(pg_database, data_dir=tmp_path / "data") as store, Sql(pg_database) as sql_:
        wait_direct(store)
        store["c"].put("k", "early")
        sql_("CREATE TABLE kept AS TABLE c")
        for number in range(5):
            store["c"].put("k", f"undone {number}")
    with Sql(pg_database) as sql_:
        sql_(LOWER[how])
    reads_its_own_writes(pg_database, tmp_path / "data")


def test_a_restore_under_a_running_app_is_named_and_has_a_way_out(
    mortal: Cluster, mortal_url: str, tmp_path: Path
) -> None:
    """H4, I10: `went_back` stands in health, status and doctor; `doctor --adopt` is the way out."""
    data_dir = tmp_path / "data"
    with standfast.open(mortal_url, data_dir=data_dir) as store:
        wait_direct(store)
        store["c"].put("k", "early")
        back_up(mortal)
        soon(
            lambda: is_direct(store) and store["c"].put("k", 2).durable_on == "primary",
            within_s=SOON_S,
        )
        for number in range(5):
            store["c"].put("k", f"undone {number}")
        restore(mortal)
        soon(lambda: store["c"].put("after", 1), within_s=SOON_S)
        soon(lambda: is_direct(store) or "went_back" in store.health().cause, within_s=SOON_S)
    if run(mortal_url, data_dir, "status").code:
        assert "went_back" in run(mortal_url, data_dir, "status").said
        assert "went_back" in run(mortal_url, data_dir, "doctor").said
        ran = run(mortal_url, data_dir, "doctor", "--adopt", "--yes")
        assert ran.code == 0, ran.said
    with standfast.open(mortal_url, data_dir=data_dir) as store:
        wait_direct(store)
    assert "after" in on_primary(mortal_url, "c") or conflicts(mortal_url)


def test_an_empty_database_at_a_new_address_is_taken_over(pg_database: str, tmp_path: Path) -> None:
    """H5: with nothing pending, a new URL to an empty database needs no decision."""
    with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("k", 1)
    with extra_database(pg_database, f"new_{secrets.token_hex(6)}") as url:
        with standfast.open(url, data_dir=tmp_path / "data") as store:
            store["c"].put("new", 1)
            wait_direct(store)
            assert store["c"].put("newer", 1).durable_on == "primary"
            assert store["c"].get("k", consistency="local") is None
        assert on_primary(url, "c") == {"new": 1, "newer": 1}


@pytest.mark.parametrize("idle_s", [0.0, 1.0])
def test_a_database_made_anew_under_a_running_app_is_taken_over(
    pg_database: str, tmp_path: Path, idle_s: float
) -> None:
    """H5: with nothing pending, a database of the same name that was made anew needs no decision:
    what its predecessor had settled is not asked of it.

    It was taken over, then said to have gone back in time, and everything was held for a person.
    """
    name = f"anew_{secrets.token_hex(6)}"
    with (
        extra_database(pg_database, name) as url,
        standfast.open(url, data_dir=tmp_path / "data") as store,
    ):
        wait_direct(store)
        for number in range(3):
            assert store["c"].put("old", number).durable_on == "primary"
        with backends.looking(named(url, "postgres")) as connection:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(drop)
            create_database(connection, name, "template1")
        time.sleep(idle_s)  # whoever notices first: a call, or the threads
        store["c"].put("new", 1)
        wait_direct(store)
        assert store["c"].put("newer", 1).durable_on == "primary"
        assert on_primary(url, "c") == {"new": 1, "newer": 1}
        assert store["c"].get("old") is None


def test_the_same_database_on_a_new_server_is_taken_over(
    mortal: Cluster, mortal_url: str, pg_cluster: Cluster, pg_database: str, tmp_path: Path
) -> None:
    """H5: after an upgrade by dump and restore, with nothing pending, the store is direct."""
    for url in (mortal_url, pg_database):
        with Sql(url) as admin:
            role = admin("SELECT 1 FROM pg_roles WHERE rolname = 'app'")
            admin(f"{'ALTER' if role else 'CREATE'} ROLE app LOGIN SUPERUSER PASSWORD 'app'")
    app_url = url_as(named(mortal_url, pg_database.rpartition("/")[2]), "app")
    with Far(pg_cluster.port) as line:
        with standfast.open(line.url(app_url), data_dir=tmp_path / "data") as store:
            wait_direct(store)
            store["c"].put("k", 1)
        move(pg_database, named(mortal_url, pg_database.rpartition("/")[2]), mortal)
        line.set(upstream_port=mortal.port)
        line.cut()
        with standfast.open(line.url(app_url), data_dir=tmp_path / "data") as store:
            wait_direct(store)
            assert store["c"].put("k", 2).durable_on == "primary"
            assert store["c"].get("k", consistency="local") == 2


def move(url: str, new_url: str, cluster: Cluster) -> None:
    """Dump a database and restore it under the same name elsewhere."""
    name = sql.Identifier(new_url.rpartition("/")[2])
    with backends.looking(named(new_url, "postgres")) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    dump = subprocess.run([cluster.bin / "pg_dump", url], check=True, capture_output=True)
    psql = [cluster.psql, "-q", "-v", "ON_ERROR_STOP=1", new_url]
    subprocess.run(psql, input=dump.stdout, check=True, capture_output=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the machine's clock, as Python sees it, so many seconds off."""
    real, real_ns = time.time, time.time_ns

    def set_off(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(seconds * 1e9))

    return set_off


DAY_S = 86_400.0


def test_a_clock_that_was_slow_holds_nothing(
    far_pg: MakeFar, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    """H6: what was written while the clock was three days slow is not old, and is replayed."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("first", 1)
        with far.line.down():
            clock(-3 * DAY_S)
            store["c"].put("k", 1)
            clock(0)
        wait_direct(store)
        assert on_primary(far.near_url, "c") == {"first": 1, "k": 1}


def test_a_clock_that_was_slow_ends_no_time_to_live(
    far_pg: MakeFar, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    """H6: a document with an hour to live, written with a clock 12 hours slow, has its hour."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("first", 1)
        with far.line.down():
            clock(-DAY_S / 2)
            store["c"].put("k", 1, ttl_s=3600)
            clock(0)
        wait_direct(store)
        assert store["c"].get("k") == 1


def test_a_hold_is_named(far_pg: MakeFar, tmp_path: Path, clock: Callable[[float], None]) -> None:
    """H6, R26: a journal that is held for its age says so in the cause of health."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        far.line.set(max_connections=0)
        far.line.cut()
        clock(-3 * DAY_S)
        store["c"].put("k", 1)
    clock(0)
    far.line.set(max_connections=None)
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        soon(lambda: is_direct(store) or "journal_old" in store.health().cause, within_s=SOON_S)


@pytest.mark.parametrize("call", ["get", "read"])
def test_an_outage_is_not_told_as_missing(far_pg: MakeFar, tmp_path: Path, call: str) -> None:
    """H7, I4, R24: what others may have made since the collection was read is not missing."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("k", 1)
        assert dict(store["c"].items()) == {"k": 1}
        make_elsewhere(far.near_url, tmp_path, "new")
        with far.line.down():
            away(store)
            found: object = "not asked"
            with contextlib.suppress(Unavailable):
                found = (
                    store["c"].get("new", "missing") if call == "get" else store["c"].read("new")
                )
            assert found == "not asked"


def test_the_only_writer_knows_what_is_missing(far_pg: MakeFar, tmp_path: Path) -> None:
    """H7, R24: with `sole_writer` a key that was not there is missing in an outage, too."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data", sole_writer=True) as store:
        wait_direct(store)
        store["c"].put("k", 1)
        assert dict(store["c"].items()) == {"k": 1}
        with far.line.down():
            away(store)
            assert store["c"].get("new", "missing") == "missing"


def make_elsewhere(url: str, folder: Path, key: str) -> None:
    with standfast.open(url, data_dir=folder / "elsewhere") as other:
        wait_direct(other)
        other["c"].put(key, 1)


def away(store: Store) -> None:
    """Return when the store knows that its primary is away."""
    soon(lambda: store["x"].put("x", 1).durable_on == "journal", within_s=SOON_S)


@pytest.mark.parametrize("pending", ["the lock", "a change of it"])
def test_time_to_live_ends_in_an_outage(far_pg: MakeFar, tmp_path: Path, pending: str) -> None:
    """H8, R24: a lock of one second is gone after one second, in an outage as well."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data", sole_writer=True) as store:
        wait_direct(store)
        locks = store["locks"]
        locks.put("first", 0)
        if pending != "the lock":
            locks.put("l", {"n": 1}, ttl_s=1)
        with far.line.down():
            away(store)
            if pending == "the lock":
                locks.put("l", {"n": 1}, ttl_s=1)
            else:
                locks.patch("l", {"n": 2})
            soon(lambda: locks.get("l") is None, within_s=SOON_S)
            locks.put("l", 3, if_absent=True)
        wait_direct(store)
        assert on_primary(far.near_url, "locks")["l"] == 3


def test_time_to_live_of_what_is_mirrored_ends_in_an_outage(
    far_pg: MakeFar, tmp_path: Path
) -> None:
    """H8, R24: the same for a lock on which nothing is pending."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data", sole_writer=True) as store:
        wait_direct(store)
        store["locks"].put("l", 1, ttl_s=1)
        with far.line.down():
            away(store)
            soon(lambda: store["locks"].get("l") is None, within_s=SOON_S)
            store["locks"].put("l", 2, if_absent=True)
        wait_direct(store)
        assert on_primary(far.near_url, "locks") == {"l": 2}
