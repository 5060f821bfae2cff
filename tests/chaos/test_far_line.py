"""The line of `support.far` has the round trip, the bandwidth and the faults that it says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest

from support.cluster import Cluster
from support.far import Far, How, Way
from support.tls import make_context


@contextlib.contextmanager
def echo() -> Generator[int]:
    """A server that sends back what it gets; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        while chunk := client.recv(65536):
            client.sendall(chunk)


@pytest.fixture
def echo_port() -> Iterator[int]:
    with echo() as port:
        yield port


def connected(far: Far) -> socket.socket:
    return socket.create_connection(("127.0.0.1", far.port), timeout=10)


def receive(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size and (chunk := client.recv(65536)):
        found += chunk
    return found


def round_trip(client: socket.socket) -> float:
    start = time.perf_counter()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    return time.perf_counter() - start


def transfer(clients: list[socket.socket], size: int) -> float:
    """Seconds until each client has sent so much and got it back."""
    text = b"z" * size
    threads = [threading.Thread(target=client.sendall, args=(text,)) for client in clients]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for client in clients:
        assert receive(client, size) == text
    lasted = time.perf_counter() - start
    for thread in threads:
        thread.join()
    return lasted


def best_of(measure: Callable[[], float], enough_s: float, *, of: int = 10) -> float:
    """The least of some measurements, the first that is small enough being the last.

    A busy machine can only make it slower.
    """
    best = measure()
    for _ in range(of - 1):
        if best <= enough_s:
            break
        best = min(best, measure())
    return best


@pytest.mark.parametrize("rtt_ms", [20, 80])
def test_a_round_trip_lasts_what_it_was_set_to(echo_port: int, rtt_ms: int) -> None:
    """No round trip is shorter than set, and one is soon found that is at most 5 ms longer."""
    with Far(echo_port, rtt_ms=rtt_ms) as far:
        start = time.perf_counter()
        with connected(far) as client:
            round_trip(client)
            first = time.perf_counter() - start
            shortest = best_of(lambda: round_trip(client), (rtt_ms + 5) / 1000, of=100)
    assert rtt_ms <= shortest * 1000 <= rtt_ms + 5
    assert first * 1000 >= 2 * rtt_ms  # the handshake of TCP


def test_the_delay_is_that_of_a_line(echo_port: int) -> None:
    """A hundred small messages that are sent at once take one round trip, not a hundred."""
    with Far(echo_port, rtt_ms=100) as far, connected(far) as client:
        round_trip(client)
        start = time.perf_counter()
        for _ in range(100):
            client.sendall(b"y" * 10)
        assert receive(client, 1000) == b"y" * 1000
        assert time.perf_counter() - start < 5  # one round trip each would be 10 s


@pytest.mark.parametrize("way", ["up", "down"])
def test_bandwidth_is_kept_in_each_direction(echo_port: int, way: Way) -> None:
    """1 MB at 1 MB/s takes a second, within 15 %, with a round trip of 40 ms as well."""
    with Far(echo_port, rtt_ms=40) as far, connected(far) as client:
        far.set(**{f"{way}_bytes_s": 1_000_000})
        round_trip(client)
        lasted = best_of(lambda: transfer([client], 1_000_000), 1.04 * 1.15)
    assert 0.85 <= lasted / 1.04 <= 1.15


def test_connections_share_the_bandwidth(echo_port: int) -> None:
    """Two connections at once get a half each."""
    with Far(echo_port, up=1_000_000) as far, connected(far) as one, connected(far) as other:
        lasted = best_of(lambda: transfer([one, other], 400_000), 0.8 * 1.15)
    assert 0.85 <= lasted / 0.8 <= 1.15


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("by", ["count", "pattern"])
def test_a_cut_comes_behind_the_byte_it_was_set_to(echo_port: int, how: How, by: str) -> None:
    """What comes before the cut arrives, nothing after it does, and the next connection works."""
    with Far(echo_port, rtt_ms=10) as far:
        with connected(far) as client:
            if by == "count":
                far.cut_after(5, way="down", how=how)
            else:
                far.cut_behind(b"lo", way="down", how=how)
            client.sendall(b"hello, world")
            if how == "fin":
                assert receive(client, 100) == b"hello"
            else:
                with pytest.raises(ConnectionResetError):
                    receive(client, 100)
        far.wait("cut", 1)
        assert far.look()["down"] == 5
        with connected(far) as client:
            round_trip(client)


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_cut_on_demand(echo_port: int, how: How) -> None:
    """Every connection ends, in the way that was asked for."""
    with Far(echo_port) as far, connected(far) as client:
        round_trip(client)
        assert far.cut(how) == 1
        if how == "fin":
            assert client.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_accepted_and_silent(echo_port: int) -> None:
    """A silent line accepts and says nothing; connections of before go on."""
    with Far(echo_port) as far, connected(far) as before:
        round_trip(before)
        far.silence()
        with connected(far) as client:
            client.settimeout(0.2)
            client.sendall(b"x")
            with pytest.raises(TimeoutError):
                client.recv(1)
        round_trip(before)


def test_a_limit_of_connections(echo_port: int) -> None:
    """The connection beyond the limit is reset; when another has ended, the next one is taken."""
    with Far(echo_port) as far, connected(far) as client:
        round_trip(client)
        far.set(max_connections=1)
        with pytest.raises(ConnectionResetError), connected(far) as other:
            other.recv(1)
        assert far.look()["refused"] == 1


@pytest.mark.parametrize("tls", [False, True])
def test_postgresql_over_the_line(pg_cluster: Cluster, tmp_path: Path, tls: bool) -> None:
    """A client gets its answers, large ones too, in plain text and with TLS."""
    certificate = (tmp_path / "tls.key", tmp_path / "tls.crt")
    if tls and make_context(tmp_path) is None:
        pytest.skip("there is no openssl")
    far = Far(pg_cluster.port, rtt_ms=10, tls="on" if tls else None, certificate=certificate)
    with far, psycopg.connect(far.url(pg_cluster.url()), autocommit=True) as connection:
        assert bool(connection.pgconn.ssl_in_use) is tls
        text = "ab" * 500_000
        assert connection.execute("SELECT %s::text", [text]).fetchone() == (text,)


def test_a_reset_in_the_handshake_of_tls(pg_cluster: Cluster, tmp_path: Path) -> None:
    """The server says yes to TLS and is gone before the handshake ends; it can be healed."""
    if make_context(tmp_path) is None:
        pytest.skip("there is no openssl")
    certificate = (tmp_path / "tls.key", tmp_path / "tls.crt")
    with Far(pg_cluster.port, tls="reset", certificate=certificate) as far:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(far.url(pg_cluster.url()))
        far.set(tls="on")
        with psycopg.connect(far.url(pg_cluster.url())) as connection:
            connection.execute("SELECT 1")


def test_the_line_ends_with_its_owner(echo_port: int) -> None:
    """When its stdin ends, the process ends, with connections on it."""
    far = Far(echo_port)
    with connected(far) as client:
        round_trip(client)
        far.close()
        with pytest.raises(OSError):  # noqa: PT011 - reset or refused
            connected(far).recv(1)
