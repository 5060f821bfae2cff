"""One batch of ops in one PostgreSQL transaction: lock, read, fold, write, log, watermark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString

from psycopg import Connection, sql

from holdfast.backends.base import brief, gate
from holdfast.backends.pgtables import Table
from holdfast.fold import Current, Place, fold
from holdfast.jsonb import jsonb_columns
from holdfast.types import Applied, Op

_INTEGER_BOUNDS = {"integer": 2**31, "bigint": 2**63}


class LostRace(Exception):
    """A row was created, or a write suppressed, between our look and our write: do it all again."""


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


def apply_batch(
    conn: Connection[Any], tables: list[tuple[Table, list[str]]], ops: Sequence[Op], believed: int
) -> Applied:
    """Apply the ops inside the caller's transaction."""
    lane = ops[0].lane
    row = conn.execute(
        "INSERT INTO holdfast.lanes AS l (lane) VALUES (%s)"
        " ON CONFLICT (lane, generation) DO UPDATE SET updated_at = now()"
        " RETURNING l.watermark, l.state, l.outcomes",
        (lane,),
    ).fetchone()
    assert row is not None, "an upsert returns its row"
    fresh, skipped = gate(ops, believed, *row)
    if not fresh:
        return Applied(skipped, row[0])
    rows: dict[Place, Current] = {}
    stored: set[Place] = set()
    for table, keys in tables:
        rows.update(_lock_rows(conn, table, keys, stored))
    before = dict(rows)
    done = fold(rows, fresh)
    for table, keys in tables:
        changed = [
            key
            for key in keys
            if rows.get((table.collection, key)) is not before.get((table.collection, key))
        ]
        if changed:
            _write_rows(conn, table, changed, before, rows, stored)
    conn.execute(
        "UPDATE holdfast.lanes SET watermark = %s, outcomes = %s, updated_at = now()"
        " WHERE lane = %s AND generation = 0",
        (fresh[-1].seq, brief([*skipped, *done]), lane),
    )
    return Applied(skipped + done, fresh[-1].seq)


def _lock_rows(
    conn: Connection[Any], table: Table, keys: list[str], stored: set[Place]
) -> dict[Place, Current]:
    """Lock the rows in key order and read them; for the others, the version to go on from.

    `stored` collects the places that have a row, expired ones included.
    """
    rows: dict[Place, Current] = {}
    statement = sql.SQL(
        "SELECT {key_text}, {text}, t.version, {live} FROM {table} t"
        " WHERE t.{key} = ANY (%b::{key_type}[]) ORDER BY {ordered} FOR UPDATE"
    ).format(**table.parts())
    for key, text, version, live in conn.execute(statement, (key_values(table, keys),)):
        rows[(table.collection, key)] = Current(text if live else None, version)
    stored.update(rows)
    missing = [key for key in keys if (table.collection, key) not in rows]
    if missing:
        for key, version in conn.execute(
            "SELECT k, greatest(c.version_floor, coalesce(t.version, 0))"
            "  FROM unnest(%b::text[]) AS k"
            "  JOIN holdfast.collections c ON c.name = %s"
            "  LEFT JOIN holdfast.tombstones t ON t.collection = c.name AND t.key = k",
            (missing, table.collection),
        ):
            unfit = "" if key_fits(table, key) else f"the table's key column is {table.key_type}"
            rows[(table.collection, key)] = Current(None, version, unfit=unfit)
    return rows


_COLUMNS: LiteralString = (
    " FROM unnest(%b::{key_type}[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::bool[])"
    " AS u(key, data, raw, version, ttl, fresh)"
)
_EXPIRY: LiteralString = (
    "CASE WHEN u.ttl IS NULL THEN {otherwise} WHEN u.ttl = 0 THEN NULL"
    " ELSE now() + u.ttl * interval '1 microsecond' END"
)
_INSERT: LiteralString = (
    "INSERT INTO {table} ({key}, data, raw, version, expires_at, created_at, updated_at)"
    " SELECT u.key, u.data::{data_type}, u.raw, u.version, "
    + _EXPIRY.replace("{otherwise}", "NULL")
    + ", now(), now()"
    + _COLUMNS
    + " ON CONFLICT ({key}) DO NOTHING"
)
_UPDATE: LiteralString = (
    "UPDATE {table} t SET data = u.data::{data_type}, raw = u.raw, version = u.version,"
    " expires_at = " + _EXPIRY.replace("{otherwise}", "t.expires_at") + ", updated_at = now(),"
    " created_at = CASE WHEN u.fresh THEN now() ELSE t.created_at END"
    + _COLUMNS
    + " WHERE t.{key} = u.key"
)
_FORMS: tuple[tuple[str, LiteralString], ...] = (("insert", _INSERT), ("update", _UPDATE))


def _write_rows(
    conn: Connection[Any],
    table: Table,
    keys: list[str],
    before: dict[Place, Current],
    after: dict[Place, Current],
    stored: set[Place],
) -> None:
    """Write what the fold changed, each kind in one statement, and log it as one change."""
    kinds: dict[str, list[str]] = {"insert": [], "update": [], "delete": []}
    for key in keys:
        place = (table.collection, key)
        if after[place].text is None:
            kinds["delete"].append(key)
        else:
            kinds["update" if place in stored else "insert"].append(key)
    parts = table.parts()
    for kind, form in _FORMS:
        if not kinds[kind]:
            continue
        records: list[tuple[Any, ...]] = []
        for key, value in zip(kinds[kind], key_values(table, kinds[kind]), strict=True):
            row = after[(table.collection, key)]
            assert row.text is not None, "a deleted row is not written"
            fresh = before[(table.collection, key)].text is None
            records.append((value, *jsonb_columns(row.text), row.version, row.ttl_us, fresh))
        columns = [list(column) for column in zip(*records, strict=True)]
        cur = conn.execute(sql.SQL(form).format(**parts), columns)
        if cur.rowcount != len(records):
            raise LostRace
    doomed = [key for key in kinds["delete"] if (table.collection, key) in stored]
    if doomed:
        statement = sql.SQL("DELETE FROM {table} WHERE {key} = ANY (%b::{key_type}[])")
        cur = conn.execute(statement.format(**parts), (key_values(table, doomed),))
        if cur.rowcount != len(doomed):
            raise LostRace
    _bury(conn, table, kinds["delete"], before, after)
    reborn = [key for key in kinds["insert"] if before[(table.collection, key)].version]
    if reborn:
        conn.execute(
            "DELETE FROM holdfast.tombstones WHERE collection = %s AND key = ANY (%s)",
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
            "INSERT INTO holdfast.tombstones AS t (collection, key, version)"
            " SELECT %s, u.key, u.version FROM unnest(%b::text[], %b::bigint[]) AS u(key, version)"
            " ON CONFLICT (collection, key) DO UPDATE SET"
            " version = greatest(t.version, excluded.version), deleted_at = now()",
            (table.collection, [key for _, key in late], [after[place].version for place in late]),
        )


def log_change(conn: Connection[Any], collection: str, keys: list[str] | None) -> None:
    """One row of the change log; above 1,000 keys they are not listed."""
    listed = keys if keys is not None and len(keys) <= 1000 else None
    conn.execute(
        "INSERT INTO holdfast.changes (collection, keys) VALUES (%s, %b::text[])",
        (collection, listed),
    )
