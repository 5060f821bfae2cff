"""One connection and several threads: it is made anew, or refused, while others are about."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.suite.backend import make_lane
from standfast.errors import CorruptData, Unavailable
from standfast.ops.types import ServerIdentity
from support.lines import GATE, PATIENCE_S, WAITING, add, bounded, connected, line, soon, until
from support.pg import Sql


@pytest.fixture
def db(pg_database: str) -> Sql:
    return Sql(pg_database)


def test_it_is_made_anew_under_somebody_who_waits_in_it(pg_database: str, db: Sql) -> None:
    """I8: a thread that waits for the server is cut off when another one makes the connection
    anew, and its library's memory is not freed under it; the new connection is of use at once."""
    with connected(pg_database) as backend, ThreadPoolExecutor(1) as pool, db:
        backend.apply([add(make_lane(), 1)])
        db(GATE)
        for _ in range(10):
            with db.connection.transaction():
                db("SELECT FROM gate FOR UPDATE")
                waiting = pool.submit(backend.apply, [add(make_lane(), 1)])
                with Sql(pg_database) as look:
                    until(look, WAITING)
                bounded(lambda: backend.connect(soon(PATIENCE_S)))
                error = waiting.exception(PATIENCE_S)
                assert isinstance(error, Unavailable)
                assert error.code in ("connection_lost", "deadline")
            assert backend.connected
            assert backend.apply([add(make_lane(), 1, "2")]).watermark == 1


def test_many_threads_use_and_renew_one_line(pg_database: str, db: Sql) -> None:
    """I2: whatever other threads do to the connection meanwhile, a batch takes effect once or its
    caller hears that it did not, or that nobody knows."""
    count, unknown = [0], [0]
    counting = threading.Lock()
    with connected(pg_database) as backend, db:
        backend.apply([add(make_lane(), 1)])
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                try:
                    backend.apply([add(make_lane(), 1)], deadline=soon(PATIENCE_S))
                except Unavailable as error:
                    with counting:
                        unknown[0] += error.code != "connection"
                else:
                    with counting:
                        count[0] += 1

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(write) for _ in range(3)]
            for _ in range(60):
                backend.connect(soon(PATIENCE_S))
                backend.observe("things", ["1"], deadline=soon(PATIENCE_S))
            over.set()
            for writer in writers:
                writer.result(PATIENCE_S)
        found = db.one("SELECT data::text::int FROM things WHERE key = '1'")
    assert count[0] > 0
    assert 1 + count[0] <= found <= 1 + count[0] + unknown[0]


def test_nobody_uses_what_is_not_accepted(pg_database: str, db: Sql) -> None:
    """I9: while it is judged which database has answered, no other thread gets the connection, and
    when it is the wrong one there is none."""
    with line(pg_database) as backend, ThreadPoolExecutor(1) as pool, db:

        def refuse(server_identity: ServerIdentity) -> None:
            other = pool.submit(backend.apply, [add(make_lane(), 1)], deadline=soon(0.05))
            error = other.exception(PATIENCE_S)
            assert isinstance(error, Unavailable)
            assert error.code == "connection"
            raise CorruptData("another one", code="other_database")

        with pytest.raises(CorruptData):
            backend.connect(time.monotonic() + PATIENCE_S, accept=refuse)
        assert not backend.connected
        with pytest.raises(Unavailable):
            backend.apply([add(make_lane(), 1)])
        assert db.one("SELECT to_regclass('things')") is None
