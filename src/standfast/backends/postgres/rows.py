"""Rows of a collection's table: which keys fit it, and how changed documents are written."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, LiteralString

from psycopg import Connection, sql

from standfast.backends.postgres.tables import Table
from standfast.document.jsonb import jsonb_columns
from standfast.ops.apply import Current
from standfast.ops.batch import Place

_INTEGER_BOUNDS = {"integer": 2**31, "bigint": 2**63}


def key_fits(table: Table, key: str) -> bool:
    """Whether the table's key column can hold this key, as exactly this text."""
    bound = _INTEGER_BOUNDS.get(table.key_type)
    if bound is None:
        return True
    digits = key[1:] if key.startswith("-") else key
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return False
    return str(int(key)) == key and -bound <= int(key) < bound


def key_values(table: Table, keys: Iterable[str]) -> list[Any]:
    """The keys as values of the key column; those that it cannot hold are left out."""
    if table.key_type == "text":
        return list(keys)
    return [int(key) for key in keys if key_fits(table, key)]


_COLUMNS: LiteralString = (
    " FROM unnest(%b::{key_type}[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::bool[])"
    " AS u(key, data, raw, version, ttl, fresh)"
)
_EXPIRY: LiteralString = (
    "CASE WHEN u.ttl IS NULL THEN {otherwise} WHEN u.ttl = 0 THEN NULL"
    " ELSE now() + u.ttl * interval '1 microsecond' END"
)
#: The count of the rows is required by the server, since the commit is on its way already.
_ALL: LiteralString = " RETURNING 1) SELECT standfast.require((SELECT count(*) FROM done) = %s)"
_INSERT: LiteralString = (
    "WITH done AS (INSERT INTO {table}"
    " ({key}, data, raw, version, expires_at, created_at, updated_at)"
    " SELECT u.key, u.data::{data_type}, u.raw, u.version, "
    + _EXPIRY.replace("{otherwise}", "NULL")
    + ", now(), now()"
    + _COLUMNS
    + " ON CONFLICT ({key}) DO NOTHING"
    + _ALL
)
_UPDATE: LiteralString = (
    "WITH done AS (UPDATE {table} t SET data = u.data::{data_type}, raw = u.raw,"
    " version = u.version,"
    " expires_at = " + _EXPIRY.replace("{otherwise}", "t.expires_at") + ", updated_at = now(),"
    " created_at = CASE WHEN u.fresh THEN now() ELSE t.created_at END"
    + _COLUMNS
    + " WHERE t.{key} = u.key"
    + _ALL
)
_DELETE: LiteralString = (
    "WITH done AS (DELETE FROM {table} WHERE {key} = ANY (%b::{key_type}[])" + _ALL
)
_FORMS: tuple[tuple[str, LiteralString], ...] = (("insert", _INSERT), ("update", _UPDATE))


@lru_cache(maxsize=4096)
def statement(table: Table, form: LiteralString) -> bytes:
    """A statement on a table, composed once."""
    return sql.SQL(form).format(**table.parts()).as_bytes(None)


def write_rows(
    conn: Connection[Any],
    table: Table,
    keys: list[str],
    before: dict[Place, Current],
    after: dict[Place, Current],
    stored: set[Place],
) -> None:
    """Write the rows that changed, each kind in one statement, and log them as one change."""
    kinds: dict[str, list[str]] = {"insert": [], "update": [], "delete": []}
    for key in keys:
        place = (table.collection, key)
        if after[place].text is None:
            kinds["delete"].append(key)
        else:
            kinds["update" if place in stored else "insert"].append(key)
    for kind, form in _FORMS:
        if not kinds[kind]:
            continue
        records: list[tuple[Any, ...]] = []
        for key, value in zip(kinds[kind], key_values(table, kinds[kind]), strict=True):
            row = after[(table.collection, key)]
            assert row.text is not None, "a deleted row is not written"
            records.append((value, *jsonb_columns(row.text), row.version, row.ttl_us, row.fresh))
        columns = [list(column) for column in zip(*records, strict=True)]
        conn.execute(statement(table, form), (*columns, len(records)))
    doomed = [key for key in kinds["delete"] if (table.collection, key) in stored]
    if doomed:
        conn.execute(statement(table, _DELETE), (key_values(table, doomed), len(doomed)))
    _bury(conn, table, kinds["delete"], before, after)
    reborn = [key for key in kinds["insert"] if before[(table.collection, key)].version]
    if reborn:
        conn.execute(
            "DELETE FROM standfast.tombstones WHERE collection = %s AND key = ANY (%s)",
            (table.collection, reborn),
        )
    log_change(conn, table.collection, keys)


def _bury(
    conn: Connection[Any],
    table: Table,
    keys: list[str],
    before: dict[Place, Current],
    after: dict[Place, Current],
) -> None:
    """Raise the tombstones of documents that several ops of the batch changed before the delete.

    The trigger on the table buries what was stored, and knows nothing of versions in between.
    """
    places = [(table.collection, key) for key in keys]
    late = [place for place in places if after[place].version > before[place].version + 1]
    if late:
        conn.execute(
            "INSERT INTO standfast.tombstones AS t (collection, key, version)"
            " SELECT %s, u.key, u.version FROM unnest(%b::text[], %b::bigint[]) AS u(key, version)"
            " ON CONFLICT (collection, key) DO UPDATE SET"
            " version = greatest(t.version, excluded.version), deleted_at = now()",
            (table.collection, [key for _, key in late], [after[place].version for place in late]),
        )


def log_change(conn: Connection[Any], collection: str, keys: list[str] | None) -> None:
    """One row of the change log; above 1,000 keys they are not listed."""
    listed = keys if keys is not None and len(keys) <= 1000 else None
    conn.execute(
        "INSERT INTO standfast.changes (collection, keys) VALUES (%s, %b::text[])",
        (collection, listed),
    )
