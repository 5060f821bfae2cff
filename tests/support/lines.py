"""Single connections to the tests' PostgreSQL, calls that must end, and waits for what it does."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import pytest

from contract.suite.backend import make_op
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from standfast.errors import DeadlineExceeded, Unavailable
from standfast.ops.types import Op
from support.pg import Sql

#: Far more than anything here takes; only a call that hangs waits for it.
PATIENCE_S = 60.0
#: Holds up every write to `things` until its row can be locked, however long that takes.
GATE = (
    "CREATE TABLE gate (id int); INSERT INTO gate VALUES (1);"
    "CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " PERFORM set_config('lock_timeout', '0', true); PERFORM FROM public.gate FOR SHARE;"
    " RETURN NEW; END $$;"
    "CREATE TRIGGER gate BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION wait_at_gate()"
)


def soon(seconds: float) -> float:
    return time.monotonic() + seconds


@contextmanager
def line(url: str, **options: Any) -> Iterator[PostgresBackend]:
    """One connection that is not made yet."""
    backend = PostgresBackend(parse_url(url), **options).new_handle()
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def connected(url: str) -> Iterator[PostgresBackend]:
    with line(url) as backend:
        assert not backend.connected
        backend.connect(soon(PATIENCE_S))
        assert backend.connected
        yield backend


def bounded(action: Callable[[], Any]) -> Any:
    """What the action returns or raises; fails when it does not end."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(action).result(PATIENCE_S)
    finally:
        pool.shutdown(wait=False)


def failure(action: Callable[[], Any], code: str, *, secret: str = "") -> Unavailable:
    """The Unavailable of an action that ends by itself: its code, a hint, and no password."""
    with pytest.raises(Unavailable) as caught:
        bounded(action)
    error = caught.value
    assert error.code == code, error.message
    assert error.hint
    assert isinstance(error, DeadlineExceeded) == (code == "deadline")
    shown = "".join(traceback.format_exception(error)) + repr(error) + error.hint
    assert not secret or secret not in shown
    return error


def add(lane: str, seq: int, key: str = "1") -> Op:
    return make_op(lane, seq, "increment", key, "1")


def on_port(url: str, port: int) -> str:
    """The same URL with another port."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))


def password_of(url: str) -> str:
    return unquote(urlsplit(url).password or "")


def until(db: Sql, condition: str) -> None:
    """Ask the server until this holds."""
    give_up = soon(PATIENCE_S)
    while not db.one(f"SELECT {condition}"):
        assert time.monotonic() < give_up, f"never: {condition}"


WAITING = (
    "EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND wait_event_type = 'Lock')"
)
NOBODY_ACTIVE = (
    "NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND state <> 'idle')"
)
