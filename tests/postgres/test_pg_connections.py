"""One connection with a deadline: a server that hangs, ends, refuses, or is not there."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import pytest

from contract.suite.backend import make_lane, make_op
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from standfast.errors import Unavailable
from support.cluster import Cluster
from support.lines import (
    GATE,
    PATIENCE_S,
    WAITING,
    add,
    bounded,
    connected,
    failure,
    line,
    on_port,
    password_of,
    soon,
    until,
)
from support.pg import Sql


@pytest.fixture
def hole() -> Iterator[int]:
    """The port of a socket that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server of this file's own, which may be frozen."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def frozen(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Freezes the server; it is thawed when the test ends."""
    yield cluster.freeze
    cluster.thaw()


# ---- connecting


def test_i8_a_port_that_never_answers(pg_database: str, hole: int) -> None:
    """I8: connecting ends at its deadline though the other side took the connection; nothing of
    the password is shown."""
    with line(on_port(pg_database, hole)) as backend:
        secret = password_of(pg_database)
        failure(lambda: backend.connect(soon(0.3)), "connection", secret=secret)
        failure(lambda: backend.connect(soon(-1)), "connection", secret=secret)
        assert not backend.connected


def test_a_port_that_refuses(pg_database: str, closed_port: int) -> None:
    """I4: a refused connection is said at once, long before the deadline."""
    with line(on_port(pg_database, closed_port)) as backend:
        secret = password_of(pg_database)
        failure(lambda: backend.connect(soon(10 * PATIENCE_S)), "connection", secret=secret)


def test_a_wrong_password(pg_database: str) -> None:
    """I4: a wrong password is no outage of the network, and is not shown."""
    parts = urlsplit(pg_database)
    wrong = "-".join(("another", "secret"))  # a traceback shows this line too
    netloc = parts.netloc.replace(parts.password or "", wrong)
    with line(urlunsplit(parts._replace(netloc=netloc))) as backend:
        failure(lambda: backend.connect(soon(PATIENCE_S)), "auth", secret=wrong)


@pytest.mark.parametrize("first", ["hole", "closed_port"])
def test_a_dead_first_host_of_several(
    pg_database: str, first: str, request: pytest.FixtureRequest
) -> None:
    """I8: each host of a URL gets its share of the time, so a dead one does not use it up."""
    parts = urlsplit(pg_database)
    dead: int = request.getfixturevalue(first)
    user, _, place = parts.netloc.rpartition("@")
    url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{dead},{place}"))
    with line(url) as backend:
        server_identity = bounded(lambda: backend.connect(soon(4)))
        assert server_identity.identity is None
        assert server_identity.system


def test_who_answers(pg_database: str, db: Sql) -> None:
    """I9: connecting tells the history and the system that answer, and none where no schema is."""
    with line(pg_database) as backend:
        system = db.one("SELECT system_identifier::text FROM pg_control_system()")
        server_identity = backend.connect(soon(PATIENCE_S))
        assert (server_identity.identity, server_identity.system) == (None, system)
        backend.apply([add(make_lane(), 1)])
        server_identity = backend.connect(soon(PATIENCE_S))
        assert (server_identity.identity, server_identity.system) == (backend.identity(), system)


def test_i4_a_server_that_takes_no_writes(pg_database: str, db: Sql) -> None:
    """I4: a standby, or a server that was made read-only, is said when connecting."""
    db(f"ALTER DATABASE {db.connection.info.dbname} SET default_transaction_read_only = on")
    with line(pg_database) as backend:
        failure(lambda: backend.connect(soon(PATIENCE_S)), "read_only")
        assert not backend.connected
        db(f"ALTER DATABASE {db.connection.info.dbname} RESET default_transaction_read_only")
        backend.connect(soon(PATIENCE_S))
        assert backend.apply([add(make_lane(), 1)]).watermark == 1


def test_no_descriptor_is_left_behind(pg_database: str, hole: int) -> None:
    """I7: a connection and its deadline give their descriptors back, whether it was made anew,
    lost, or never made."""

    def fds() -> int:
        return len(os.listdir("/proc/self/fd"))

    with line(pg_database) as backend, line(on_port(pg_database, hole)) as nowhere:
        backend.connect(soon(PATIENCE_S))
        before = fds()
        for _ in range(25):
            backend.connect(soon(PATIENCE_S))
        for _ in range(25):
            backend.dedicated.drop()
            backend.connect(soon(PATIENCE_S))
            with pytest.raises(Unavailable):
                nowhere.connect(soon(0.001))
        assert fds() == before
        backend.close()
        assert fds() == before - 2  # the socket and its duplicate


# ---- a connection that ends


def test_nothing_is_sent_without_a_connection(pg_database: str) -> None:
    """I2: without a connection a call says that nothing was sent, and makes none by itself."""
    with line(pg_database) as backend:
        failure(lambda: backend.apply([add(make_lane(), 1)]), "connection")
        failure(lambda: backend.observe("things", ["1"], deadline=soon(1)), "connection")
        failure(lambda: backend.fence([make_lane()]), "connection")
        backend.connect(soon(PATIENCE_S))
        assert backend.apply([add(make_lane(), 1)]).watermark == 1
        backend.close()
        failure(lambda: backend.connect(soon(PATIENCE_S)), "closed")
        failure(lambda: backend.apply([add(make_lane(), 1)]), "connection")


def test_a_session_that_was_ended_while_idle(pg_database: str, db: Sql) -> None:
    """I2: when the server ended the session before the call, nothing was sent: `connection`."""
    with connected(pg_database) as backend:
        db(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        failure(lambda: backend.apply([add(make_lane(), 1)]), "connection")
        assert not backend.connected
        backend.connect(soon(PATIENCE_S))
        assert backend.apply([add(make_lane(), 1)]).outcomes[0].version == 1


def test_a_session_that_ends_inside_a_write(pg_database: str, db: Sql) -> None:
    """I2: once something was sent the outcome is open: `connection_lost`."""
    with connected(pg_database) as backend:
        lane = make_lane()
        backend.apply([add(lane, 1)])
        db(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
        )
        db("CREATE TRIGGER die BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION die()")
        failure(lambda: backend.apply([add(lane, 2)], expected_watermark=1), "connection_lost")
        assert not backend.connected
        db("DROP TRIGGER die ON things")
        backend.connect(soon(PATIENCE_S))
        assert backend.apply([add(lane, 2)], expected_watermark=1).outcomes[0].version == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_connection_survives_any_number_of_refused_batches(
    pg_database: str, db: Sql, seed: int
) -> None:
    """I4: batches that the server or the gate refuses, however often and in whatever order, leave
    the connection as good as it was: also what the driver believes to have prepared there."""
    lane, fenced, dice, seq = make_lane(), make_lane(), random.Random(seed), 2
    with connected(pg_database) as other:
        other.apply([add(lane, 1, "ok"), add(lane, 2, "locked")])
        other.fence([fenced])
    with connected(pg_database) as backend, db.connection.transaction():
        db("SELECT FROM things WHERE key = 'locked' FOR UPDATE")
        for _ in range(12):
            what = dice.choice(["fenced", "locked", "ok", "put"])
            for _ in range(dice.randint(1, 9)):
                seq += 1
                if what == "fenced":
                    failure(lambda: backend.apply([add(fenced, seq)]), what)  # noqa: B023
                elif what == "locked":
                    late = add(lane, seq, "locked")
                    failure(lambda: backend.apply([late], lock_timeout_s=0.001), what)  # noqa: B023
                else:
                    op = (
                        add(lane, seq, "ok")
                        if what == "ok"
                        else make_op(lane, seq, "put", "p", "1")
                    )
                    assert backend.apply([op], directory=fenced).watermark == seq
                assert backend.connected


def test_what_a_failed_batch_skipped_is_not_taken_for_prepared(pg_database: str, db: Sql) -> None:
    """I4: statements behind the one that failed were never prepared on the server; the batch works
    when it comes again."""
    lane, fenced, directory = make_lane(), make_lane(), make_lane()
    with connected(pg_database) as other:
        other.apply([add(lane, 1)])
        other.fence([fenced])
    with connected(pg_database) as backend:
        # Two returns to a state in which nothing was prepared yet: the driver looks at the first.
        for _ in range(2):
            failure(lambda: backend.apply([add(fenced, 1)]), "fenced")
        with db.connection.transaction():
            db("SELECT FROM things FOR UPDATE")
            for _ in range(8):
                batch = [add(lane, 2)]
                failure(
                    lambda: backend.apply(batch, directory=directory, lock_timeout_s=0.001),  # noqa: B023
                    "locked",
                )
        for seq in range(2, 9):
            assert backend.apply([add(lane, seq)], directory=directory).watermark == seq


def test_i8_a_server_that_hangs(cluster: Cluster, frozen: Callable[[], None]) -> None:
    """I8, I2: a frozen server, whose kernel goes on acknowledging, ends no wait: the deadline
    does.  The outcome is unknown, and after connecting anew the same op takes effect once."""
    secret, lane = cluster.password, make_lane()
    with connected(cluster.url()) as backend, connected(cluster.url()) as reader:
        backend.apply([add(lane, 1, "frozen")], deadline=soon(PATIENCE_S))
        frozen()
        write = add(lane, 2, "frozen")
        failure(lambda: backend.apply([write], deadline=soon(0.3)), "deadline", secret=secret)
        read = lambda: reader.observe("things", ["frozen"], deadline=soon(0.3))  # noqa: E731
        failure(read, "deadline", secret=secret)
        for hung in (backend, reader):
            assert not hung.connected
            failure(lambda hung=hung: hung.apply([write]), "connection", secret=secret)
            connect = lambda hung=hung: hung.connect(soon(0.3))  # noqa: E731
            failure(connect, "connection", secret=secret)
        cluster.thaw()
        backend.connect(soon(PATIENCE_S))
        reader.connect(soon(PATIENCE_S))
        assert backend.apply([write], expected_watermark=1).watermark == 2
        (state,) = reader.observe("things", ["frozen"]).states
        assert (state.text, state.version) == ("2", 2)


def test_closing_ends_a_call_of_another_thread(pg_database: str, db: Sql) -> None:
    """I8: `close` does not wait for a call without a deadline, and the call ends."""
    lane = make_lane()
    with connected(pg_database) as backend, ThreadPoolExecutor(1) as pool:
        backend.apply([add(lane, 1)])
        db(GATE)
        with db.connection.transaction():
            db("SELECT FROM gate FOR UPDATE")
            call = pool.submit(backend.apply, [add(lane, 2)])
            until(db, WAITING)
            bounded(backend.close)
            with pytest.raises(Unavailable):
                call.result(PATIENCE_S)
        assert not backend.connected


def test_what_one_handle_closed_is_not_lent_to_another(pg_database: str) -> None:
    """I4: a thread that closes its connection closes it for itself alone: whoever borrows one of
    the others' gets one that works, and only a set that was closed as a whole says "closed"."""
    pool = PostgresBackend(parse_url(pg_database), max_connections=3)
    try:
        handles = [pool.new_handle() for _ in range(3)]
        handles[0].connect(soon(PATIENCE_S))
        handles[1].connect(soon(PATIENCE_S))
        for handle in handles[1:]:
            handle.close()
            assert pool.read("things", ["1"]) == {}
        handles[0].close()
        failure(lambda: pool.read("things", ["1"]), "closed")
    finally:
        pool.close()
