"""What the primary refuses reaches its caller alone; the breaker stays closed and others go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import standfast
from standfast import ConfigError, DataError, Store, Unavailable
from standfast.engine.background import StateChange
from support.cluster import Cluster


@pytest.fixture
def store(pg_prepared: str, tmp_path: Path) -> Iterator[Store]:
    """A store that is direct, with one document in each of two collections."""
    with standfast.open(pg_prepared, data_dir=tmp_path / "storage", deadline_s=2.0) as store:
        store["views"].put("1", {"n": 1})
        store["others"].put("1", {"n": 1})
        yield store


@pytest.fixture
def changes(store: Store) -> list[StateChange]:
    """Every change of the store's state from here on."""
    seen: list[StateChange] = []
    store.on_state_change(seen.append)
    return seen


def owner(pg_prepared: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(pg_prepared, autocommit=True)


def refuse_in_sql(conn: psycopg.Connection[tuple[object, ...]], condition: str, error: str) -> None:
    """A trigger on `views` that raises an error for rows in which the condition holds."""
    conn.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {condition} THEN RAISE EXCEPTION 'secret-canary' USING ERRCODE = '{error}'; END IF;"
        " RETURN NEW; END $$"
    )
    conn.execute(
        "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON views"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


def together(store: Store, keys: list[str]) -> dict[str, BaseException | None]:
    """Put every key from a thread of its own at once; the error of each."""
    errors: dict[str, BaseException | None] = {}
    start = threading.Barrier(len(keys))

    def put(key: str) -> None:
        start.wait()
        try:
            store["views"].put(key, {"n": 2})
            errors[key] = None
        except standfast.StandfastError as error:
            errors[key] = error

    threads = [threading.Thread(target=put, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def put_together(store: Store, *keys: str) -> None:
    with store.batch() as batch:
        for key in keys:
            batch.put("views", key, 1)


@pytest.mark.parametrize("code", ["23514", "22023", "P0001"])
def test_a_refused_value_is_its_callers_alone(
    store: Store, changes: list[StateChange], pg_prepared: str, code: str
) -> None:
    """I4, I6: of twenty puts at once the one that a constraint refuses fails, with no word of its
    content, and the other nineteen are on the primary; the store stays direct."""
    with owner(pg_prepared) as conn:
        refuse_in_sql(conn, "NEW.key = 'bad'", code)
    errors = together(store, ["bad", *map(str, range(19))])
    refused = errors.pop("bad")
    assert isinstance(refused, DataError)
    assert "secret-canary" not in f"{refused} {refused.hint}"
    assert set(errors.values()) == {None}
    assert store["views"].get("bad") is None
    assert store["views"].get("18") == {"n": 2}
    assert (store.health().state, changes) == ("direct", [])


def test_a_batch_with_a_refused_value_is_refused_whole(store: Store, pg_prepared: str) -> None:
    """I6: all or nothing, also when the database itself refuses one of the writes."""
    with owner(pg_prepared) as conn:
        refuse_in_sql(conn, "NEW.key = 'bad'", "23514")
    with pytest.raises(DataError):
        put_together(store, "good", "bad")
    assert store["views"].get("good") is None


def test_a_locked_row_waits_alone(
    store: Store, changes: list[StateChange], pg_prepared: str
) -> None:
    """Breaker, R3: a row that somebody has locked takes its writes into the journal, in order; the
    other writes stay direct; a conditional one is refused, and what waits is applied afterwards."""
    views = store["views"]
    with psycopg.connect(pg_prepared) as other:
        other.execute("SELECT 1 FROM views WHERE key = '1' FOR UPDATE")
        assert views.put("1", {"n": 2}).durable_on == "journal"
        assert views.put("2", {"n": 2}).durable_on == "primary"
        assert views.increment("1", "/n", 1) == 3
        with pytest.raises(Unavailable):
            views.put("1", {"n": 9}, if_version=1)
        assert views.get("1") == {"n": 3}
        assert {key: value["n"] for key, value in views.items()} == {"1": 3, "2": 2}
        assert views.count() == 2
    store.flush(timeout_s=20)
    with owner(pg_prepared) as conn:
        row = conn.execute("SELECT data FROM views WHERE key = '1'").fetchone()
    assert row == ({"n": 3},)
    assert [change.after for change in changes] == []


def test_a_deadlock_is_tried_again(store: Store, pg_prepared: str) -> None:
    """Breaker: when the server ends our transaction to break a deadlock, it is run again, and its
    caller hears nothing of it."""
    store["views"].put("2", {"n": 1})
    with psycopg.connect(pg_prepared) as other:
        other.execute("SET deadlock_timeout = '10s'")
        other.execute("SELECT 1 FROM views WHERE key = '2' FOR UPDATE")
        done: list[object] = []

        def write() -> None:
            with store.batch() as batch:
                batch.increment("views", "1", "/n", 1)
                batch.increment("views", "2", "/n", 1)
            done.append(batch.receipts)

        writer = threading.Thread(target=write)
        writer.start()
        # Ours has row 1 and waits for row 2; this closes the circle, whoever is ended.
        try:
            other.execute("SET lock_timeout = '5s'")
            other.execute("SELECT 1 FROM views WHERE key = '1' FOR UPDATE")
        except psycopg.errors.OperationalError:
            pass
        other.rollback()
        writer.join()
    store.flush(timeout_s=20)
    assert len(done) == 1
    assert [store["views"].get(key)["n"] for key in ("1", "2")] == [2, 2]


def test_a_time_limit_of_the_role_is_no_outage(
    store: Store, changes: list[StateChange], pg_prepared: str
) -> None:
    """Breaker: 57014 is the answer of a living server; the caller hears of it, the mode stays."""
    with owner(pg_prepared) as conn:
        refuse_in_sql(conn, "NEW.key = 'slow'", "57014")
    with pytest.raises(Unavailable) as caught:
        store["views"].put("slow", 1)
    assert caught.value.code == "timeout"
    assert store["views"].put("2", 1).durable_on == "primary"
    assert changes == []


def test_a_full_disk_of_the_server_is_told(
    store: Store, changes: list[StateChange], pg_prepared: str
) -> None:
    """I4: 53100 is a sure refusal: one clear error, nothing is diverted, the mode stays."""
    with owner(pg_prepared) as conn:
        refuse_in_sql(conn, "NEW.key = 'big'", "53100")
    with pytest.raises(Unavailable) as caught:
        store["views"].put("big", 1)
    assert caught.value.code == "disk_full"
    assert store.health().lag_ops == 0
    assert changes == []


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("DROP TABLE views", "no_table"),
        ("ALTER TABLE views DROP COLUMN raw", "no_column"),
        ("ALTER TABLE views RENAME TO elsewhere", "no_table"),
    ],
)
def test_a_changed_table_fails_its_own_writes(
    store: Store, changes: list[StateChange], pg_prepared: str, statement: str, code: str
) -> None:
    """I4, I6: a table that was dropped or changed under the store is an error of its writes, or is
    made whole again; the other collections are written as before, and the mode stays."""
    with owner(pg_prepared) as conn:
        conn.execute(statement)
    (error,) = together(store, ["1"]).values()
    if error is None:
        assert store["views"].get("1") == {"n": 2}
    else:
        assert isinstance(error, ConfigError)
        assert error.code == code
    assert store["others"].put("1", {"n": 2}).durable_on == "primary"
    assert store["others"].get("1") == {"n": 2}
    assert changes == []


def test_revoked_rights_are_told(pg_admin_url: str, pg_database: str, tmp_path: Path) -> None:
    """I4: a role that may no longer write hears so, and goes on where it may."""
    role = f"limited_{pg_database.rpartition('_')[2]}"
    with owner(pg_database) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
        conn.execute(f"GRANT ALL ON SCHEMA public TO {role}")
        conn.execute(f"GRANT CREATE ON DATABASE {conn.info.dbname} TO {role}")
        info = conn.info
        url = f"postgresql://{role}:p@{info.host}:{info.port}/{info.dbname}"
        with standfast.open(url, data_dir=tmp_path / "s", deadline_s=2.0) as store:
            store["mine"].put("1", 1)
            store["others"].put("1", 1)
            conn.execute("ALTER TABLE mine OWNER TO CURRENT_USER")
            conn.execute(f"REVOKE ALL ON mine FROM {role}")
            with pytest.raises(ConfigError) as caught:
                store["mine"].put("1", 2)
            assert caught.value.code == "no_rights"
            assert store["others"].put("1", 2).durable_on == "primary"
            assert store.health().state == "direct"
        conn.execute(f"DROP OWNED BY {role} CASCADE")
        conn.execute(f"DROP ROLE {role}")


def test_too_many_connections_are_waited_out(tmp_path: Path) -> None:
    """Breaker: a server without a free connection is an outage of connections only: writes wait in
    the journal, and go on when there is one."""
    conf = {"max_connections": "8", "superuser_reserved_connections": "0"}
    with Cluster(conf=conf) as cluster:
        taken = [psycopg.connect(cluster.url()) for _ in range(8)]
        with standfast.open(cluster.url(), data_dir=tmp_path / "storage", deadline_s=1.0) as store:
            assert store["views"].put("1", 1).durable_on == "journal"
            assert store.health().cause == "too_many_connections"
            for conn in taken:
                conn.close()
            store.flush(timeout_s=20)
            assert store["views"].put("1", 2).durable_on in ("primary", "journal")


def test_a_standby_is_no_primary(tmp_path: Path) -> None:
    """I4: a server that refuses every write is away for writes: nothing is lost, and it is used
    again when it takes them."""
    with (
        Cluster() as cluster,
        standfast.open(cluster.url(), data_dir=tmp_path / "storage", deadline_s=1.0) as store,
    ):
        store["views"].put("1", 1)
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            conn.execute("SELECT pg_reload_conf()")
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'standfast'"
            )
        assert store["views"].put("1", 2).durable_on == "journal"
        assert store["views"].get("1") == 2
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            conn.execute("SET default_transaction_read_only = off")
            conn.execute("ALTER SYSTEM RESET default_transaction_read_only")
            conn.execute("SELECT pg_reload_conf()")
        store.flush(timeout_s=20)
        with psycopg.connect(cluster.url()) as conn:
            assert conn.execute("SELECT data FROM views").fetchall() == [(2,)]
