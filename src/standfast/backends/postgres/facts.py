"""What a PostgreSQL server says of itself: its version, and the settings that decide what it keeps.

The settings are those that the role and the database give to a new connection.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from psycopg import Connection

from standfast.backends.postgres import schema as pgschema


class ServerFacts(msgspec.Struct, frozen=True):
    """One server, as one connection sees it.

    `clock_ahead_s` is how far its clock is ahead of this machine's, to within half of the time
    that the question took; `schema` is the version of the bookkeeping tables, 0 without any.
    """

    version: str
    encoding: str
    synchronous_commit: str
    fsync: str
    full_page_writes: str
    clock_ahead_s: float
    schema: int


def server_facts(conn: Connection[Any]) -> ServerFacts:
    """Ask it.  ConfigError where its schema is newer than this library."""
    before_s = time.time()
    row = conn.execute(
        "SELECT extract(epoch FROM clock_timestamp())::float8, current_setting('server_version'),"
        " current_setting('server_encoding'),"
        # What the role and database say: our own connections switch it on for themselves.
        " (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),"
        " coalesce(current_setting('fsync', true), ''),"
        " coalesce(current_setting('full_page_writes', true), '')"
    ).fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    middle_s = (before_s + time.time()) / 2
    clock_s, version, encoding, commit, fsync, pages = row
    return ServerFacts(
        version=version.split()[0],
        encoding=encoding,
        synchronous_commit=commit,
        fsync=fsync,
        full_page_writes=pages,
        clock_ahead_s=clock_s - middle_s,
        schema=pgschema.schema_version(conn),
    )
