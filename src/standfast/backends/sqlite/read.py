"""Reading live rows of one collection of a SQLite file: by keys, and in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from standfast.backends.base import readable
from standfast.backends.sqlite import write as sqlite_write
from standfast.document.containment import contains
from standfast.ops.types import Row

#: What is stored and has not expired; its parameter is the time now.
LIVE = "(expires_at IS NULL OR expires_at > ?)"
_ROW = "SELECT key, data, version, created_at, updated_at, expires_at"


def read_live(
    conn: apsw.Connection, collection: str, keys: Sequence[str], now_us: int
) -> dict[str, Row]:
    """The live documents of these keys; missing ones are left out."""
    if len(keys) == 1:
        found = conn.execute(
            f'{_ROW} FROM "{collection}" WHERE key = ? AND {LIVE}', (keys[0], now_us)
        )
    else:
        found = conn.execute(
            f'{_ROW} FROM "{collection}" WHERE key IN (SELECT value FROM json_each(?)) AND {LIVE}',
            (sqlite_write.json_array(keys), now_us),
        )
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
    where, values = [LIVE], list[int | str]([now_us])
    if prefix:
        where.append("key >= ? AND substr(key, 1, ?) = ?")
        values += [prefix, len(prefix), prefix]
    if after is not None:
        where.append("key > ?")
        values.append(after)
    records = conn.execute(
        f'{_ROW} FROM "{collection}" WHERE {" AND ".join(where)} ORDER BY key', values
    )
    page: list[Row] = []
    for record in records:
        row = Row(*record)
        if query is None or contains(readable(collection, row), query):
            page.append(row)
            if len(page) == limit:
                break
    return page
