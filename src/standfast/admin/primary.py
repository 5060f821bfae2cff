"""The database for a command: one connection, which has a limit of its own, and deadlines on it."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import msgspec

from standfast.api.opening import backend_for, refuse_mirror
from standfast.backends.base import SCHEMA_VERSION, Backend
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.differences import differences, triggers_without_path
from standfast.backends.postgres.schema import ServerFacts, server_facts
from standfast.config.settings import Settings
from standfast.limits import CONNECT_DEADLINE_S
from standfast.ops.types import ServerIdentity


class Primary(msgspec.Struct, frozen=True):
    """What the database says of itself: its identity, schema, conflicts by state, and server.

    `differences` are sentences about what is not as it was installed; `triggers` those of others
    that set no search path.
    """

    server_identity: ServerIdentity
    schema: int
    conflicts: dict[str, int]
    server: ServerFacts | None = None
    differences: Sequence[str] = ()
    triggers: Sequence[str] = ()


@contextmanager
def connected(settings: Settings) -> Generator[Backend]:
    """The database of these settings, with a connection; making that has a limit of its own.

    Raises the database's error, or that it did not answer in time.
    """
    if settings.target.kind == "sqlite":
        refuse_mirror(settings)
    made = backend_for(settings.target)
    backend = made.new_handle()
    try:
        if isinstance(backend, PostgresBackend):
            backend.connect(time.monotonic() + CONNECT_DEADLINE_S)
        else:
            backend.check()
        yield backend
    finally:
        backend.close()
        made.close()


def ask(backend: Backend, settings: Settings, *, lanes: Sequence[str] = ()) -> Primary:
    """Ask the database for what `status` and `doctor` show, these lanes' watermarks included."""

    def deadline() -> float:
        return time.monotonic() + settings.deadline_s

    server_identity = backend.server_identity(deadline(), lanes=lanes)
    server, found, triggers = None, list[str](), list[str]()
    if isinstance(backend, PostgresBackend):
        # It has just answered in time; this takes many round trips, each of them far at a far one.
        far_s = max(settings.deadline_s, CONNECT_DEADLINE_S)
        with backend.connection("looking at the server", time.monotonic() + far_s) as conn:
            server = server_facts(conn)
            if server.schema == SCHEMA_VERSION:
                found, triggers = differences(conn), triggers_without_path(conn)
    schema = backend.schema_version() if server is None else server.schema
    counts = backend.count_conflicts(deadline=deadline())
    return Primary(server_identity, schema, counts, server, found, triggers)
