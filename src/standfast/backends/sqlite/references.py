"""Who refers to a collection's rows in a SQLite file: foreign keys of other tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import apsw

from standfast.backends.base import Reference
from standfast.backends.sqlite.tables import Table, quoted
from standfast.backends.sqlite.write import json_array

#: Foreign keys in a row that are followed: a delete that cascades further is cut off there.
_MAX_DEPTH = 8
_FOREIGN_KEYS = """
SELECT m.name, f.id, f.on_delete, f."from", f."to"
  FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
 WHERE m.type = 'table' AND lower(f."table") = lower(?)
 ORDER BY m.name, f.id, f.seq
"""


class _Rows(NamedTuple):
    """Rows of a table, by a condition on it under the name that its depth gives it."""

    table: str
    condition: str
    depth: int


class _ForeignKey(NamedTuple):
    """A foreign key of a table; it has no name in SQLite."""

    table: str
    number: int
    action: str
    pairs: tuple[tuple[str, str], ...]


@contextmanager
def enforced_references(conn: apsw.Connection) -> Generator[None]:
    """Let foreign keys act in the transactions of the block, as the file's own program may.

    SQLite leaves them out of account unless each connection asks for them.
    """
    conn.execute("PRAGMA foreign_keys = ON")
    try:
        yield
    finally:
        # Closed meanwhile, because the file is gone: that error is the one to report.
        with suppress(apsw.ConnectionClosedError):
            conn.execute("PRAGMA foreign_keys = OFF")


def find_references(conn: apsw.Connection, table: Table, keys: Sequence[str]) -> list[Reference]:
    """The rows of other tables that refer to these rows, and those that refer to such as would go
    with them."""
    if not keys:
        return []
    which = f"{{0}}.{table.key_sql} IN (SELECT value FROM json_each(?1))"
    found: list[Reference] = []
    rows = _Rows(table.name, which.format("t0"), 0)
    stays = f" AND NOT {which}"
    _follow(conn, rows, (), table.name, stays, json_array(keys), found)
    return found


def _follow(
    conn: apsw.Connection,
    parent: _Rows,
    path: tuple[_ForeignKey, ...],
    own: str,
    stays: str,
    keys: str,
    found: list[Reference],
) -> None:
    for key in _foreign_keys(conn, parent.table):
        if key in path:
            continue
        above, alias = f"t{parent.depth}", f"t{parent.depth + 1}"
        joined = " AND ".join(
            f"{above}.{quoted(to)} = {alias}.{quoted(column)}" for column, to in key.pairs
        )
        condition = (
            f"EXISTS (SELECT 1 FROM {quoted(parent.table)} {above} WHERE {joined}"
            f" AND {parent.condition})"
        ) + (stays.format(alias) if key.table == own else "")
        columns = _columns(conn, key.table, alias)
        cursor: Any = conn.execute(
            f"SELECT json_object({columns}) FROM {quoted(key.table)} {alias} WHERE {condition}",
            (keys,),
        )
        if rows := cursor.fetchall():
            name = ", ".join(column for column, _ in key.pairs)
            found.append(Reference(name, key.table, key.action, [text for (text,) in rows]))
            if key.action == "CASCADE" and parent.depth < _MAX_DEPTH:
                child = _Rows(key.table, condition, parent.depth + 1)
                _follow(conn, child, (*path, key), own, stays, keys, found)


def _foreign_keys(conn: apsw.Connection, table: str) -> list[_ForeignKey]:
    pairs: dict[tuple[str, int, str], list[tuple[str, str]]] = defaultdict(list)
    cursor: Any = conn.execute(_FOREIGN_KEYS, (table,))
    for child, number, action, column, to in cursor.fetchall():
        pairs[child, number, action].append((column, to or _primary_key(conn, table)))
    return [_ForeignKey(*key, tuple(columns)) for key, columns in pairs.items()]


def _primary_key(conn: apsw.Connection, table: str) -> str:
    """What a foreign key refers to that names no column."""
    return conn.execute("SELECT name FROM pragma_table_info(?) WHERE pk = 1", (table,)).get


def _columns(conn: apsw.Connection, table: str, alias: str) -> str:
    """The arguments of json_object for a whole row; bytes as hexadecimal digits."""
    names: Any = conn.execute("SELECT name FROM pragma_table_info(?)", (table,))
    return ", ".join(
        "'{}', CASE typeof({c}) WHEN 'blob' THEN hex({c}) ELSE {c} END".format(
            name.replace("'", "''"), c=f"{alias}.{quoted(name)}"
        )
        for (name,) in names
    )
