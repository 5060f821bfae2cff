"""One bad thing stops one thing: a table, a document, a thread, a pooler (rows P1 to P7)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import standfast
from standfast import ConfigError, StandfastError
from standfast.api.sync import Store
from support import backends
from support.cluster import Cluster
from support.far import Far, FarPg
from support.hold import (
    SOON_S,
    conflicts,
    extra_database,
    has,
    is_direct,
    made,
    on_primary,
    run,
    soon,
    wait_direct,
)
from support.pg import Sql, new_role, url_as
from support.pgbouncer import pooled, why_no_pgbouncer
from support.proxy import Proxy

MakeFar = Callable[..., FarPg]


@pytest.fixture
def as_role(pg_admin_url: str) -> Iterator[tuple[str, str]]:
    """A database as its one role sees it, which is no superuser, and as the administrator does."""
    with new_role(pg_admin_url) as role, extra_database(pg_admin_url, f"db_{role}") as url:
        with Sql(url) as admin:
            admin(f'GRANT CREATE ON DATABASE "db_{role}" TO "{role}"')
            admin(f'GRANT USAGE, CREATE ON SCHEMA public TO "{role}"')
        yield url_as(url, role), url


FAULTS = {
    "revoked": ("REVOKE ALL ON t FROM CURRENT_USER", "GRANT ALL ON t TO CURRENT_USER"),
    "renamed": ("ALTER TABLE t RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO t"),
    "row-security": (
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY",
        "ALTER TABLE t NO FORCE ROW LEVEL SECURITY; ALTER TABLE t DISABLE ROW LEVEL SECURITY",
    ),
    "not-null": (
        "ALTER TABLE t ADD x integer NOT NULL DEFAULT 0; ALTER TABLE t ALTER x DROP DEFAULT",
        "ALTER TABLE t DROP x",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_collection_with_a_fault_is_held_by_itself(
    as_role: tuple[str, str], tmp_path: Path, fault: str
) -> None:
    """P1, R21: a repairable fault of one table rejects nothing and holds up nothing else."""
    url, admin_url = as_role
    broken, mended = FAULTS[fault]
    with (
        Far.to(url) as line,
        standfast.open(line.url(url), data_dir=tmp_path / "data") as store,
    ):
        made(store, admin_url, "t", "other")
        keys = [str(number) for number in range(1, 21)]
        with line.down():
            for key in keys:
                store["t"].put(key, 1)
                store["other"].put(key, 1)
            with Sql(url) as owner:
                owner(broken)
        soon(has(admin_url, "other", keys), within_s=SOON_S)
        soon(lambda: store["other"].put("new", 1).durable_on == "primary", within_s=SOON_S)
        assert store.health().cause != "everything is on the primary"
        with Sql(url) as owner:
            owner(mended)
        soon(has(admin_url, "t", keys), within_s=SOON_S)
        wait_direct(store)
        assert conflicts(admin_url) == []


def test_an_event_trigger_that_lets_no_table_be_made_rejects_nothing(
    pg_database: str, tmp_path: Path
) -> None:
    """P1, R21: writes to new collections wait until the database takes tables again.

    What the event trigger raised was taken for the fault of a document, and that rejected.
    """
    with (
        Far.to(pg_database) as line,
        standfast.open(line.url(pg_database), data_dir=tmp_path / "data") as store,
    ):
        made(store, pg_database, "there")
        with line.down():
            for name in ("first", "second", "there"):
                store[name].put("1", 1)
            with Sql(pg_database) as owner:
                owner(
                    "CREATE FUNCTION frozen() RETURNS event_trigger LANGUAGE plpgsql AS"
                    " $$ BEGIN RAISE EXCEPTION 'no changes today'; END $$;"
                    " CREATE EVENT TRIGGER frozen ON ddl_command_end EXECUTE FUNCTION frozen()"
                )
        soon(has(pg_database, "there", ["1"]), within_s=SOON_S)
        soon(lambda: store.health().state == "direct", within_s=SOON_S)
        with pytest.raises(ConfigError, match="of the database") as caught:
            store["third"].put("1", 1)
        assert "event trigger" in caught.value.hint
        with Sql(pg_database) as owner:
            owner("DROP EVENT TRIGGER frozen")
        for name in ("first", "second"):
            soon(has(pg_database, name, ["1"]), within_s=SOON_S)
        assert conflicts(pg_database) == []


def test_an_own_write_that_is_rejected_is_no_change_by_others(
    pg_database: str, tmp_path: Path
) -> None:
    """I2, I5: a delete that follows a rejected write of the same process takes effect.

    Its base had that write in it: the document as it was looked changed by others, and the delete
    gave way to a change that nobody had made.
    """
    with (
        Far.to(pg_database) as line,
        standfast.open(line.url(pg_database), data_dir=tmp_path / "data") as store,
    ):
        made(store, pg_database, "t")
        store["t"].put("k", {"a": 1})
        with line.down():
            store["t"].put("other", {"bad": 1})
            patched = store["t"].patch("k", {"bad": 1})
            deleted = store["t"].delete("k")
            with Sql(pg_database) as owner:
                # Refused at the commit: no transaction with such a row in between comes through.
                owner(
                    "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    " IF new.data->>'bad' IS NOT NULL THEN RAISE check_violation; END IF;"
                    " RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER judge AFTER INSERT OR UPDATE"
                    " ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION judge()"
                )
        soon(lambda: not store.health().lag_ops and is_direct(store), within_s=SOON_S)
        assert store.outcome(patched).state == "rejected"
        assert store.outcome(deleted).state == "applied"
        assert store["t"].get("k") is None


BAD_ROWS = {
    "suppressed": "RETURN NULL",
    "XX001": "RAISE EXCEPTION 'x' USING ERRCODE = 'XX001'",
    "57014": "RAISE EXCEPTION 'x' USING ERRCODE = '57014'",
    "53200": "RAISE EXCEPTION 'x' USING ERRCODE = '53200'",
    "53100": "RAISE EXCEPTION 'x' USING ERRCODE = '53100'",
    "53300": "RAISE EXCEPTION 'x' USING ERRCODE = '53300'",
    "25006": "RAISE EXCEPTION 'x' USING ERRCODE = '25006'",
}


SLOW = ("57014", "53200", "53100", "53300")
QUICK = [one for one in BAD_ROWS if one not in SLOW]
TRIGGER = (
    "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;"
    " CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION judge()"
)
DROPPED = "DROP TRIGGER a ON t; DROP FUNCTION judge()"
TABLE_FAULTS = (
    FAULTS
    | {
        "key": (TRIGGER.format(body="NEW.key := 'x' || NEW.key; RETURN NEW"), DROPPED),
        "suppressed": (TRIGGER.format(body="RETURN NULL"), DROPPED),
        "XX001": (TRIGGER.format(body=BAD_ROWS["XX001"]), DROPPED),
        "refused": (TRIGGER.format(body="RAISE EXCEPTION 'x'"), DROPPED),
        "internal": (
            TRIGGER.format(body="RETURN NEW")
            # A catalogue that is damaged: the server answers XX000, and names no function.
            + "; UPDATE pg_trigger SET tgfoid = 4294967295 WHERE tgname = 'a'; "
            "ALTER TABLE t DISABLE TRIGGER standfast_check_insert;"
            "ALTER TABLE t ENABLE TRIGGER standfast_check_insert",
            "UPDATE pg_trigger SET tgfoid = 'judge'::regproc WHERE tgname = 'a'; " + DROPPED,
        ),
    }
)
AS_ADMIN = {"internal"}


def beside_a_fault(
    urls: tuple[str, str], data_dir: Path, fault: str, *, rounds: int, before: int = 0
) -> None:
    """Writes to ten collections in an outage, one of which is then at fault.

    `rounds` of 25 writes to nine and 10 to the tenth.
    """
    url, admin_url = urls
    broken, mended = TABLE_FAULTS[fault]
    owner_url = admin_url if fault in AS_ADMIN else url
    names = [f"other{number}" for number in range(9)]
    with Far.to(url) as line, standfast.open(line.url(url), data_dir=data_dir) as store:
        made(store, admin_url, "t", *names)
        if before:  # the table has taken writes of a replay a moment ago
            with line.down():
                store["t"].put_many({f"before{number}": 1 for number in range(before)})
            wait_direct(store)
        with line.down():
            for number in range(rounds):
                for index in range(25):
                    store[names[(number + index) % 9]].put(f"{number}-{index}", number)
                store["t"].put_many({f"{number}-{index}": number for index in range(10)})
            with Sql(owner_url) as owner:
                owner(broken)

        def arrived() -> bool:
            return sum(len(on_primary(admin_url, name)) for name in names) == 9 + rounds * 25

        soon(arrived, within_s=SOON_S)
        soon(lambda: "`t` is held" in " ".join(store.health().problems), within_s=SOON_S)
        with Sql(owner_url) as owner:
            owner(mended)
        soon(lambda: len(on_primary(admin_url, "t")) == 1 + before + rounds * 10, within_s=30)
        wait_direct(store)
        assert conflicts(admin_url) == []


@pytest.mark.parametrize("fault", ["XX001"])
def test_nine_collections_go_beside_one_with_a_fault(
    as_role: tuple[str, str], tmp_path: Path, fault: str
) -> None:
    """P1, P2, R21: what nine collections wait for arrives at once; the tenth is held, follows when
    it is repaired, and nothing is rejected."""
    beside_a_fault(as_role, tmp_path / "data", fault, rounds=6, before=5)


@pytest.mark.slow
@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_thousand_writes_go_beside_a_collection_with_a_fault(
    as_role: tuple[str, str], tmp_path: Path, fault: str
) -> None:
    """The same for 1,000 writes to the nine and 400 to the tenth, at every fault."""
    beside_a_fault(as_role, tmp_path / "data", fault, rounds=40, before=5)


def test_a_held_collection_is_named_after_a_restart(
    as_role: tuple[str, str], tmp_path: Path
) -> None:
    """R26: what is held, since when, and what mends it stand in doctor and status while no app
    runs, and in the health of the next one from its beginning; until it is repaired."""
    url, _ = as_role
    data_dir = tmp_path / "data"
    broken, mended = FAULTS["revoked"]

    def held(store: Store) -> str:
        return next((one for one in store.health().problems if "`t` is held" in one), "")

    with Far.to(url) as line:
        with standfast.open(line.url(url), data_dir=data_dir) as store:
            wait_direct(store)
            store["t"].put("k", 0)
            with line.down():
                store["t"].put("k", 1)
                with Sql(url) as owner:
                    owner(broken)
            said = soon(lambda: held(store), within_s=SOON_S)
        for command in ("doctor", "status"):
            assert said.split(":")[0] in run(line.url(url), data_dir, command).said
        with line.down():
            store = standfast.open(line.url(url), data_dir=data_dir)
            assert held(store) == said
        with Sql(url) as owner:
            owner(mended)
        wait_direct(store)
        assert held(store) == ""
        store.close()
    with standfast.open(url, data_dir=data_dir) as store:
        assert held(store) == ""
        assert on_primary(url, "t") == {"k": 1}


@pytest.mark.parametrize(
    "fault", [*(pytest.param(one, marks=pytest.mark.slow) for one in SLOW), *QUICK]
)
def test_a_document_that_never_goes_is_isolated(
    far_pg: MakeFar, tmp_path: Path, fault: str
) -> None:
    """P2, R21: a document that the server fails on is tried alone, and ends in the conflicts."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["t"].put("0", 0)
        row_trigger(far.near_url, f"IF NEW.key = 'bad' THEN {BAD_ROWS[fault]}; END IF; RETURN NEW")
        with far.line.down():
            for key in ("a", "bad", "b"):
                store["t"].put(key, 1)
                store["other"].put(key, 1)
        soon(has(far.near_url, "other", ["a", "bad", "b"]), within_s=SOON_S)
        soon(has(far.near_url, "t", ["a", "b"]), within_s=SOON_S)
        soon(lambda: conflicts(far.near_url), within_s=60.0)
        wait_direct(store)
        assert [found[:2] for found in conflicts(far.near_url)] == [("t", "bad")]


def row_trigger(url: str, body: str) -> None:
    with Sql(url) as admin:
        admin(
            "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS"
            f" $judge$ BEGIN {body}; END $judge$"
        )
        admin("CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION judge()")


def test_what_was_refused_in_doubt_is_not_taken_for_applied(
    pg_cluster: Cluster, pg_database: str, tmp_path: Path
) -> None:
    """P3, R18: an acknowledged update whose first send was refused is applied or in the conflicts.

    It was refused in a transaction whose reply was lost; before it can be confirmed, its lane is
    fenced because of a neighbour's locked row.
    """
    with (
        Proxy(pg_cluster.port) as proxy,
        Sql(pg_database) as direct,
        standfast.open(proxy.url(pg_database), data_dir=tmp_path / "data", deadline_s=5.0) as store,
    ):
        wait_direct(store)
        store["t"].put_many({key: {"n": 0} for key in ("first", "neighbour", "counter")})
        asyncio.run(lose_a_refusal(store.as_async()["t"], proxy, direct))
        soon(lambda: store.health().lag_ops == 0 or is_fenced(pg_database), within_s=10.0)
        direct("COMMIT")
        proxy.delay(0)
        wait_direct(store)
        found = on_primary(pg_database, "t")["counter"]
        assert found.get("mine") == 1 or conflicts(pg_database), found


async def lose_a_refusal(t: Any, proxy: Proxy, direct: Sql) -> None:
    """Two writes in one transaction, one refused, whose reply is lost; then a row is locked."""
    asked = asyncio.Event()

    def change(value: dict[str, int]) -> dict[str, int]:
        if not asked.is_set():
            asked.set()
            direct("UPDATE t SET data = '{\"n\": 7}' WHERE key = 'counter'")
        return value | {"mine": 1}

    # While the writer waits for this one, the others come into one batch.
    proxy.hold_commits(1)
    first = asyncio.ensure_future(t.put("first", {"n": 1}))
    await asyncio.to_thread(proxy.wait_fired, "hold_commit", 1)
    others = [asyncio.ensure_future(t.put("neighbour", {"n": 1}))]
    others.append(asyncio.ensure_future(t.update("counter", change)))
    await asyncio.wait_for(asked.wait(), 10)
    proxy.delay(15)  # so that the lock below is there before the next connection
    proxy.drop_commit_replies(1)
    proxy.thaw()
    await asyncio.to_thread(proxy.wait_fired, "drop_commit_reply", 1)
    direct("BEGIN")
    direct("SELECT 1 FROM t WHERE key = 'neighbour' FOR UPDATE")
    await asyncio.gather(first, *others)  # all of them are acknowledged


def is_fenced(url: str) -> bool:
    with Sql(url) as direct:
        return bool(direct.one("SELECT count(*) FROM standfast.lanes WHERE state = 'fenced'"))


_DESCRIPTORS = """
import json, os, resource, sys, threading, time
import psycopg, standfast
url, data_dir = sys.argv[1:]
killer = psycopg.connect(url, autocommit=True, application_name="tests")
with standfast.open(url, data_dir=data_dir) as store:
    def wait(state, limit_s):
        until = time.monotonic() + limit_s
        while store.health().state != state and time.monotonic() < until:
            time.sleep(0.01)
        return store.health().state == state
    def alive():
        names = {one.name for one in threading.enumerate()}
        return {name for name in names if name.startswith("standfast-")}
    assert wait("direct", 10)
    store["c"].put("k", 1)
    before = alive()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    fillers = []
    try:
        while True:
            fillers.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    killer.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                   " WHERE application_name = 'standfast' AND datname = current_database()")
    until = time.monotonic() + 3
    while time.monotonic() < until:
        try:
            store["c"].put("k", 2)
        except standfast.StandfastError:
            time.sleep(0.05)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for filler in fillers:
        os.close(filler)
    back = wait("direct", 8)
    print(json.dumps([back, len(before - alive()), store.health().healthy]))
"""


def test_a_store_survives_the_lack_of_descriptors(pg_database: str, tmp_path: Path) -> None:
    """P4, R26: after 3 s without file descriptors every thread is there, and the store direct."""
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIPTORS, pg_database, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, 0, True]


@pytest.mark.parametrize("table", ["lanes", "collections"])
def test_an_emptied_table_of_ours_ends_no_thread(
    pg_database: str, tmp_path: Path, table: str
) -> None:
    """P4, R26: an emptied table of ours ends no thread; it is filled again, or health says so."""
    with standfast.open(pg_database, data_dir=tmp_path / "data", deadline_s=0.5) as store:
        made(store, pg_database, "c")
        before = threads()
        with Sql(pg_database) as admin:
            admin(f"TRUNCATE standfast.{table}")
        use(store)
        assert threads() >= before
        soon(lambda: use(store) or not store.health().healthy, within_s=SOON_S)
        if store.health().healthy:
            assert on_primary(pg_database, "c")["19"] == 19


def test_an_identity_that_is_deleted_is_named(pg_database: str, tmp_path: Path) -> None:
    """P4, R26: under an open store whose connections stay, a new collection and a drop are refused
    with the cause, what is journaled is held with it, all other writes go, and no thread fails;
    put back, everything goes."""
    with standfast.open(pg_database, data_dir=tmp_path) as store, Sql(pg_database) as admin:
        wait_direct(store)
        store["c"].put("k", 1)
        store["old"].put("k", 1)
        ((identity,),) = admin("SELECT identity FROM standfast.identity")
        admin("DELETE FROM standfast.identity")
        for call in (lambda: store["new"].put("k", 1), lambda: store.drop("old")):
            with pytest.raises(StandfastError) as caught:
                call()
            assert (caught.value.code, bool(caught.value.hint)) == ("no_identity", True)
        assert store["c"].put("k", 2).durable_on == "primary"
        assert not any("thread" in one for one in store.health().problems)
        admin("INSERT INTO standfast.identity (identity) VALUES (%s)", identity)
        assert store["new"].put("k", 1).durable_on == "primary"
        assert store.drop("old")
        soon(lambda: store.health().healthy, within_s=5.0)
    assert on_primary(pg_database, "c") == {"k": 2}


def test_a_removed_data_directory_ends_no_thread(far_pg: MakeFar, tmp_path: Path) -> None:
    """P4, R26: when the data directory goes, every thread goes on, and health is not green."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data", deadline_s=0.5) as store:
        wait_direct(store)
        store["c"].put("k", 1)
        before = threads()
        shutil.rmtree(tmp_path / "data")
        with far.line.down():
            use(store)
        for _ in range(20):  # through several rounds of connecting and draining
            use(store)
            threading.Event().wait(0.1)
        assert threads() >= before
        assert not store.health().healthy


def use(store: Store) -> bool:
    """Write and read, whatever comes of it; returns whether all is on the primary and came back."""
    fine = 0
    for number in range(20):
        with contextlib.suppress(StandfastError):
            fine += store["c"].put(str(number), number).durable_on == "primary"
        with contextlib.suppress(StandfastError):
            fine += store["c"].get(str(number)) == number
    return fine == 40


def threads() -> set[str]:
    """Those that last as long as a store; the one that makes tables ends with its work."""
    names = {one.name for one in threading.enumerate() if one.name.startswith("standfast-")}
    return names - {"standfast-tables"}


def test_a_trigger_that_changes_keys_refuses_one_call(pg_database: str, tmp_path: Path) -> None:
    """P5: a write whose key a trigger changes is refused by name, leaves nothing, stops nothing."""
    with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["t"].put("first", 1)
        row_trigger(pg_database, "NEW.key := lower(trim(NEW.key)); RETURN NEW")
        with pytest.raises(StandfastError) as caught:
            store["t"].put(" Key ", 1)
        assert caught.value.code != "closed", caught.value
        assert "t" in str(caught.value)
        assert on_primary(pg_database, "t") == {"first": 1}
        assert store["t"].put("second", 1).durable_on == "primary"


def test_a_pooler_that_nobody_named_is_recognised(pg_database: str, tmp_path: Path) -> None:
    """P6: through an unnamed transaction pooler nothing of a session of ours reaches others."""
    if why := why_no_pgbouncer():
        pytest.skip(why)
    names = ("lock_timeout", "enable_seqscan", "enable_hashjoin", "plan_cache_mode")
    show = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    with Sql(pg_database) as direct, pooled(pg_database, tmp_path / "pooler") as url:
        expected = direct(show)
        with standfast.open(url, data_dir=tmp_path / "data") as store:
            wait_direct(store)
            for number in range(10):
                assert store["c"].put(str(number), number).durable_on == "primary"
                assert store["c"].get(str(number)) == number
            with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
                assert other.execute(show).fetchall() == expected
        assert len(on_primary(pg_database, "c")) == 10


def test_a_receipt_outlives_a_setting_that_is_switched_off(tmp_path: Path) -> None:
    """P7, I1: with `synchronous_commit = off` reloaded, a receipt still means a commit on disk."""
    # The writer of the log sleeps, so what was not flushed by its commit is lost for sure.
    conf = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    with Cluster(fsync=True, conf=conf) as cluster:
        url = cluster.url()
        store = standfast.open(url, data_dir=tmp_path / "data")
        wait_direct(store)
        store["c"].put("first", 1)
        cluster.configure({"synchronous_commit": "off"})
        cluster.reload()
        with Sql(url) as other:
            soon(lambda: other.one("SHOW synchronous_commit") == "off", within_s=10.0)
        receipts = [store["c"].put(str(number), 1) for number in range(20)]
        cluster.kill()
        store.close(timeout_s=0.0)
        cluster.start()
        backends.wait_answering(url)
        sure = {str(number) for number, one in enumerate(receipts) if one.durable_on == "primary"}
        assert sure - on_primary(url, "c").keys() == set()
