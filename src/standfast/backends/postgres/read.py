"""Rows as they are read from a PostgreSQL table: the exact text, and pages of a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, LiteralString, ParamSpec, TypeVar

from psycopg import Connection, sql

from standfast.backends.base import Image
from standfast.backends.postgres.prepared import (
    INT8,
    TEXT,
    TEXTS,
    UUID,
    array,
    fetch,
    int8,
    parameters,
)
from standfast.backends.postgres.tables import Table, sent_us
from standfast.backends.postgres.write import (
    LANES,
    UnregisteredError,
    decode_watermarks,
    key_values,
    statement,
)
from standfast.document.codec import decode
from standfast.document.containment import contains
from standfast.document.jsonb import compact, jsonb_columns, project, same_in_jsonb
from standfast.document.names import prefix_end
from standfast.errors import ConfigError
from standfast.limits import MAX_TRANSACTION_ATTEMPTS
from standfast.ops.types import Observed, Row, State, state_of_row

#: Codes of what a statement meets that was made for a table as it was.
_STALE = ("no_table", "database")
P = ParamSpec("P")
R = TypeVar("R")
_ROW = "SELECT {key_text}, {text}, {version}, {created_us}, {updated_us}, {expires_us}"
_OBSERVE: LiteralString = (
    "WITH lanes AS MATERIALIZED (SELECT jsonb_object_agg(l.lane, l.watermark)::text AS watermarks"
    " FROM standfast.lanes l WHERE l.directory = $1 AND l.state = 'open')"
    " SELECT u.k, {text}, t.version, {created_us}, {updated_us}, {expires_us}, {live},"
    " greatest(c.version_floor, coalesce(b.version, 0)), (SELECT watermarks FROM lanes)"
    # An answer without keys still has the watermarks.
    " FROM standfast.collections c LEFT JOIN unnest($2) AS u(k) ON true"
    " LEFT JOIN {table} t ON {same_key}"
    " LEFT JOIN standfast.tombstones b ON b.collection = c.name AND b.key = u.k"
    " WHERE c.name = $3"
)
_TAKES = parameters(UUID, TEXTS, TEXT)
# The first part is one row, which has no key; without it the collection is not registered.
_PAGE: LiteralString = (
    "SELECT NULL::text, (SELECT jsonb_object_agg(l.lane, l.watermark)::text FROM standfast.lanes l"
    " WHERE l.directory = $1 AND l.state = 'open'), NULL::text, NULL::bigint, NULL::bytea,"
    " NULL::bytea, NULL::bytea FROM standfast.collections c WHERE c.name = $2 UNION ALL"
    " (SELECT {key_text}, {raw}, CASE WHEN {raw} IS NULL THEN t.data::text END, {version},"
    " {created_sent}, {updated_sent}, {expires_sent} FROM {table} t WHERE {live}"
)
_PAGE_END: LiteralString = " ORDER BY {ordered} LIMIT $3)"
_FIRST_PAGE: LiteralString = _PAGE + _PAGE_END
_NEXT_PAGE: LiteralString = _PAGE + " AND {ordered} > $4" + _PAGE_END
_FIRST_PAGE_TAKES = parameters(UUID, TEXT, INT8)
_NEXT_PAGE_TAKES = parameters(UUID, TEXT, INT8, TEXT)
#: Rows that are fetched at a time for a comparison of their texts.
_PAGE_ROWS = 500
#: What stands in `data` for characters that jsonb cannot hold: see `jsonb.jsonb_columns`.
_REPLACEMENT = "\ufffd"


def looking_again(call: Callable[P, R]) -> Callable[P, R]:
    """Read again where the table is not as it was known: dropped, and made anew maybe.

    It is looked up then, and one that is lost is named; another drop may come in between.
    """

    @wraps(call)
    def reading(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(MAX_TRANSACTION_ATTEMPTS - 1):
            try:
                return call(*args, **kwargs)
            except ConfigError as error:
                if error.code not in _STALE:
                    raise
            except UnregisteredError:
                pass
        try:
            return call(*args, **kwargs)
        except UnregisteredError:
            raise unregistered() from None

    return reading


def unregistered() -> ConfigError:
    """The error of a collection whose line in the bookkeeping goes again and again."""
    return ConfigError(
        "the bookkeeping loses a collection again and again; nothing was changed",
        code="not_adoptable",
        hint="look who deletes rows of standfast.collections",
    )


def read_rows(conn: Connection[Any], table: Table, keys: Sequence[str]) -> dict[str, Row]:
    """The live rows of these keys."""
    statement = sql.SQL(
        _ROW + " FROM {table} t WHERE t.{key} = ANY (%b::{key_type}[]) AND {live}"
    ).format(**table.parts())
    found = conn.execute(statement, (key_values(table, keys),))
    return {record[0]: _row(record) for record in found}


def read_images(conn: Connection[Any], table: Table, keys: Sequence[str]) -> dict[str, Image]:
    """All that is stored of these rows, expired ones included."""
    statement = sql.SQL(
        "SELECT {key_text}, coalesce(t.data::text, 'null'), {raw}, {version},"
        " {created_or_null}, {updated_or_null}, {expires_us}, {others}"
        " FROM {table} t WHERE t.{key} = ANY (%b::{key_type}[])"
    ).format(**table.parts())
    found = conn.execute(statement, (key_values(table, keys),))
    return {record[0]: Image(*record) for record in found}


def observe(
    conn: Connection[Any], table: Table, keys: Sequence[str], directory: str | None
) -> Observed:
    """What these places hold, and the lanes' watermarks, in one statement and so one snapshot.

    If there is no row, the version is the one that a new document would exceed.  Raises
    `UnregisteredError`.
    """
    values = (
        directory.encode() if directory else None,
        array(TEXTS, [key.encode() for key in keys]),
        table.collection.encode(),
    )
    found = fetch(conn, statement(table, _OBSERVE), _TAKES, values)
    states: list[State] = []
    lanes: str | None = None
    for key, text, version, created, updated, expires, live, buried, watermarks in found:
        lanes = watermarks
        if key is None:
            continue
        if version is None:
            states.append(State(table.collection, key, None, buried))
        else:
            shown = compact(text) if live else None
            states.append(State(table.collection, key, shown, version, created, updated, expires))
    if not found:
        raise UnregisteredError(table.collection)
    return Observed(states, decode_watermarks(lanes) if lanes else {})


def page(
    conn: Connection[Any], table: Table, after: str | None, limit: int, directory: str | None
) -> Observed:
    """A page of the live rows of a table that is `ready`, and the lanes' watermarks, in one
    statement and so one snapshot.  Raises `UnregisteredError`."""
    form, takes = _FIRST_PAGE, _FIRST_PAGE_TAKES
    values = [directory.encode() if directory else None, table.collection.encode(), int8(limit)]
    if after is not None:
        form, takes = _NEXT_PAGE, _NEXT_PAGE_TAKES
        values.append(after.encode())
    states: list[State] = []
    lanes: str | None = None
    registered = False
    for key, raw, data, *rest in fetch(conn, statement(table, form), takes, values):
        if key is None:
            registered, lanes = True, raw
            continue
        version, created, updated, expires = rest
        states.append(
            State(
                *(table.collection, key, compact(data or "null") if raw is None else raw, version),
                0 if created is None else sent_us(created),
                0 if updated is None else sent_us(updated),
                None if expires is None else sent_us(expires),
            )
        )
    if not registered:
        raise UnregisteredError(table.collection)
    return Observed(states, decode_watermarks(lanes) if lanes else {})


def watermarks(conn: Connection[Any], directory: str | None) -> dict[str, int]:
    """The watermarks of the open lanes of a data directory."""
    return dict(conn.execute(LANES, (directory,)).fetchall())


def state_of(collection: str, key: str, row: Row | None) -> State:
    """A place of a table that is not adopted, or not even there."""
    if row is None:
        return State(collection, key, None, 0)
    return state_of_row(collection, row)


def scan_rows(
    conn: Connection[Any],
    table: Table,
    *,
    after: str | None,
    limit: int,
    prefix: str = "",
    reverse: bool = False,
    query: Any = None,
) -> list[Row]:
    """One page of live rows in bytewise key order; with `query`, of those that contain it."""
    wanted = None if query is None else project(query)
    page = _page(conn, table, prefix, after, limit, reverse, wanted)
    if wanted is None or _REPLACEMENT not in wanted:
        return page
    # In `data`, characters that jsonb cannot hold all look alike: the exact text decides.
    found: list[Row] = []
    while page:
        found += [row for row in page if contains(decode(row.text), query)]
        if len(page) < limit or len(found) >= limit:
            break
        page = _page(conn, table, prefix, page[-1].key, limit, reverse, wanted)
    return found[:limit]


def _page(
    conn: Connection[Any],
    table: Table,
    prefix: str,
    after: str | None,
    limit: int,
    reverse: bool,
    wanted: str | None,
) -> list[Row]:
    where: list[LiteralString] = ["{live}"]
    values: list[Any] = []
    if prefix:
        where.append("{ordered} >= %s::text")
        values.append(prefix)
    end = prefix_end(prefix)
    if end is not None:
        where.append("{ordered} < %s::text")
        values.append(end)
    # The empty string is a key, and so it can be what a page begins after.
    if after is not None:
        where.append("{ordered} " + ("<" if reverse else ">") + " %s::text")
        values.append(after)
    if wanted is not None:
        where.append("t.data::jsonb @> %s::jsonb")
        values.append(wanted)
    statement = sql.SQL(
        _ROW
        + " FROM {table} t WHERE "
        + " AND ".join(where)
        + (" ORDER BY {ordered} DESC LIMIT %s" if reverse else " ORDER BY {ordered} LIMIT %s")
    ).format(**table.parts())
    return [_row(record) for record in conn.execute(statement, (*values, limit))]


def inconsistent_keys(conn: Connection[Any], table: Table) -> Iterator[str]:
    """The keys of live rows whose `data` is not what their exact text says.

    The server compares what it can cast, with several processes where it likes to: hence keys
    alone, and no cursor.  What it finds different, and what its cast might refuse (U+0000, lone
    surrogates, numbers beyond numeric), is compared here, by the text's projection.
    """
    suspects = sql.SQL(
        "SELECT {key_text} FROM {table} t WHERE {live} AND {raw} IS NOT NULL AND CASE"
        " WHEN length({raw}) > 16000 OR {raw} ~* '[0-9]e[-+]?[0-9][0-9][0-9][0-9]' THEN true"
        " WHEN strpos({raw}, '\\u') > 0 AND {raw} ~* '\\\\u(0000|d[89a-f])' THEN true"
        " ELSE {raw}::jsonb IS DISTINCT FROM t.data::jsonb END"
    ).format(**table.parts())
    both = sql.SQL(
        "SELECT {key_text}, {raw}, t.data::text FROM {table} t"
        " WHERE t.{key} = ANY (%b::{key_type}[]) AND {raw} IS NOT NULL"
    ).format(**table.parts())
    keys = [record[0] for record in conn.execute(suspects)]
    for start in range(0, len(keys), _PAGE_ROWS):
        page = key_values(table, keys[start : start + _PAGE_ROWS])
        for key, raw, data in conn.execute(both, (page,)):
            if data is None or not same_in_jsonb(data, jsonb_columns(raw).data):
                yield key


def _row(record: tuple[Any, ...]) -> Row:
    key, text, *rest = record
    return Row(key, compact(text), *rest)
