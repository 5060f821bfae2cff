"""Making one connection: every address of every host, and more than one attempt where it is silent.

libpq waits for one address until it fails, and keeps no limit below two seconds; so addresses are
resolved here, and libpq's states are driven here.  An attempt that hears nothing for a while stays,
and the next one begins beside it: at the next address, or at the same where there is one only.  The
first that is through is taken.  Distance is not silence: each round trip is progress.

Source: PostgreSQL documentation, 34.1, "PQconnectStartParams"; RFC 8305 for attempts side by side.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGconn

from standfast.backends.postgres.errors import explain
from standfast.limits import CONNECT_SILENCE_S
from standfast.system.platform import wait_ready

#: Silence after which the next attempt begins beside those that wait.
_NEXT_ATTEMPT_S = 1.0
#: How often it is looked whether the connection is still wanted.
_LOOK_S = 0.1
#: Attempts at once; the oldest gives way.
_MAX_ATTEMPTS = 4


class _Attempt:
    """One connection on its way."""

    def __init__(self, conninfo: str) -> None:
        self.pgconn = pq.PGconn.connect_start(conninfo.encode())
        self.heard_at = time.monotonic()
        self.writing = True
        self.done = False

    def go_on(self) -> None:
        """Take the next step, now that the socket is ready."""
        if not self.writing:  # a kernel takes connections for a server that hangs
            self.heard_at = time.monotonic()
        state = self.pgconn.connect_poll()
        if state == pq.PollingStatus.FAILED or self.pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(self.pgconn.get_error_message())
        self.done = state == pq.PollingStatus.OK
        self.writing = state == pq.PollingStatus.WRITING


class _Attempts:
    """The attempts to reach one database until one of them is through."""

    def __init__(
        self, places: Iterable[dict[str, Any]], deadline: float, cancelled: Callable[[], bool]
    ) -> None:
        self._cancelled = cancelled
        self._places = [make_conninfo("", **place) for place in places]
        self._deadline = deadline
        self._started = 0
        self._started_at = 0.0
        self._waiting: list[_Attempt] = []
        self.failures: list[psycopg.Error] = []

    def run(self) -> PGconn | None:
        """The first connection; None where none could be made in time."""
        try:
            while (now := time.monotonic()) < self._deadline and not self._cancelled():
                if now >= self._next_at():
                    self._start()
                elif not self._waiting or now >= self._silent_until():
                    return None
                elif (through := self._step(now)) is not None:
                    return through
            return None
        finally:
            for attempt in self._waiting:
                attempt.pgconn.finish()

    def _next_at(self) -> float:
        """When one more attempt begins."""
        if self._started < len(self._places) and not self._waiting:
            return 0.0
        heard = [attempt.heard_at for attempt in self._waiting]
        if not heard:
            return float("inf")  # each place was tried, and all have refused
        return max(*heard, self._started_at) + _NEXT_ATTEMPT_S

    def _silent_until(self) -> float:
        if self._started < len(self._places):
            return float("inf")
        return max(attempt.heard_at for attempt in self._waiting) + CONNECT_SILENCE_S

    def _start(self) -> None:
        conninfo = self._places[self._started % len(self._places)]
        self._started += 1
        self._started_at = time.monotonic()
        if len(self._waiting) == _MAX_ATTEMPTS:
            self._waiting.pop(0).pgconn.finish()
        attempt = _Attempt(conninfo)
        # What came before keeps its own time: only what is heard is progress.
        if self._waiting:
            attempt.heard_at = max(one.heard_at for one in self._waiting)
        self._waiting.append(attempt)
        if attempt.pgconn.status == pq.ConnStatus.BAD:
            self._fail(attempt, psycopg.OperationalError(attempt.pgconn.get_error_message()))

    def _step(self, now: float) -> PGconn | None:
        until = min(self._next_at(), self._silent_until(), self._deadline, now + _LOOK_S)
        sockets = {one.pgconn.socket: one.writing for one in self._waiting}
        ready = wait_ready(sockets, timeout_s=max(0.0, until - now))
        for attempt in [one for one in self._waiting if one.pgconn.socket in ready]:
            try:
                attempt.go_on()
            except psycopg.Error as error:
                self._fail(attempt, error)
                continue
            if attempt.done:
                self._waiting.remove(attempt)
                return attempt.pgconn
        return None

    def _fail(self, attempt: _Attempt, error: psycopg.Error) -> None:
        self.failures.append(error)
        self._waiting.remove(attempt)
        attempt.pgconn.finish()


def make_connection(
    params: dict[str, Any], deadline: float, *, cancelled: Callable[[], bool] = lambda: False
) -> PGconn:
    """A connection to the first place that lets us in, until this instant of `time.monotonic()`.

    psycopg's error otherwise: that of a server that has answered rather than of one that has not.
    Looking up a name has no limit but that of the system's resolver.
    """
    failures: list[psycopg.Error] = []
    attempts = _Attempts(_places(params, failures), deadline, cancelled)
    through = attempts.run()
    if through is not None:
        return through
    failures += attempts.failures
    for failure in failures:
        if explain(failure, "connecting").code != "connection":
            raise failure
    raise failures[-1] if failures else psycopg.OperationalError("no connection in time")


def _places(params: dict[str, Any], failures: list[psycopg.Error]) -> Iterator[dict[str, Any]]:
    """The parameters once for each address of each host; names that do not resolve are failures."""
    hosts = list(single_hosts(_with_defaults(params)))
    if params.get("load_balance_hosts") == "random":
        random.shuffle(hosts)
    for one in hosts:
        host = str(one.get("host") or "")
        if one.get("hostaddr") or host[:1] in ("", "/", "@"):
            yield one
            continue
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            reason = f'could not translate host name "{host}" to address: {error.strerror}'
            failures.append(psycopg.OperationalError(reason))
            continue
        for address in dict.fromkeys(str(place[4][0]) for place in found):
            yield {**one, "hostaddr": address}


def _with_defaults(params: dict[str, Any]) -> dict[str, Any]:
    """With the host that the environment names, where the parameters name none."""
    if params.keys() & {"host", "hostaddr", "service"}:
        return params
    found = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.keyword in (b"host", b"hostaddr", b"port") and option.val
    }
    return {**found, **params}


def single_hosts(params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters once for each of the hosts, which libpq writes with commas between them."""
    names = [name for name in ("host", "hostaddr") if params.get(name)]
    if not names:
        yield params
        return
    columns = {name: str(params[name]).split(",") for name in names}
    count = max(len(column) for column in columns.values())
    ports = str(params.get("port", "")).split(",")
    for index in range(count):
        one = {name: column[index] for name, column in columns.items()}
        port = ports[index] if len(ports) == count else ports[0]
        yield {**params, **one, **({"port": port} if port else {})}
