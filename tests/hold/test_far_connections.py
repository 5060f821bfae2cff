"""Connecting: neighbours of rows N1, N7, N8 and P6, with the time that it takes."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import standfast
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.connecting import make_connection, single_hosts
from standfast.backends.postgres.connection import DeadlineConnection, parameters
from standfast.backends.postgres.errors import explain
from standfast.backends.postgres.handshake import Handshake, shake_hands
from standfast.config.settings import parse_url
from standfast.errors import ConfigError, Unavailable
from standfast.ops.types import Op
from standfast.system.platform import received_bytes
from support.far import FarPg
from support.hold import soon, wait_direct
from support.pg import Sql

MakeFar = Callable[..., FarPg]


def put(lane: str, seq: int, key: str) -> Op:
    """A put that went through the journal."""
    return Op(lane=lane, seq=seq, kind="put", collection="c", key=key, body="1", replay=True)


@pytest.fixture
def hole() -> Iterator[int]:
    """The port of a socket that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_all_that_is_asked_at_connect_is_one_round_trip(far_pg: MakeFar) -> None:
    """N1: after the session has begun, one message goes up and its answer comes down."""
    far = far_pg()
    target = parse_url(far.url)
    with psycopg.Connection(make_connection(parameters(target), time.monotonic() + 5)) as conn:
        conn.autocommit = True
        statements = []
        execute = conn.execute

        def counted(query: object, *args: object, **kwargs: object) -> object:
            statements.append(query)
            return execute(query, *args, **kwargs)  # type: ignore[arg-type]

        conn.execute = counted  # type: ignore[method-assign,assignment]
        shaken = shake_hands(conn, target, dedicated=True)
    assert len(statements) == 1
    assert not shaken.pooled
    assert shaken.process is not None
    assert shaken.server_identity.system


def test_what_is_asked_again_keeps_the_schema_of_the_search_path(pg_database: str) -> None:
    """The first answer stays: a pinned session's search path says nothing of it any more."""
    target = parse_url(pg_database)
    with psycopg.connect(pg_database, autocommit=True) as conn:
        homes = [shake_hands(conn, target).home for _ in range(3)]
        assert homes == ["public"] * 3
        assert conn.execute("SELECT current_schema()").fetchone() == ("pg_catalog",)


def test_behind_a_pooler_nothing_outlives_the_questions(pg_database: str) -> None:
    """P6: where the process that answers is another than was named, no setting stays."""
    names = ("search_path", "lock_timeout", "enable_seqscan", "synchronous_commit")
    show = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    target = parse_url(pg_database + "?pgbouncer=true")
    with psycopg.connect(pg_database, autocommit=True) as conn:
        before = conn.execute(show).fetchone()
        shaken = shake_hands(conn, target, dedicated=True)
        assert shaken.pooled
        assert shaken.process is None
        assert conn.execute(show).fetchone() == before
        assert conn.prepare_threshold is None


@pytest.mark.parametrize(
    ("before", "after"),
    [("off", "on"), ("local", "on"), ("on", "on"), ("remote_write", "remote_write")],
)
def test_a_commit_is_on_disk(pg_database: str, before: str, after: str) -> None:
    """P7, I1: what is weaker than `on` becomes `on` for the session, what is stronger stays."""
    with Sql(pg_database) as db:
        db(f"ALTER DATABASE {db.connection.info.dbname} SET synchronous_commit = {before}")
    with psycopg.connect(pg_database, autocommit=True) as conn:
        shake_hands(conn, parse_url(pg_database), dedicated=True)
        assert conn.execute("SHOW synchronous_commit").fetchone() == (after,)
        source = "SELECT source FROM pg_settings WHERE name = 'synchronous_commit'"
        assert conn.execute(source).fetchone() == ("session",)


def test_silence_is_given_up_and_distance_is_not(
    pg_database: str, far_pg: MakeFar, hole: int
) -> None:
    """N1, N7: an address that says nothing is not waited for to the end of the time."""
    target = parse_url(pg_database)
    silent = {**parameters(target), "port": str(hole)}
    begun = time.monotonic()
    with pytest.raises(psycopg.OperationalError, match="no connection in time"):
        make_connection(silent, begun + 60)
    assert time.monotonic() - begun < 30
    far = far_pg(rtt_ms=250)
    make_connection(parameters(parse_url(far.url)), time.monotonic() + 20).finish()


def test_a_server_that_answers_is_heard_before_one_that_does_not(
    pg_database: str, hole: int
) -> None:
    """N7: of several addresses, the refusal of one says more than the silence of another."""
    port = parse_url(pg_database).params["port"]
    params = {
        **parameters(parse_url(pg_database)),
        "host": "127.0.0.1,127.0.0.1",
        "port": f"{hole},{port}",
        "password": "another",
    }
    with pytest.raises(psycopg.OperationalError) as caught:
        make_connection(params, time.monotonic() + 20)
    assert explain(caught.value, "connecting").code == "auth"


def test_a_name_that_is_not_found_leaves_the_other_hosts(pg_database: str) -> None:
    """N7: a host whose name does not resolve is passed by."""
    params = parameters(parse_url(pg_database))
    params["host"], params["port"] = f"nowhere.invalid,{params['host']}", str(params["port"])
    make_connection(params, time.monotonic() + 20).finish()
    assert [one["host"] for one in single_hosts(params)] == ["nowhere.invalid", "127.0.0.1"]


def test_closing_gives_up_a_connection_that_is_being_made(pg_database: str, hole: int) -> None:
    """`close` does not wait for an address that is silent."""
    port = parse_url(pg_database).params["port"]
    one = DeadlineConnection(parse_url(pg_database.replace(f":{port}/", f":{hole}/")))
    one.close()

    def judge(conn: object, shaken: Handshake) -> None:
        raise AssertionError("nobody answers there")

    with pytest.raises(Unavailable) as caught:
        one.connect(time.monotonic() + 60, judge)
    assert caught.value.code == "closed"


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ("SSL SYSCALL error: Connection reset by peer", Unavailable, "connection"),
        ("SSL SYSCALL error: EOF detected", Unavailable, "connection"),
        ("SSL error: unexpected eof while reading", Unavailable, "connection"),
        ("SSL connection has been closed unexpectedly", Unavailable, "connection"),
        ("SSL error: decryption failed or bad record mac", Unavailable, "connection"),
        ("server closed the connection unexpectedly\n\tSSL", Unavailable, "connection"),
        ("SSL error: certificate verify failed", ConfigError, "tls"),
        ("server does not support SSL, but SSL was required", ConfigError, "tls"),
        ("SSL error: unsupported protocol", ConfigError, "tls"),
        ("SSL error: wrong version number", ConfigError, "tls"),
        ("SSL error: tlsv1 alert protocol version", ConfigError, "tls"),
        ("SSL error: sslv3 alert handshake failure", ConfigError, "tls"),
        ('root certificate file "/x" does not exist', ConfigError, "tls"),
        ('server certificate for "a" does not match host name "b"', ConfigError, "tls"),
    ],
)
def test_what_ends_a_tls_handshake(said: str, kind: type[Exception], code: str) -> None:
    """N8: only a refusal of certificates or of the protocol is configuration."""
    error = explain(psycopg.OperationalError(f"connection failed: {said}"), "connecting")
    assert (type(error), error.code) == (kind, code)


def test_a_certificate_that_is_refused_is_configuration(far_pg: MakeFar, tmp_path: Path) -> None:
    """N8: a server whose certificate nobody vouches for is named at boot, not journaled against."""
    far = far_pg(tls="on")
    url = far.url.replace("sslmode=require", "sslmode=verify-full&sslrootcert=system")
    if not Path(ssl.get_default_verify_paths().openssl_cafile or "").exists():
        pytest.skip("this system has no certificates of its own")
    with pytest.raises(ConfigError) as caught:
        standfast.open(url, data_dir=tmp_path / "data", deadline_s=5.0)
    assert caught.value.code == "tls"


def test_what_has_arrived_is_counted(pg_database: str) -> None:
    """N5: the count of bytes that a deadline goes by grows with what the other side sends."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as here,
        server.accept()[0] as there,
    ):
        before = received_bytes(here)
        there.sendall(b"x" * 1000)
        soon(lambda: received_bytes(here) == before + 1000, within_s=10)
    left, right = socket.socketpair()
    with left, right:
        assert received_bytes(left) == 0  # where nobody counts, nothing is progress


@pytest.mark.parametrize("rtt_ms", [150, pytest.param(250, marks=pytest.mark.slow)])
def test_a_new_collection_far_away(far_pg: MakeFar, tmp_path: Path, rtt_ms: float) -> None:
    """N2: the first put of a collection lands, and other collections do not leave the primary."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["known"].put("k", 0)
        far.line.set(rtt_s=rtt_ms / 1000)
        store["new"].put("k", 1)
        assert store["known"].put("k", 2).durable_on == "primary"
        wait_direct(store)
        far.line.set(rtt_s=0)
        assert store["new"].put("k", 3).durable_on == "primary"
        assert store["new"].read("k").source == "primary"  # type: ignore[union-attr]


@pytest.mark.parametrize("installed", [True, False])
def test_a_new_table_costs_eight_round_trips(
    far_pg: MakeFar, tmp_path: Path, installed: bool
) -> None:
    """N2: the first put of a collection, its table and the look for it included, takes at most
    eight round trips; the first of a database, which gets the bookkeeping too, ten."""
    far = far_pg(rtt_ms=20)
    with standfast.open(far.url, data_dir=tmp_path / "data", deadline_s=30) as store:
        wait_direct(store)
        if installed:
            store["known"].put("k", 0)
            store["known"].put("k", 0)
        before = far.line.look()["trips"]
        assert store["new"].put("k", 1).durable_on == "primary"
        assert far.line.look()["trips"] - before <= (8 if installed else 10)


def test_a_table_that_is_there_costs_three_round_trips(far_pg: MakeFar, tmp_path: Path) -> None:
    """N2: the first put to a table that is there already: the look for it, and the transaction."""
    far = far_pg(rtt_ms=20)
    with standfast.open(far.near_url, data_dir=tmp_path / "other") as other:
        wait_direct(other)
        other["c"].put("k", 0)
    with standfast.open(far.url, data_dir=tmp_path / "data", deadline_s=30) as store:
        wait_direct(store)
        before = far.line.look()["trips"]
        assert store["c"].put("k", 1).durable_on == "primary"
        assert far.line.look()["trips"] - before <= 3
        before = far.line.look()["trips"]
        assert store["c"].put("k", 2).durable_on == "primary"
        assert far.line.look()["trips"] - before <= 2  # it prepares the statement
        before = far.line.look()["trips"]
        assert store["c"].put("k", 3).durable_on == "primary"
        assert far.line.look()["trips"] - before == 1


def test_the_first_put_of_a_process_tries_nothing_in_vain(far_pg: MakeFar, tmp_path: Path) -> None:
    """N2: a lane's first transaction makes its row, and does not try first to do without: at 250 ms
    that took the whole deadline."""
    far = far_pg(rtt_ms=20)
    with standfast.open(far.url, data_dir=tmp_path / "data", deadline_s=30) as store:
        wait_direct(store)
        store["c"].get("k", None)
        store.create_index("c")  # which makes the table
        before = far.line.look()["trips"]
        assert store["c"].put("k", 1).durable_on == "primary"
        assert far.line.look()["trips"] - before <= 3


def test_a_batch_of_the_replay_costs_two_round_trips(far_pg: MakeFar) -> None:
    """R20: however many ops and documents it has: one to lock and read, one to write and commit."""
    far = far_pg(rtt_ms=20)
    with closing(PostgresBackend(parse_url(far.url))) as pool:
        handle = pool.new_handle()
        handle.connect(time.monotonic() + 30)
        lane, directory = str(uuid.uuid4()), str(uuid.uuid4())

        def replay(first: int) -> int:
            before = far.line.look()["trips"]
            ops = [put(lane, seq, "ab"[seq % 2]) for seq in range(first, first + 100)]
            handle.apply(
                ops,
                expected_watermark=first - 1,
                directory=directory,
                deadline=time.monotonic() + 30,
            )
            return far.line.look()["trips"] - before

        replay(1)  # which makes the table
        assert [replay(first) for first in (101, 201, 301)] == [2, 2, 2]


def test_trimming_costs_three_round_trips(far_pg: MakeFar) -> None:
    """R20: the replay waits behind it for its connection."""
    far = far_pg(rtt_ms=20)
    with closing(PostgresBackend(parse_url(far.near_url))) as near:
        near.install(["c"])
    with closing(PostgresBackend(parse_url(far.url))) as pool:
        handle = pool.new_handle()
        handle.connect(time.monotonic() + 30)
        before = far.line.look()["trips"]
        assert not handle.trim()
        assert far.line.look()["trips"] - before == 3


def test_a_replay_does_not_begin_too_late(pg_database: str) -> None:
    """R20: where the connection is free only late, nothing is begun that the deadline would cut
    off, and the connection stays."""
    with closing(PostgresBackend(parse_url(pg_database))) as pool:
        pool.install(["c"])
        handle = pool.new_handle()
        handle.connect(time.monotonic() + 30)
        dedicated = handle.dedicated
        assert dedicated is not None
        lane, directory = str(uuid.uuid4()), str(uuid.uuid4())
        op = put(lane, 1, "k")

        def replay(deadline: float) -> None:
            handle.apply([op], directory=directory, deadline=deadline)

        handle.make_tables(["c"])
        assert dedicated.borrow(10)
        deadline = time.monotonic() + 1.0
        threading.Timer(0.75, dedicated.give_back).start()
        with pytest.raises(Unavailable) as caught:
            replay(deadline)
        assert caught.value.code == "busy"
        assert handle.connected
        assert handle.read("c", ["k"]) == {}
        replay(time.monotonic() + 30)
        assert handle.read("c", ["k"])["k"].text == "1"
