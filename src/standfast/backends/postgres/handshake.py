"""What is asked on a new connection, and set there: all of it in one round trip.

The server decides by itself whether the session is ours.  Behind a transaction pooler each
transaction may meet another session, and the process that answers is not the one that the start-up
packet has named: then nothing outlives the transaction, and no other session is ended.

The first statement pins the search path, at least for this transaction, so that names mean
PostgreSQL's own from there on.  Nothing is read from the bookkeeping before it is known that no
stranger owns any of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

import msgspec
from psycopg import Connection, sql

from standfast.backends.postgres.pinned import PIN_BY
from standfast.backends.postgres.trust import strangers
from standfast.config.settings import Target
from standfast.ops.types import ServerIdentity

#: How long a single statement on a dedicated connection waits for a lock.
_STATEMENT_LOCK_TIMEOUT_MS = 300
#: A server's process and its beginning.
ServerProcess = tuple[int, int]

_PIN: LiteralString = "SELECT " + PIN_BY
#: A statement alone then needs no transaction around it to have its limits.
_DEDICATED: LiteralString = """
SELECT pg_catalog.set_config('standfast.lane', 'line', false),
       -- A statement without BEGIN goes by this one.
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
       pg_catalog.set_config('lock_timeout', {lock_timeout}, false),
       pg_catalog.set_config('idle_in_transaction_session_timeout', '60s', false),
       -- Everything here looks documents up by their keys: one plan for it, made once.
       pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
       pg_catalog.set_config('enable_seqscan', 'off', false),
       pg_catalog.set_config('enable_hashjoin', 'off', false),
       pg_catalog.set_config('enable_mergejoin', 'off', false)
 WHERE {ours}
"""
_END: LiteralString = """
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
 WHERE a.pid OPERATOR(pg_catalog.=) {pid}
   AND (extract(epoch FROM a.backend_start) OPERATOR(pg_catalog.*)
        1000000::pg_catalog.numeric)::pg_catalog.int8 OPERATOR(pg_catalog.=) {started}
   AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() AND {ours}
"""
#: What may be missing, or may be refused to us, is asked for in a block that survives it.
_ASK: LiteralString = """
DO $ask$
DECLARE
    answer jsonb := '{{}}';
    of_system text := '';
    of_timeline int4 := 0;
    of_schema int4;
    of_identity text;
    of_epoch int8;
    of_lanes jsonb;
BEGIN
    -- Some hosts take these functions away, and a standby has no timeline to write: the rest has
    -- to do then.
    BEGIN
        SELECT c.system_identifier::text INTO of_system FROM pg_control_system() c;
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported THEN NULL;
    END;
    BEGIN
        -- Of the WAL that is written now: the control file learns of a new one at a checkpoint.
        of_timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int4;
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported
        OR object_not_in_prerequisite_state THEN NULL;
    END;
    IF EXISTS ({strangers}) THEN
        answer := '{{"stranger": true}}';
    ELSIF EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'standfast' AND c.relname = 'collections') THEN
        SELECT max(v.version) INTO of_schema FROM standfast.schema_version v;
        SELECT i.identity::text, i.epoch INTO of_identity, of_epoch FROM standfast.identity i;
        SELECT coalesce(jsonb_object_agg(l.lane::text, l.watermark), '{{}}') INTO of_lanes
          FROM standfast.lanes l WHERE l.lane = ANY ({lanes}::uuid[]) AND l.generation = 0;
        answer := jsonb_build_object('schema', coalesce(of_schema, 0), 'identity', of_identity,
            'epoch', coalesce(of_epoch, 0), 'lanes', of_lanes);
    END IF;
    answer := answer || jsonb_build_object('system', of_system, 'timeline', of_timeline);
    PERFORM set_config('standfast.answer', answer::text, true);
END $ask$
"""
_ANSWER: LiteralString = """
SELECT {ours}, current_setting('standfast.answer'), current_setting('standfast.home', true),
       current_setting('transaction_read_only') = 'on',
       (SELECT (extract(epoch FROM a.backend_start) OPERATOR(pg_catalog.*)
        1000000::pg_catalog.numeric)::pg_catalog.int8
          FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()),
       d.oid::text, d.datname::text, (extract(epoch FROM clock_timestamp()) * 1000000)::int8
  FROM pg_database d WHERE d.datname = current_database()
"""


class _Asked(msgspec.Struct, frozen=True):
    """What the block has found."""

    system: str
    timeline: int
    schema: int = 0
    identity: str | None = None
    epoch: int = 0
    lanes: dict[str, int] | None = None
    stranger: bool = False


class Handshake(NamedTuple):
    """What a server said of itself and of its database.

    `stranger`: somebody owns a part of the bookkeeping whom this role has no reason to trust;
    nothing was read of it.  `schema` is its version, 0 where there is none.  `home` is the first
    schema of the search path that exists, empty without any.  `clock` is what the server's clock
    showed at an instant of `time.monotonic()`, or earlier.  `process` is None behind a pooler.
    """

    pooled: bool
    server_identity: ServerIdentity
    schema: int
    stranger: bool
    home: str
    read_only: bool
    clock: tuple[int, float]
    process: ServerProcess | None


def shake_hands(
    conn: Connection[Any],
    target: Target,
    *,
    lanes: Sequence[str] = (),
    dedicated: bool = False,
    predecessor: ServerProcess | None = None,
) -> Handshake:
    """Ask, and pin the settings of the session if it is ours.

    `lanes`: whose watermarks are asked for.  `dedicated`: the session gets the settings of single
    statements.  `predecessor` is a session of ours whose connection was cut: it would keep its
    locks, since a server that waits for the rest of a message has no time limit for that; so it is
    ended.
    """
    ours = _is_ours(conn, target)
    parts: list[sql.Composable] = [sql.SQL(_PIN).format(local=sql.SQL("NOT ") + ours)]
    if dedicated:
        lock_timeout = sql.Literal(f"{_STATEMENT_LOCK_TIMEOUT_MS}ms")
        parts.append(sql.SQL(_DEDICATED).format(lock_timeout=lock_timeout, ours=ours))
    if predecessor is not None:
        pid, started = map(sql.Literal, predecessor)
        parts.append(sql.SQL(_END).format(pid=pid, started=started, ours=ours))
    parts += [
        sql.SQL(_ASK).format(strangers=strangers(target.trust), lanes=sql.Literal(list(lanes))),
        sql.SQL(_ANSWER).format(ours=ours),
    ]
    # Without parameters these are one message, and one transaction.
    cur = conn.execute(sql.SQL(";").join(parts), prepare=False)
    at = time.monotonic()
    while cur.nextset():
        pass
    row = cur.fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    is_ours, answer, home, read_only, started, database, name, server_us = row
    if not is_ours:
        # Another client's session may meet ours: prepared statements would not be found again.
        conn.prepare_threshold = None
    asked = msgspec.json.decode(answer, type=_Asked)
    return Handshake(
        pooled=not is_ours,
        server_identity=ServerIdentity(
            asked.identity,
            *(asked.system, database, name, asked.timeline, asked.epoch),
            server_us=server_us,
            lanes=asked.lanes,
        ),
        schema=asked.schema,
        stranger=asked.stranger,
        home=home or "",
        read_only=read_only,
        clock=(server_us, at),
        process=(conn.info.backend_pid, started) if is_ours else None,
    )


def pin_session(conn: Connection[Any], target: Target) -> str:
    """Pin the settings of the session if it is ours; returns what a handshake calls `home`.

    For connections that are judged elsewhere, or not at all: nothing is asked of the bookkeeping,
    which costs the server more than making the connection.
    """
    ours = _is_ours(conn, target)
    pin = sql.SQL(_PIN).format(local=sql.SQL("NOT ") + ours)
    home = sql.SQL("SELECT {}, current_setting('standfast.home', true)").format(ours)
    cur = conn.execute(sql.SQL(";").join([pin, home]), prepare=False)
    while cur.nextset():
        pass
    row = cur.fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    is_ours, found = row
    if not is_ours:
        conn.prepare_threshold = None  # as after a handshake
    return found or ""


def _is_ours(conn: Connection[Any], target: Target) -> sql.Composable:
    """Whether the session is the one that the start-up packet has named, as an expression."""
    if target.pooler or is_pooled(conn):
        return sql.SQL("false")
    return sql.SQL("(pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {})").format(
        sql.Literal(conn.info.backend_pid)
    )


def is_pooled(conn: Connection[Any]) -> bool:
    """Whether each transaction may meet another session, so that none may be left with settings."""
    return conn.prepare_threshold is None
