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
#: A receipt means that the commit is on disk, whatever is reloaded later: what is weaker is made
#: `on`, what is stronger stays.
_DURABLE: LiteralString = (
    "CASE WHEN pg_catalog.current_setting('synchronous_commit')"
    " OPERATOR(pg_catalog.=) ANY (ARRAY['off', 'local']) THEN 'on'"
    " ELSE pg_catalog.current_setting('synchronous_commit') END"
)


def _settings(local: LiteralString) -> LiteralString:
    """Expressions that set all of them, for the transaction where `local` is true."""
    settings: list[LiteralString] = [
        f"pg_catalog.set_config('{name}', '{value}', {local})" for name, value in _PINNED
    ]
    settings.append(f"pg_catalog.set_config('synchronous_commit', {_DURABLE}, {local})")
    return ", ".join(settings)


#: Where tables of ours are, by the search path that role, database and URL gave to the session.
_HOME: LiteralString = "pg_catalog.current_schema()::pg_catalog.text"
#: A pinned session keeps it, since it cannot be asked again.
_KEPT: LiteralString = "pg_catalog.current_setting('standfast.home', true)"
#: Expressions for the first statement on a connection: `{local}` is true where its session is not
#: ours, so that nothing may outlive the transaction.
PIN_BY: Final[LiteralString] = (
    "pg_catalog.set_config('standfast.home', coalesce("
    f"CASE WHEN {{local}} THEN NULL ELSE {_KEPT} END, {_HOME}, ''), {{local}}), "
    + _settings("{local}")
)
#: Run first of all in a transaction, where it is not.
PIN_TRANSACTION: Final[LiteralString] = "SELECT " + _settings("true")
