"""Reading live rows of one collection of a SQLite file: by keys, and in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from standfast.backends.base import readable
from standfast.backends.sqlite import write as sqlite_write
from standfast.backends.sqlite.tables import table_of
from standfast.document.containment import contains
from standfast.ops.types import Row


def read_live(
    conn: apsw.Connection, collection: str, keys: Sequence[str], now_us: int
) -> dict[str, Row]:
    """The live documents of these keys; missing ones are left out."""
    table = table_of(conn, collection)
    start = f"{table.row} FROM {table.sql} WHERE {table.live} AND {table.key_sql}"
    if len(keys) == 1:
        found = conn.execute(f"{start} = ?", (now_us, keys[0]))
    else:
        listed = sqlite_write.json_array(keys)
        found = conn.execute(f"{start} IN (SELECT value FROM json_each(?))", (now_us, listed))
    return {record[0]: Row(*record) for record in found}


def scan_live(
    conn: apsw.Connection,
    collection: str,
    now_us: int,
    *,
    prefix: str,
    after: str | None,
    limit: int,
    query: Any,
) -> list[Row]:
    """One page of live documents in bytewise key order; with `query`, of those that contain it."""
    table = table_of(conn, collection)
    where, values = [table.live], list[int | str]([now_us])
    if prefix:
        where.append(f"{table.key_sql} >= ? AND substr({table.key_sql}, 1, ?) = ?")
        values += [prefix, len(prefix), prefix]
    if after is not None:
        where.append(f"{table.key_sql} > ?")
        values.append(after)
    records = conn.execute(
        f"{table.row} FROM {table.sql} WHERE {' AND '.join(where)} ORDER BY {table.key_sql}", values
    )
    page: list[Row] = []
    for record in records:
        row = Row(*record)
        if query is None or contains(readable(collection, row), query):
            page.append(row)
            if len(page) == limit:
                break
    return page
