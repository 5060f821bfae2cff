"""Settings that our statements count on, whatever the role, the database or the URL says.

The first of them is the search path: who may create things in a schema of it could otherwise put
an operator or a function of their own under the name of PostgreSQL's, which then runs as whoever
reads or writes a document.  Before it is pinned, all names and operators have their schema.

A session of ours is pinned once, when its connection is made; behind a transaction pooler, where
each transaction may meet another session, every transaction is.
"""

from __future__ import annotations

from typing import Final, LiteralString

_PINNED: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("search_path", "pg_catalog, pg_temp"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("DateStyle", "ISO, YMD"),
    # Rows that a policy hides are left out; off would make an error of it.
    ("row_security", "on"),
)


def _statement(*, local: bool) -> LiteralString:
    where: LiteralString = "true" if local else "false"
    settings: list[LiteralString] = [
        f"pg_catalog.set_config('{name}', '{value}', {where})" for name, value in _PINNED
    ]
    return ", ".join(settings)


#: Where tables of ours are, by the search path that role, database and URL gave to the session.
HOME: Final[LiteralString] = "pg_catalog.current_schema()::pg_catalog.text"
#: The setting in which a pinned session keeps it.
_KEPT: LiteralString = "standfast.home"
#: Run once, first of all, where a session is ours.
PIN_SESSION: Final[LiteralString] = (
    f"SELECT pg_catalog.set_config('{_KEPT}', {HOME}, false), " + _statement(local=False)
)
#: Run first of all in a transaction, where it is not.
PIN_TRANSACTION: Final[LiteralString] = "SELECT " + _statement(local=True)
#: What a pinned session has kept; empty where no schema of its search path exists.
KEPT_HOME: Final[LiteralString] = f"pg_catalog.current_setting('{_KEPT}', true)"
