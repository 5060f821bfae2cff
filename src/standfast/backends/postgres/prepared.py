"""Statements that are prepared once a session and sent by libpq itself, for calls by the thousand.

A cursor parses, converts and caches for every kind of statement; what the healthy path sends is
always the same few.  Parameters and results are binary; `$1` stands for the first parameter.
Source: PostgreSQL documentation, "Asynchronous Command Processing", and `array_recv`.
"""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from psycopg import Connection, pq, waiting
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute

#: Object ids of PostgreSQL's types, the same in every database; of single values and of arrays.
BOOL, INT8, TEXT, UUID = 16, 20, 25, 2950
BOOLS, INT8S, TEXTS = 1000, 1016, 1009

_int4 = struct.Struct(">i").pack
int8 = struct.Struct(">q").pack
_array_head = struct.Struct(">iiiii").pack
_NULL = _int4(-1)
_OF = {BOOLS: BOOL, INT8S: INT8, TEXTS: TEXT}
#: The parameter for an array of each kind without items.
EMPTY = {array: struct.pack(">iii", 0, 0, item) for array, item in _OF.items()}
#: The session has forgotten the statement, or the table has changed under its plan.
_OUTDATED = ("26000", "0A000")
#: Names are never used twice: what failed in the middle may be there.
_NUMBERS = itertools.count()
#: How often a wait looks for signals at the least.
_LOOK_S = 0.1


class Parameters(NamedTuple):
    """What a statement takes: the type of each parameter, and whether it is sent in binary."""

    kinds: tuple[int, ...]
    formats: tuple[int, ...]


def parameters(*kinds: int) -> Parameters:
    """Parameters of these types; a UUID is sent as its text, everything else in binary."""
    return Parameters(kinds, tuple(int(kind != UUID) for kind in kinds))


class PreparingConnection(Connection[Any]):
    """A connection that knows which statements its session has prepared."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        super().__init__(pgconn)
        self.prepared: dict[bytes, bytes] = {}
        self.transformer = Transformer(self)


def array(kind: int, items: Sequence[bytes | None]) -> bytes:
    """An array as a parameter; None is NULL."""
    if not items:
        return EMPTY[kind]
    nulls = None in items
    parts = [_array_head(1, int(nulls), _OF[kind], len(items), 1)]
    if not nulls:
        there = cast("Sequence[bytes]", items)
        parts += itertools.chain.from_iterable(zip(map(_int4, map(len, there)), there, strict=True))
        return b"".join(parts)
    for item in items:
        parts += (_NULL, b"") if item is None else (_int4(len(item)), item)
    return b"".join(parts)


def fetch(
    conn: Connection[Any], statement: bytes, takes: Parameters, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Run one statement with these bytes (None is NULL), and return its rows.

    Raises what a cursor would.  Behind a pooler nothing is prepared: another session would not know
    it.
    """
    assert isinstance(conn, PreparingConnection), "connections are made by DeadlineConnection"
    known = statement in conn.prepared
    result = _run(conn, statement, takes, values)
    if result.status != pq.ExecStatus.TUPLES_OK:
        error = error_from_result(result)
        if error.sqlstate not in _OUTDATED:
            raise error
        conn.prepared.clear()
        if not known or conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            raise error
        return fetch(conn, statement, takes, values)
    transformer = conn.transformer
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def _run(
    conn: PreparingConnection, statement: bytes, takes: Parameters, values: Sequence[Any]
) -> pq.abc.PGresult:
    pgconn, name = conn.pgconn, b""
    kinds, formats = takes
    if conn.prepare_threshold is not None:
        name = conn.prepared.get(statement) or _prepare(conn, statement, kinds)
    if threading.current_thread() is not threading.main_thread():
        if name:
            return pgconn.exec_prepared(name, values, formats, 1)
        return pgconn.exec_params(statement, values, kinds, formats, 1)
    # Signals arrive in this thread, and this way of waiting looks for them.
    if name:
        pgconn.send_query_prepared(name, values, formats, 1)
    else:
        pgconn.send_query_params(statement, values, kinds, formats, 1)
    return waiting.wait(execute(pgconn), pgconn.socket, interval=_LOOK_S)[-1]


def _prepare(conn: PreparingConnection, statement: bytes, kinds: Sequence[int]) -> bytes:
    name = b"standfast_%d" % next(_NUMBERS)
    result = conn.pgconn.prepare(name, statement, kinds)
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise error_from_result(result)
    conn.prepared[statement] = name
    return name
