"""Which test of the contract runs over which kind of connection by default; the rest are `slow`."""

from __future__ import annotations

from zlib import crc32

#: Classes of test_backends.py that differ in how they are connected, and in nothing else.
TURNS = [
    ("TestPostgres", "TestPostgresBehindAPooler", "TestPostgresLine"),
    ("TestPostgresAppBehindAPooler", "TestPostgresAppDedicated", "TestPostgresApp"),
]
#: Of those in a database without bookkeeping one in so many: to make it costs more than the test.
_EMPTY = 6


def has_turn(kind: str, test: str) -> bool:
    """Whether this class runs this test of the contract by default.

    By the name alone, so that a new test changes no other's turn.  What the owner runs over one
    kind of connection, the role with the least rights runs over another.
    """
    number = crc32(test.encode())
    if kind == "TestPostgresEmpty":
        return number // 3 % _EMPTY == 0
    for kinds in TURNS:
        if kind in kinds:
            return kinds[number % len(kinds)] == kind
    return True
