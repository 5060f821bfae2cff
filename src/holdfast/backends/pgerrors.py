"""PostgreSQL's errors as ours: SQLSTATE classes decide, never the text.

Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolTimeout

from holdfast.errors import ConfigError, DataError, HoldfastError, Unavailable

#: Run the transaction again: deadlock, serialization failure, lost race for a new key.
RETRIED = ("40P01", "40001", "23505")

_EXACT: dict[str, tuple[type[HoldfastError], str, str]] = {
    "42501": (ConfigError, "no_rights", "ask for the missing right: `holdfast schema sql` prints it"),
    "42P01": (ConfigError, "no_table", "the table was dropped or renamed: restore it"),
    "42703": (ConfigError, "no_column", "the table was changed: restore the column"),
    "3F000": (ConfigError, "no_schema", "create the schema or correct the URL"),
    "3D000": (ConfigError, "no_database", "create the database or correct the URL"),
    "28000": (Unavailable, "auth", "correct the user or the server's pg_hba.conf"),
    "28P01": (Unavailable, "auth", "correct the password in the URL"),
    "25006": (Unavailable, "read_only", "this server is a standby or read-only: use the primary"),
    "55P03": (Unavailable, "locked", "another transaction holds a lock on it: try again"),
    "57014": (Unavailable, "timeout", "the server's time limit cut the statement off"),
    "53300": (Unavailable, "too_many_connections", "wait, or raise the server's limit"),
    "53100": (Unavailable, "disk_full", "free space on the database server"),
    "22003": (DataError, "out_of_range", "the table's key column cannot hold this key"),
}
_CLASSES: dict[str, tuple[type[HoldfastError], str, str]] = {
    "08": (Unavailable, "connection", "check that the server runs and can be reached"),
    "40": (Unavailable, "retry", "another transaction was in the way: try again"),
    "53": (Unavailable, "resources", "the server is out of a resource"),
    "57": (Unavailable, "shutdown", "the server is starting, stopping or cut the session off"),
    "58": (Unavailable, "server_io", "the database server's disk or system failed"),
    "XX": (Unavailable, "server_internal", "look into the database server's log"),
    "22": (DataError, "refused", "the table cannot hold this value"),
    "23": (DataError, "constraint", "a constraint of the table refuses this row"),
}


def explain(error: psycopg.Error, doing: str) -> HoldfastError:
    """Our error for theirs.  `doing` says what was tried and on what.

    Their text is quoted only where it holds no data of a row: never for classes 22 and 23, whose
    messages repeat values.
    """
    state = error.sqlstate or ""
    if state:
        kind, code, hint = _EXACT.get(state) or _CLASSES.get(
            state[:2], (ConfigError, "database", "the database refused the statement")
        )
        quoted = "" if state[:2] in ("22", "23") else f": {error.diag.message_primary}"
        return kind(f"{doing}: PostgreSQL answered {state}{quoted}", code=code, hint=hint)
    if isinstance(error, PoolTimeout):
        return Unavailable(
            f"{doing}: no connection in time", code="connection", hint=_CLASSES["08"][2]
        )
    reason = str(error).strip().splitlines() or ["the connection was lost"]
    return Unavailable(f"{doing}: {reason[-1]}", code="connection", hint=_CLASSES["08"][2])


@contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Run a block in which psycopg's errors become ours."""
    try:
        yield
    except psycopg.Error as error:
        # The original's text may hold rows or a connection string: it is not chained.
        raise explain(error, doing) from None
