"""PostgreSQL's failures as ours: class, code and hint; no password, no row in any text of them."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest

from standfast import ConfigError, DataError, StandfastError, Unavailable
from standfast.backends.postgres.errors import explain
from standfast.errors import CODES
from support.cluster import Cluster
from support.pg import Sql, opened, url_as

SECRET = "CANARY-7f3a"


def failure(action: Callable[[], Any], kind: type[StandfastError], code: str) -> StandfastError:
    """The error of an action: exactly this class and code, a hint, and nothing secret anywhere."""
    with pytest.raises(StandfastError) as caught:
        action()
    error = caught.value
    assert (type(error), error.code) == (kind, code), error
    assert error.hint
    shown = "".join(traceback.format_exception(error))
    assert SECRET not in f"{error} {error!r} {error.hint} {shown}"
    assert error.__cause__ is None
    assert error.retryable is CODES[error.code].retryable
    return error


def look(url: str) -> None:
    with opened(url, connect_timeout_s=2.0):
        pass


def replaced(url: str, **parts: Any) -> str:
    """The URL with the canary as its password and another host, port or path."""
    split = urlsplit(url)
    user = parts.get("user", split.username or "postgres")
    host = f"{parts.get('host', split.hostname)}:{parts.get('port', split.port)}"
    netloc = f"{quote(user)}:{SECRET}@{host}"
    return urlunsplit(split._replace(netloc=netloc, path=parts.get("path", split.path)))


# ---- limits of the server -----------------------------------------------------------------------


def test_a_time_limit_for_transactions_is_named(pg_url: str) -> None:
    """A transaction_timeout of the role (25P04) was "the database refused the statement", and an
    app did not start; it is a time limit like statement_timeout, and can be mended."""
    with psycopg.connect(pg_url, autocommit=True) as connection:
        if connection.info.server_version < 170_000:
            pytest.skip("PostgreSQL has it from 17 on")
        connection.execute("SET transaction_timeout = 20")
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("SELECT pg_sleep(5)")
    error = explain(caught.value, "reading")
    assert (type(error), error.code) == (Unavailable, "timeout")
    assert "transaction_timeout" in error.hint


# ---- connecting ---------------------------------------------------------------------------------


def test_wrong_password(pg_cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """A password that is not the right one is told as that; neither of them is shown."""
    error = failure(lambda: look(replaced(pg_cluster.url())), Unavailable, "auth")
    assert "password authentication failed" in str(error)
    assert f"127.0.0.1:{pg_cluster.port}" in str(error)
    assert SECRET not in caplog.text
    assert pg_cluster.password not in f"{error} {caplog.text}"


def test_unknown_role_and_no_password(pg_cluster: Cluster) -> None:
    """A role that is not there, or no password where one is needed, is a matter of the user."""
    failure(lambda: look(replaced(pg_cluster.url(), user="nobody")), Unavailable, "auth")
    url = f"postgresql://postgres@127.0.0.1:{pg_cluster.port}/postgres"
    failure(lambda: look(url), Unavailable, "auth")


def test_unknown_database(pg_cluster: Cluster) -> None:
    """A database that is not there is a wrong setting: waiting does not make it."""
    error = failure(lambda: look(pg_cluster.url("nowhere")), ConfigError, "no_database")
    assert "nowhere" in str(error)
    assert pg_cluster.password not in "".join(traceback.format_exception(error))


def test_no_right_to_connect(role: str, pg_database: str, db: Sql) -> None:
    """A role that may not use the database is told which right is missing."""
    db(f"REVOKE CONNECT ON DATABASE {db.connection.info.dbname} FROM public")
    failure(lambda: look(url_as(pg_database, role)), ConfigError, "no_rights")


def test_too_many_connections(role: str, pg_database: str, db: Sql) -> None:
    """A server that takes no more connections is unavailable, with that as its code."""
    db(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    failure(lambda: look(url_as(pg_database, role)), Unavailable, "too_many_connections")


def test_nobody_listens(pg_cluster: Cluster) -> None:
    """A refused port, one of many hosts or the only one, is a lost connection."""
    with socket.socket() as taken:  # bound, but nobody listens on it
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = replaced(pg_cluster.url(), port=port)
        error = failure(lambda: look(url), Unavailable, "connection")
        assert "Connection refused" in str(error)
        assert "\n" not in str(error)
        many = url.replace(f"127.0.0.1:{port}", f"127.0.0.1:{port},127.0.0.1:{port}")
        assert "Connection refused" in str(failure(lambda: look(many), Unavailable, "connection"))


def test_a_host_that_does_not_exist(pg_cluster: Cluster) -> None:
    """A name that cannot be resolved is a lost connection: DNS fails in outages too."""
    url = replaced(pg_cluster.url(), host="nowhere.invalid") + "?sslmode=prefer"
    failure(lambda: look(url), Unavailable, "connection")


@contextmanager
def server_that_says(answer: bytes) -> Iterator[int]:
    """The port of a server that answers whatever is asked with the same bytes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not_postgresql"),
        (b"\x4a\x00\x00\x00\x0a5.7.33\x00", "not_postgresql"),
        (b"+OK POP3 ready\r\n", "not_postgresql"),
        (b"", "connection"),
        (b"N", "connection"),
    ],
)
def test_not_a_postgresql_server(pg_cluster: Cluster, answer: bytes, code: str) -> None:
    """Whatever else answers at the address is told as that, and nothing of it is taken over."""
    with server_that_says(answer) as port:
        url = replaced(pg_cluster.url(), port=port)
        failure(lambda: look(url), Unavailable, code)


def test_tls_that_the_server_does_not_have(pg_cluster: Cluster) -> None:
    """An sslmode that the server cannot give is a wrong setting."""
    failure(lambda: look(pg_cluster.url() + "?sslmode=require"), ConfigError, "tls")


def test_a_name_that_looks_like_a_reason(pg_cluster: Cluster) -> None:
    """What people called their database does not decide what went wrong."""
    for name in ("SSL certificate", "password authentication failed", "too many connections"):
        url = pg_cluster.url(name)
        failure(lambda url=url: look(url), ConfigError, "no_database")


# ---- what the driver says without SQLSTATE ------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "kind", "code"),
    [
        (psycopg.OperationalError("the connection is lost"), Unavailable, "connection"),
        (psycopg.OperationalError(""), Unavailable, "connection"),
        (psycopg.OperationalError("x" * 10_000), Unavailable, "connection"),
        (psycopg.InterfaceError("the connection is closed"), Unavailable, "connection"),
        (
            psycopg.OperationalError("FATAL:  the database system is starting up"),
            *(Unavailable, "shutdown"),
        ),
        (
            psycopg.OperationalError("FATAL:  sorry, too many clients already"),
            *(Unavailable, "too_many_connections"),
        ),
        (
            psycopg.OperationalError('FATAL:  no pg_hba.conf entry for host "1.2.3.4"'),
            *(Unavailable, "auth"),
        ),
        (psycopg.DataError(f"cannot dump {SECRET}"), DataError, "refused"),
    ],
)
def test_errors_without_a_state(
    original: psycopg.Error, kind: type[StandfastError], code: str
) -> None:
    """Without an SQLSTATE the driver's class and libpq's words decide."""

    def run() -> None:
        raise explain(original, "trying")

    error = failure(run, kind, code)
    assert str(error).startswith("trying: ")
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("DeadlockDetected", Unavailable, "retry"),
        ("SerializationFailure", Unavailable, "retry"),
        ("AdminShutdown", Unavailable, "shutdown"),
        ("CannotConnectNow", Unavailable, "shutdown"),
        ("IdleInTransactionSessionTimeout", Unavailable, "shutdown"),
        ("QueryCanceled", Unavailable, "timeout"),
        ("LockNotAvailable", Unavailable, "locked"),
        ("TooManyConnections", Unavailable, "too_many_connections"),
        ("DiskFull", Unavailable, "disk_full"),
        ("OutOfMemory", Unavailable, "resources"),
        ("IoError", Unavailable, "server_io"),
        ("DataCorrupted", Unavailable, "server_internal"),
        ("ConnectionFailure", Unavailable, "connection"),
        ("ReadOnlySqlTransaction", Unavailable, "read_only"),
        ("InsufficientPrivilege", ConfigError, "no_rights"),
        ("UndefinedTable", ConfigError, "no_table"),
        ("UndefinedColumn", ConfigError, "no_column"),
        ("InvalidSchemaName", ConfigError, "no_schema"),
        ("SyntaxError", ConfigError, "database"),
        ("CheckViolation", DataError, "constraint"),
        ("NumericValueOutOfRange", DataError, "out_of_range"),
        ("StringDataRightTruncation", DataError, "refused"),
        ("ProgramLimitExceeded", DataError, "refused"),
        ("RaiseException", DataError, "trigger"),
    ],
)
def test_states(name: str, kind: type[StandfastError], code: str) -> None:
    """Each class of SQLSTATE has one class of ours; outages are never taken for settings."""
    error = explain(getattr(psycopg.errors, name)("secret"), "trying")
    assert (type(error), error.code) == (kind, code)
    assert error.hint
    assert "secret" not in str(error)


# ---- statements ---------------------------------------------------------------------------------


def test_a_constraint_of_the_table(pg_database: str, db: Sql) -> None:
    """A CHECK that refuses a document is told by its name, to its caller alone; nothing of the
    batch is written, and nothing of the row is shown."""
    with opened(pg_database) as store:
        store["things"].put("1", {"score": 1})
        db(
            "ALTER TABLE things ADD CONSTRAINT low_score CHECK ((data->>'score')::int < 5),"
            " ADD COLUMN name text GENERATED ALWAYS AS (data->>'name') STORED UNIQUE"
        )
        value = {"score": 9, "name": SECRET}
        error = failure(lambda: store["things"].put(SECRET, value), DataError, "constraint")
        assert "23514" in str(error)
        assert "`low_score`" in str(error)

        def batch() -> None:
            with store.batch() as writes:
                writes.put("things", "2", {"score": 2})
                writes.put("things", "3", value)

        failure(batch, DataError, "constraint")
        assert list(store["things"].keys()) == ["1"]
        store["things"].put("2", {"score": 2, "name": SECRET})
        value = {"score": 3, "name": SECRET}
        error = failure(lambda: store["things"].put("3", value), DataError, "constraint")
        assert "`things_name_key`" in str(error)
        value = {"score": SECRET}
        failure(lambda: store["things"].put("3", value), DataError, "refused")
        assert store["things"].put("1", {"score": 4}).version == 2
        assert dict(store["things"].items()) == {
            "1": {"score": 4},
            "2": {"score": 2, "name": SECRET},
        }


def test_a_trigger_that_raises(pg_database: str, db: Sql) -> None:
    """What a foreign trigger says may hold the row: it is not repeated."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
        db(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'not %', NEW.data; END$$"
        )
        db("CREATE TRIGGER no BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION no()")
        failure(lambda: store["things"].put("1", SECRET), DataError, "trigger")
        assert store["things"].get("1") == 1


def test_a_session_that_is_ended_inside_a_function(pg_url: str) -> None:
    """I2: a shutdown that meets a function of the table is the server's, not a refusal by it."""
    with closing(psycopg.connect(pg_url, autocommit=True)) as connection:
        connection.execute(
            "CREATE PROCEDURE pg_temp.ending() LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(10); END $$"
        )
        # What arrives first: `execute` mostly finds the end of the connection behind it.
        connection.pgconn.send_query(b"CALL pg_temp.ending()")
        result = connection.pgconn.get_result()
        assert result is not None
        error = psycopg.errors.error_from_result(result)
        assert (error.sqlstate, error.diag.severity_nonlocalized) == ("57P01", "FATAL")
        assert "function" in str(error.diag.context)
        assert explain(error, "put").code == "shutdown"


def test_a_key_that_is_too_long_for_its_column(pg_database: str, db: Sql) -> None:
    """A varchar that is too short refuses the key; the message does not show it."""
    db("CREATE TABLE things (key varchar(4) PRIMARY KEY, data jsonb)")
    with opened(pg_database) as store:
        failure(lambda: store["things"].put(SECRET, 1), DataError, "refused")
        assert store["things"].put("1234", 1).version == 1
        assert store["things"].get(SECRET) is None


def test_a_read_only_server(pg_database: str, db: Sql) -> None:
    """On a server that takes no writes, reads go on and writes are unavailable."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
    db(f"ALTER DATABASE {db.connection.info.dbname} SET default_transaction_read_only = on")
    with opened(pg_database) as store:
        assert store["things"].get("1") == 1
        error = failure(lambda: store["things"].put("1", SECRET), Unavailable, "read_only")
        assert "standby" in error.hint
        failure(lambda: store["fresh"].put("1", 1), Unavailable, "read_only")


# ---- locks --------------------------------------------------------------------------------------


@contextmanager
def held(db: Sql, statement: str) -> Iterator[None]:
    """Another session's transaction that has run the statement and does not end."""
    with db.connection.transaction():
        db(statement)
        yield


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM things WHERE key = '1' FOR UPDATE",
        "UPDATE things SET data = '5' WHERE key = '1'",
        "LOCK TABLE things IN SHARE MODE",
        "LOCK TABLE things IN ACCESS EXCLUSIVE MODE",
    ],
)
def test_a_lock_of_another_session(pg_database: str, db: Sql, statement: str) -> None:
    """A lock that does not go away is told within the lock timeout; the write did not happen."""
    with opened(pg_database, lock_timeout_s=0.1) as store:
        store["things"].put("1", 1)
        with held(db, statement):
            failure(lambda: store["things"].put("1", SECRET), Unavailable, "locked")
            failure(lambda: store["things"].delete("1"), Unavailable, "locked")
        assert store["things"].read("1").version in (1, 2)
        store["things"].put("1", 3)
        assert store["things"].get("1") == 3


def test_a_lock_on_one_key_does_not_hinder_others(pg_database: str, db: Sql) -> None:
    """Rows are locked one by one: who waits for one does not stop the next."""
    with opened(pg_database, lock_timeout_s=0.1) as store:
        store["things"].put_many({"1": 1, "2": 2})
        with held(db, "SELECT FROM things WHERE key = '1' FOR UPDATE"):
            failure(lambda: store["things"].put("1", 5), Unavailable, "locked")
            assert store["things"].put("2", 5).version == 2
            assert store["things"].get("1") == 1


def test_a_key_that_another_session_is_creating(pg_database: str, db: Sql) -> None:
    """An INSERT of the same key that has not ended is waited for, then told."""
    with opened(pg_database, lock_timeout_s=0.1) as store:
        store["things"].put("1", 1)
        with held(db, "INSERT INTO things (key, data) VALUES ('2', '5')"):
            failure(lambda: store["things"].put("2", 6), Unavailable, "locked")
        assert store["things"].put("2", 6).version == 2


def test_a_lock_during_adoption(pg_database: str, db: Sql) -> None:
    """Adoption waits no longer than a write does, and leaves nothing half done."""
    db("CREATE TABLE things (key text PRIMARY KEY, data jsonb)")
    before = db.catalog()
    with opened(pg_database, lock_timeout_s=0.1) as store:
        with held(db, "SELECT FROM things"):
            failure(lambda: store["things"].put("1", 1), Unavailable, "locked")
        assert db.catalog() == before
        assert store["things"].put("1", 1).version == 1


# ---- lost connections ---------------------------------------------------------------------------


def end_sessions(db: Sql) -> int:
    """End every session of ours and wait until they are gone; returns their number."""
    found = db(
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
        " WHERE application_name = 'standfast' AND datname = current_database()"
    )
    assert all(ended for (ended,) in found)
    return len(found)


def test_a_connection_that_ended_between_two_calls(pg_database: str, db: Sql) -> None:
    """I2: after the server closed the sessions, the next call works, once."""
    with opened(pg_database) as store:
        things = store["things"]
        assert things.increment("n", "", 1) == 1
        calls: list[Callable[[], Any]] = [
            lambda: things.increment("n", "", 1),
            lambda: things.get("n"),
            lambda: things.count(),
            lambda: list(store.calls.engine.primary.dump("things")),
            lambda: list(things.keys()),
            lambda: store.collections(),
            lambda: things.increment("n", "", 1),
        ]
        for call in calls:
            assert end_sessions(db) >= 1
            call()
        assert things.read("n").value == 3
        assert things.read("n").version == 3


def test_all_connections_ended_at_once(pg_database: str, db: Sql) -> None:
    """Several idle connections that are dead are all thrown away, not one a call."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
        backend = store.calls.engine.primary
        with backend.connection("a"), backend.connection("b"), backend.connection("c"):
            pass
        assert end_sessions(db) >= 3
        assert store["things"].get("1") == 1
        assert end_sessions(db) >= 1
        assert store["things"].put("1", 2).version == 2


def test_a_connection_that_ends_before_the_commit(
    pg_database: str, db: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: a session that is cut off inside a write is tried again with the same lane and sequence:
    the op takes effect once."""
    from standfast.backends.postgres import write as pgrows

    with opened(pg_database) as store:
        store["things"].put("n", 1)
        original, cut = pgrows.log_change, []

        def log_change(conn: Any, *rest: Any) -> None:
            original(conn, *rest)
            if not cut:
                cut.append(end_sessions(db))

        monkeypatch.setattr(pgrows, "log_change", log_change)
        assert store["things"].increment("n", "", 1) == 2
        assert cut
        assert store["things"].read("n").version == 2


def test_a_reply_that_was_lost(pg_database: str, db: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: when the commit went through and its reply did not, the op is not applied again, and
    its version is told truly."""
    with opened(pg_database) as store:
        store["things"].put("n", 1)
        backend, lost = store.calls.engine.primary, []
        original = backend.apply

        def apply(*args: Any, **options: Any) -> Any:
            applied = original(*args, **options)
            if not lost:
                lost.append(applied)
                raise Unavailable("the connection was lost", code="connection")
            return applied

        monkeypatch.setattr(backend, "apply", apply)
        assert store["things"].put("n", 2).version == 2
        assert len(lost) == 1
        assert store["things"].read("n").version == 2
        assert store["things"].increment("n", "", 1) == 3


def test_a_server_that_stops_and_starts(pg_cluster: Cluster) -> None:
    """While the server is away every call says so; when it is back, the same store works."""
    with opened(pg_cluster.url(), connect_timeout_s=1.0) as store:
        store["restarted"].put("1", 1)
        pg_cluster.stop()
        try:
            failure(lambda: store["restarted"].get("1"), Unavailable, "connection")
            failure(lambda: look(pg_cluster.url()), Unavailable, "connection")
        finally:
            pg_cluster.start()
        assert store["restarted"].get("1") == 1
        assert store["restarted"].put("1", 2).version == 2
    with Sql(pg_cluster.url()) as db:
        db("DROP TABLE restarted")
        db("DROP SCHEMA standfast CASCADE")
