"""The proxy and the tools for single backends do to a connection what they say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import psutil
import psycopg
import pytest

from support import backends
from support.cluster import Cluster
from support.pg import Sql
from support.proxy import Held, Proxy


@pytest.fixture
def counters(pg_database: str) -> Iterator[Sql]:
    """A direct look at a table with one counter."""
    with Sql(pg_database) as direct:
        direct("CREATE TABLE t (k text PRIMARY KEY, n bigint NOT NULL)")
        direct("INSERT INTO t VALUES ('a', 0)")
        yield direct


@pytest.fixture
def proxy(pg_cluster: Cluster) -> Iterator[Proxy]:
    with Proxy(pg_cluster.port) as proxy:
        yield proxy


def value(direct: Sql) -> int:
    return direct.one("SELECT n FROM t")


ADD = "UPDATE t SET n = n + 1"


def plain(connection: psycopg.Connection) -> None:
    connection.execute(ADD)


def block(connection: psycopg.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute(ADD)
    connection.execute("COMMIT")


def pipelined(connection: psycopg.Connection) -> None:
    with connection.pipeline():
        connection.execute("BEGIN")
        assert connection.execute("SELECT n FROM t FOR UPDATE").fetchone()
        connection.execute("WITH d AS (UPDATE t SET n = n + 1 RETURNING 1) SELECT count(*) FROM d")
        connection.execute("COMMIT")


def simple(connection: psycopg.Connection) -> None:
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(f"BEGIN; {ADD}; COMMIT")


Way = Callable[[psycopg.Connection], None]
WAYS = [plain, block, pipelined, simple]


def connect(proxy: Proxy, url: str) -> psycopg.Connection:
    """Everything is prepared at once, so that COMMIT, too, comes as a prepared statement."""
    return psycopg.connect(
        proxy.url(url), autocommit=True, prepare_threshold=0, application_name=backends.STORE
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_dropped_reply_is_that_of_a_commit_that_happened(
    proxy: Proxy, counters: Sql, pg_database: str, way: Way
) -> None:
    """drop_commit_reply: the write is there, its client knows nothing, and reads are untouched."""
    for number in (1, 2):
        with connect(proxy, pg_database) as connection:
            way(connection)
            proxy.drop_commit_replies(1)
            connection.execute("SELECT 1")
            connection.execute("BEGIN READ ONLY")
            connection.execute("SELECT n FROM t")
            connection.execute("COMMIT")
            assert proxy.fired["drop_commit_reply"] == number - 1
            with pytest.raises(psycopg.OperationalError):
                way(connection)
        proxy.wait_fired("drop_commit_reply", number)
        assert value(counters) == 2 * number
        assert proxy.armed["drop_commit_reply"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_reset_before_the_commit_leaves_nothing(
    proxy: Proxy, counters: Sql, pg_database: str, way: Way
) -> None:
    """rst_before_commit: the client is cut off and nothing is written."""
    with connect(proxy, pg_database) as connection:
        way(connection)
        proxy.reset_before_commits(1)
        with pytest.raises(psycopg.OperationalError):
            way(connection)
    assert proxy.fired["rst_before_commit"] == 1
    assert value(counters) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_held_commit_is_a_zombie(proxy: Proxy, counters: Sql, pg_database: str, way: Way) -> None:
    """hold_commit: after the client has gone, the thawed commit takes effect all the same."""
    connection = connect(proxy, pg_database)
    proxy.hold_commits(1)
    thread = threading.Thread(target=give_up, args=(way, connection))
    thread.start()
    proxy.wait_fired("hold_commit", 1)
    shut(connection)
    thread.join(10)
    assert not thread.is_alive()
    connection.close()
    assert value(counters) == 0
    assert proxy.held == 1
    pid = backends.wait_backend(pg_database, lambda one: True).pid
    proxy.thaw()
    backends.wait_gone(pid)
    assert value(counters) == 1


def give_up(way: Way, connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        way(connection)


def shut(connection: psycopg.Connection) -> None:
    """What a deadline does to its connection."""
    with socket.socket(fileno=connection.fileno()) as found:
        try:
            found.shutdown(socket.SHUT_RDWR)
        finally:
            found.detach()


def test_a_write_that_fails_is_not_the_one_to_drop(
    proxy: Proxy, counters: Sql, pg_database: str
) -> None:
    """drop_commit_reply waits for a write that commits: errors and roll-backs pass."""
    with connect(proxy, pg_database) as connection:
        proxy.drop_commit_replies(1)
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO t VALUES ('a', 1)")
        connection.execute("BEGIN")
        connection.execute(ADD)
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("UPDATE t SET n = n / 0")
        connection.execute("COMMIT")
        assert proxy.fired["drop_commit_reply"] == 0
        with pytest.raises(psycopg.OperationalError):
            connection.execute(ADD)
    assert value(counters) == 1


@pytest.mark.parametrize("held", ["thaw", "cut", "keep"])
def test_a_black_hole_takes_everything_and_can_be_healed(
    proxy: Proxy, counters: Sql, pg_database: str, held: Held
) -> None:
    """blackhole: nothing comes through; afterwards new connections work, and held ones as said."""
    old = connect(proxy, pg_database)
    proxy.blackhole()
    done = threading.Event()
    thread = threading.Thread(target=add_unless_cut, args=(old, done))
    thread.start()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url(pg_database), connect_timeout=2)
    assert value(counters) == 0
    proxy.heal(held=held)
    with connect(proxy, pg_database) as fresh:
        fresh.execute("SELECT 1")
    if held == "keep":
        assert not done.is_set()
        assert value(counters) == 0
        proxy.thaw()
    thread.join(10)
    assert done.is_set()
    assert value(counters) == (0 if held == "cut" else 1)
    old.close()


def add_unless_cut(connection: psycopg.Connection, done: threading.Event) -> None:
    try:
        connection.execute(ADD)
    except psycopg.OperationalError:
        pass
    finally:
        done.set()


def test_refused_and_healed(proxy: Proxy, counters: Sql, pg_database: str) -> None:
    """refuse: old connections are cut and new ones refused, on the same port until it heals."""
    for _ in range(3):
        with connect(proxy, pg_database) as connection:
            proxy.refuse()
            with pytest.raises(psycopg.OperationalError):
                connection.execute(ADD)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            connect(proxy, pg_database)
        proxy.heal()
    with connect(proxy, pg_database) as connection:
        connection.execute(ADD)
    assert value(counters) == 1


def test_slow_lines_change_nothing(proxy: Proxy, counters: Sql, pg_database: str) -> None:
    """delay, trickle: every byte comes through in order, large values too, and commits are seen."""
    text = "ab" * 100_000
    with connect(proxy, pg_database) as connection:
        assert connection.execute("SELECT %s", [text]).fetchone() == (text,)
        proxy.delay(2)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        proxy.trickle(3, 0.1)
        proxy.drop_commit_replies(1)
        with pytest.raises(psycopg.OperationalError):
            pipelined(connection)
        proxy.heal()
    assert value(counters) == 1


def test_a_client_that_leaves_leaves_no_link(proxy: Proxy, pg_database: str) -> None:
    """The proxy keeps nothing of a connection that has ended."""
    connection = connect(proxy, pg_database)
    (backend,) = backends.backends(pg_database)
    connection.close()
    backends.wait_gone(backend.pid)
    with connect(proxy, pg_database):
        assert proxy.links == 1


def test_one_backend_stands_still_and_the_others_go_on(
    pg_cluster: Cluster, counters: Sql, pg_database: str
) -> None:
    """A frozen backend answers nobody, is thawed at the end, and ends only then if terminated."""
    connection = psycopg.connect(pg_database, autocommit=True, application_name="standfast")
    (backend,) = backends.backends(pg_database)
    assert backend.state == "idle"
    done = threading.Event()
    with backends.frozen(pg_cluster, backend.pid):
        thread = threading.Thread(target=add_unless_cut, args=(connection, done))
        thread.start()
        assert psutil.Process(backend.pid).status() == psutil.STATUS_STOPPED
        assert value(counters) == 0
        assert backends.terminate(pg_database) == 1
        assert psutil.pid_exists(backend.pid)
        assert not done.is_set()
    thread.join(10)
    assert done.is_set()
    backends.wait_gone(backend.pid)
    connection.close()
    with pytest.raises(ProcessLookupError):
        backends.freeze(pg_cluster, pg_cluster.pid)


def test_a_backend_does_not_stay_frozen(pg_cluster: Cluster, pg_database: str) -> None:
    """Even while its block goes on, a frozen backend is thawed from outside when its time is up."""
    with psycopg.connect(pg_database, autocommit=True, application_name="standfast") as connection:
        (backend,) = backends.backends(pg_database)
        with backends.frozen(pg_cluster, backend.pid, limit_s=0.2):
            assert connection.execute("SELECT 1").fetchone() == (1,)
