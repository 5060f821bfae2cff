"""A batch on the server: it ends with its deadline, and is one transaction with its bookkeeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from contract.suite.backend import make_lane, make_op
from standfast.backends.postgres import session as pgsession
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.deadline import SocketDeadline
from standfast.config.settings import parse_url
from standfast.ops.types import Applied, Kind
from support.lines import (
    GATE,
    NOBODY_ACTIVE,
    PATIENCE_S,
    WAITING,
    add,
    connected,
    failure,
    soon,
    until,
)
from support.pg import Sql

# ---- deadlines on the server


@pytest.fixture
def db(pg_prepared: str) -> Iterator[Sql]:
    """A connection of another program to the prepared database."""
    with Sql(pg_prepared) as connection:
        yield connection


@pytest.fixture
def patient_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own limit on a statement does not help: only the expiry is left."""
    monkeypatch.setattr(pgsession, "_AFTER_DEADLINE_MS", 3_600_000)


@pytest.mark.usefixtures("patient_server")
@pytest.mark.parametrize("directory", [None, make_lane()], ids=["long", "short"])
def test_i3_what_outlived_its_deadline_does_not_take_effect(
    pg_prepared: str, db: Sql, directory: str | None
) -> None:
    """I3: a batch that waits on the server beyond its deadline, all of it sent and its commit too,
    has no effect when the wait ends: its caller was answered, and others have written since."""
    lane = make_lane()
    with connected(pg_prepared) as backend, connected(pg_prepared) as other:
        backend.apply([make_op(lane, 1, "put", "1", '"first"')])
        db(GATE)
        with db.connection.transaction():
            db("SELECT FROM gate FOR UPDATE")
            late = [
                make_op(lane, 2, "put", "2", '"new"'),
                make_op(lane, 3, "put", "1", '"late"'),
            ]
            failure(
                lambda: backend.apply(late, deadline=soon(0.5), directory=directory), "deadline"
            )
            until(db, WAITING)  # the server goes on waiting, the commit is in its buffer
        until(db, NOBODY_ACTIVE)
        rows = other.read("things", ["1", "2"])
        assert {key: (row.text, row.version) for key, row in rows.items()} == {"1": ('"first"', 1)}
        assert other.fence([lane]) == {lane: 1}


def test_a_clock_that_was_wrong_is_measured_again(pg_prepared: str, db: Sql) -> None:
    """A batch that only seems to be late, since the clock that it goes by is wrong, is tried again
    with the right one, and takes effect once."""
    with connected(pg_prepared) as backend:
        lane = make_lane()
        backend.apply([add(lane, 1)])
        backend.clock = (0, time.monotonic())  # the server's clock has jumped by decades since
        applied = backend.apply([add(lane, 2)], deadline=soon(PATIENCE_S))
        assert [(o.status, o.version) for o in applied.outcomes] == [("applied", 2)]
        assert abs(backend.clock[0] / 1e6 - db.one("SELECT extract(epoch FROM now())::float8")) < 60


def test_a_deadline_that_has_passed_writes_nothing(
    pg_prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: also where no deadline ends the call, the server refuses an expired batch as a whole."""
    monkeypatch.setattr(SocketDeadline, "arm", lambda *_, **__: None)
    backend = PostgresBackend(parse_url(pg_prepared))
    try:
        lane = make_lane()
        backend.apply([add(lane, 1)])
        failure(lambda: backend.apply([add(lane, 2)], deadline=soon(-1)), "expired")
        assert backend.fence([lane]) == {lane: 1}
        assert backend.read("things", ["1"])["1"].text == "1"
    finally:
        backend.close()


@pytest.mark.parametrize("lock_timeout_s", [None, 0.05])
def test_a_foreign_lock_is_told_before_the_deadline(
    pg_prepared: str, db: Sql, lock_timeout_s: float | None
) -> None:
    """I4: a row that somebody else has locked is `locked`, not a deadline: the connection stays,
    and so do all others of the batch's rows as they were."""
    lane = make_lane()
    with connected(pg_prepared) as backend:
        backend.apply([add(lane, 1), add(lane, 2, "2")])
        with db.connection.transaction():
            db("SELECT FROM things WHERE key = '1' FOR UPDATE")
            batch = [add(lane, 3), add(lane, 4, "2"), add(lane, 5, "3")]
            deadline = soon(2 if lock_timeout_s is None else PATIENCE_S)
            failure(
                lambda: backend.apply(batch, deadline=deadline, lock_timeout_s=lock_timeout_s),
                "locked",
            )
            assert backend.connected
            (two,) = backend.observe("things", ["2"]).states
            assert two.version == 1
        assert [o.version for o in backend.apply(batch).outcomes] == [2, 2, 1]


def test_every_transaction_has_its_limits(pg_prepared: str, db: Sql) -> None:
    """I7, I8: lock, statement and idle time are limited by the deadline; without one the first two
    are the role's or ours, and nobody may sit on locks for ever."""
    with connected(pg_prepared) as backend:
        lane = make_lane()
        backend.apply([add(lane, 1)])
        db(
            "CREATE TABLE seen (name text, value text);"
            "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO public.seen SELECT name, setting FROM pg_settings WHERE name IN"
            " ('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout');"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER see BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION see()"
        )
        backend.apply([add(lane, 2)], deadline=soon(3))
        limits = {name: int(value) for name, value in db("DELETE FROM seen RETURNING *")}
        assert 0 < limits["lock_timeout"] <= 1200
        assert 0 < limits["statement_timeout"] <= 4000
        assert 0 < limits["idle_in_transaction_session_timeout"] <= 4000
        backend.apply([add(lane, 3)])
        limits = {name: int(value) for name, value in db("DELETE FROM seen RETURNING *")}
        assert limits["lock_timeout"] == 2000
        assert limits["idle_in_transaction_session_timeout"] == 60_000


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("kind", ["put", "increment"])
def test_every_batch_is_read_committed(
    pg_prepared: str, db: Sql, isolation: str, kind: Kind
) -> None:
    """I3: whatever the server's default isolation is, also a batch that is one statement sees what
    was committed while it waited."""
    name = db.connection.info.dbname
    db(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    with connected(pg_prepared) as backend:
        lane, directory = make_lane(), make_lane()
        backend.apply([add(lane, 1)], directory=directory)
        db(
            "CREATE TABLE seen (value text);"
            "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO public.seen VALUES (current_setting('transaction_isolation'));"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER see BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION see()"
        )
        backend.apply([make_op(lane, 2, kind, "1", "1")], directory=directory)
        assert db("SELECT value FROM seen") == [("read committed",)]


@pytest.mark.parametrize(
    ("setting", "used"),
    [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
def test_i1_a_commit_is_on_disk_whatever_the_role_says(
    pg_prepared: str, db: Sql, setting: str, used: str
) -> None:
    """I1: where the database turned `synchronous_commit` off, our transactions turn it on."""
    db(f"ALTER DATABASE {db.connection.info.dbname} SET synchronous_commit = '{setting}'")
    with connected(pg_prepared) as backend:
        lane = make_lane()
        backend.apply([add(lane, 1)])
        db(
            "CREATE TABLE seen (value text);"
            "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO public.seen VALUES (current_setting('synchronous_commit'));"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER see BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION see()"
        )
        backend.apply([add(lane, 2)])
        assert db("SELECT value FROM seen") == [(used,)]


# ---- what is told, and what is one transaction


def test_r8_a_place_that_was_filled_meanwhile_is_not_told_as_absent(
    pg_prepared: str, db: Sql
) -> None:
    """R8: while a batch waits for one row, another lane of the directory makes a document in a
    place that the batch has found empty.  The batch tells that lane's watermark, and so it does
    not tell that the place is empty."""
    directory, lane, other = make_lane(), make_lane(), make_lane()
    with connected(pg_prepared) as first, connected(pg_prepared) as second:
        first.apply([add(lane, 1, "2")], directory=directory)
        with ThreadPoolExecutor(1) as pool:
            with db.connection.transaction():
                db("SELECT FROM things WHERE key = '2' FOR UPDATE")
                batch = [make_op(lane, 2, "delete", "1"), add(lane, 3, "2")]
                call = pool.submit(first.apply, batch, directory=directory)
                until(db, WAITING)
                second.apply([add(other, 1, "1")], directory=directory)
            applied: Applied = call.result(PATIENCE_S)
        assert [outcome.version for outcome in applied.outcomes] == [0, 2]
        told = {state.key: state.text for state in applied.observed.states}
        assert told["2"] == "2"
        if applied.observed.watermarks.get(other) == 1:
            assert told.get("1", "1") == "1"
        assert first.read("things", ["1"])["1"].text == "1"


@pytest.mark.parametrize("table", ["lanes", "conflicts", "changes"])
def test_r12_ledger_and_watermark_are_one_transaction(
    pg_prepared: str, db: Sql, table: str
) -> None:
    """R12: when the bookkeeping of a batch fails at any place, nothing of the batch is there: no
    line, no document, no watermark; and the batch can come again."""
    lane = make_lane()
    with connected(pg_prepared) as backend:
        backend.apply([make_op(lane, 1, "put", "1", '"text"')])
        db(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF TG_OP = 'UPDATE' THEN IF NEW.watermark = 1 THEN RETURN NEW; END IF; END IF;"
            " RAISE EXCEPTION 'no'; END $$"
        )
        event = "UPDATE" if table == "lanes" else "INSERT"
        db(
            f"CREATE TRIGGER fail BEFORE {event} ON standfast.{table}"
            " FOR EACH ROW EXECUTE FUNCTION fail()"
        )
        held = msgspec.structs.replace(add(lane, 2), replay=True)
        batch = [held, make_op(lane, 3, "put", "2", "2")]
        with pytest.raises(Exception, match="P0001"):
            backend.apply(batch)
        assert backend.conflicts() == []
        assert backend.read("things", ["1", "2"]).keys() == {"1"}
        assert db.one("SELECT watermark FROM standfast.lanes") == 1
        db(f"DROP TRIGGER fail ON standfast.{table}")
        assert [o.status for o in backend.apply(batch).outcomes] == ["rejected", "applied"]
        assert [(e.seq, e.reason) for e in backend.conflicts()] == [(2, "wrong_type")]


def test_fences_are_forgotten_at_last(pg_prepared: str, db: Sql) -> None:
    """I7: a fence of long ago, of which nothing can be on its way any more, is cleared by later
    ones; a younger one is kept, and so are open lanes of the last year."""
    old, young, idle, fresh = (make_lane() for _ in range(4))
    with connected(pg_prepared) as backend:
        backend.apply([add(idle, 1)])
        backend.fence([old, young])
        for lane, days in ((old, 8), (young, 6), (idle, 300)):
            db(
                "UPDATE standfast.lanes SET updated_at = now() - %s * interval '1 day'"
                " WHERE lane = %s",
                days,
                lane,
            )
        assert backend.fence([fresh]) == {fresh: 0}
        kept = {str(lane) for (lane,) in db("SELECT lane FROM standfast.lanes")}
        assert kept == {young, idle, fresh}


def test_two_threads_may_use_lines_of_one_backend(pg_prepared: str) -> None:
    """Each sibling has a connection of its own: one that waits does not hold up the other."""
    with connected(pg_prepared) as one, connected(pg_prepared) as two:
        barrier = threading.Barrier(2)

        def work(backend: PostgresBackend) -> None:
            lane = make_lane()
            barrier.wait(PATIENCE_S)
            for seq in range(1, 26):
                backend.apply([add(lane, seq)], deadline=soon(PATIENCE_S))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (one, two)))
        assert one.read("things", ["1"])["1"].text == "50"
