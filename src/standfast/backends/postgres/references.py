"""Who refers to a collection's rows: foreign keys of other tables, and what a delete would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

import msgspec
from psycopg import Connection, sql

from standfast.backends.base import Reference
from standfast.backends.postgres.tables import Table
from standfast.backends.postgres.write import key_values
from standfast.document.codec import decode

#: Foreign keys in a row that are followed: a delete that cascades further is cut off there.
_MAX_DEPTH = 8
_ACTIONS = {
    "a": "NO ACTION",
    "r": "RESTRICT",
    "c": "CASCADE",
    "n": "SET NULL",
    "d": "SET DEFAULT",
}
_FOREIGN_KEYS: LiteralString = """
SELECT c.oid, c.conname::text, c.conrelid, n.nspname::text, r.relname::text, c.confdeltype::text,
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM unnest(c.conkey) WITH ORDINALITY AS k(number, place)
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number),
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM unnest(c.confkey) WITH ORDINALITY AS k(number, place)
          JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number)
  FROM pg_constraint c
  JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE c.contype = 'f' AND c.confrelid = %s AND c.conparentid = 0
 ORDER BY c.conname, c.oid
"""


class _ForeignKey(NamedTuple):
    """A row of `_FOREIGN_KEYS`."""

    oid: int
    name: str
    table: int
    schema: str
    relation: str
    action: str
    columns: list[str]
    referred: list[str]


class _Rows(NamedTuple):
    """Rows of a table, by a condition on it under the name that its depth gives it."""

    table: int
    name: sql.Identifier
    condition: sql.Composable
    depth: int

    @property
    def alias(self) -> sql.Identifier:
        return sql.Identifier(f"t{self.depth}")


def find_references(conn: Connection[Any], table: Table, keys: Sequence[str]) -> list[Reference]:
    """The rows of other tables that refer to these rows, and those that refer to such as would go
    with them."""
    oid = conn.execute(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        (table.schema, table.name),
    ).fetchone()
    if oid is None or not keys:
        return []
    chosen = sql.SQL("{}.{} = ANY (%(keys)b::{}[])")
    parts = (table.key, sql.SQL(table.key_type))
    condition = chosen.format(sql.Identifier("t0"), *parts)
    found: list[Reference] = []
    rows = _Rows(oid[0], table.sql, condition, 0)
    _follow(conn, rows, (), {"keys": key_values(table, keys)}, found)
    going, own = set(keys), f"{table.schema}.{table.name}"
    for each in [each for each in found if each.table == own]:
        # Of the table itself only rows count that stay.
        rows = [row for row in each.rows if str(decode(row)[table.key_column]) not in going]
        found.remove(each)
        if rows:
            found.append(msgspec.structs.replace(each, rows=rows))
    return found


def _follow(
    conn: Connection[Any],
    parent: _Rows,
    path: tuple[int, ...],
    params: dict[str, Any],
    found: list[Reference],
) -> None:
    for key in (_ForeignKey(*row) for row in conn.execute(_FOREIGN_KEYS, (parent.table,))):
        if key.oid in path:
            continue
        child = _referring(parent, key)
        statement = sql.SQL("SELECT to_jsonb({alias})::text FROM {name} AS {alias} WHERE {which}")
        rows = conn.execute(
            statement.format(alias=child.alias, name=child.name, which=child.condition), params
        ).fetchall()
        if rows:
            action = _ACTIONS[key.action]
            table = f"{key.schema}.{key.relation}"
            found.append(Reference(key.name, table, action, [text for (text,) in rows]))
            if key.action == "c" and child.depth < _MAX_DEPTH:
                _follow(conn, child, (*path, key.oid), params, found)


def _referring(parent: _Rows, key: _ForeignKey) -> _Rows:
    """The rows of a foreign key's table that refer to rows of the table above."""
    alias = sql.Identifier(f"t{parent.depth + 1}")
    pairs = [
        sql.SQL("{}.{} = {}.{}").format(parent.alias, _name(referred), alias, _name(column))
        for column, referred in zip(key.columns, key.referred, strict=True)
    ]
    condition = sql.SQL("EXISTS (SELECT FROM {} AS {} WHERE {} AND {})").format(
        parent.name, parent.alias, sql.SQL(" AND ").join(pairs), parent.condition
    )
    name = _name(key.schema, key.relation)
    return _Rows(key.table, name, condition, parent.depth + 1)


def _name(*parts: str) -> sql.Identifier:
    """A quoted name in a statement with parameters, where a % stands twice."""
    return sql.Identifier(*(part.replace("%", "%%") for part in parts))
