"""A whole run in one PostgreSQL transaction: COPY of the new rows, checked changes of the others.

One transaction, and so one connection: either everything of a run is there, with its record, or
nothing is, whatever kills the process or the server in the middle.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.copy import LibpqWriter
from psycopg.errors import UniqueViolation

from standfast.backends.base import (
    Change,
    Load,
    LoadReport,
    Moved,
    RunRecord,
    referenced,
    require_known_references,
    stale,
    standing,
)
from standfast.backends.postgres.references import find_references
from standfast.backends.postgres.schema import LOAD_LOCK
from standfast.backends.postgres.tables import Table
from standfast.backends.postgres.write import (
    DELETE_EXPIRED,
    DELETE_KEYS,
    key_fits,
    key_values,
    log_change,
)
from standfast.document.jsonb import jsonb_columns, jsonb_columns_of_many
from standfast.errors import DataError, MigrationError
from standfast.ops.types import from_microseconds
from standfast.system.failpoints import failpoint

#: Rows of one block that is handed to COPY, and bytes of those that wait to be sent.
_BLOCK_ROWS = 100
_WAITING_BYTES = 1024 * 1024
#: NULL in COPY's text format.
NULL = "\\N"

Record = tuple[Any, str, str | None, int, int | None, int | None, int | None]
"""key, data, raw, version, created, updated, expires (the last three in microseconds)."""


def load_run(
    conn: Connection[Any], tables: Mapping[str, Table], run: str, state: str, loads: Sequence[Load]
) -> dict[str, LoadReport]:
    """Write the loads and the run's record inside the caller's transaction."""
    take_load_lock(conn)
    row = conn.execute("SELECT (extract(epoch FROM now()) * 1000000)::bigint").fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    now_us = int(row[0])
    failpoint("transaction-begun")
    reports = {
        load.collection: _load(conn, tables[load.collection], load, now_us) for load in loads
    }
    record_run(conn, run, state, reports)
    failpoint("record-written")
    return reports


def take_load_lock(conn: Connection[Any]) -> None:
    """Until the transaction ends no other run writes to this database."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOAD_LOCK,)).fetchone()
    if row is None or not row[0]:
        raise MigrationError(
            "another migration is writing to this database",
            code="locked",
            hint="wait until it has ended, then run this again",
        )


def record_run(
    conn: Connection[Any], run: str, state: str, reports: Mapping[str, LoadReport]
) -> None:
    """Write, or replace, what the database knows of a run."""
    conn.execute(
        "INSERT INTO standfast.runs AS r (run, state, report) VALUES (%s, %s, %s)"
        " ON CONFLICT (run) DO UPDATE SET state = excluded.state, updated_at = now(),"
        " report = excluded.report",
        (run, state, msgspec.json.encode(reports).decode()),
    )


def read_run(conn: Connection[Any], run: str) -> RunRecord | None:
    """The run's record, if any transaction of it was committed."""
    row = conn.execute(
        "SELECT run, state, report FROM standfast.runs WHERE run = %s", (run,)
    ).fetchone()
    if row is None:
        return None
    return RunRecord(row[0], row[1], msgspec.json.decode(row[2], type=dict[str, LoadReport]))


def moved(conn: Connection[Any]) -> list[Moved]:
    """As `Backend.moved`, of the runs that this role may see."""
    rows = conn.execute(
        "SELECT run, state, report, updated_at FROM standfast.runs ORDER BY started_at DESC"
    )
    found = conn.execute("SELECT name, created_at FROM standfast.collections")
    return standing(rows.fetchall(), dict(found.fetchall()))


def _load(conn: Connection[Any], table: Table, load: Load, now_us: int) -> LoadReport:
    """Everything of one collection.  Readers go on meanwhile, writers wait."""
    parts = table.parts()
    conn.execute(sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE").format(**parts))
    # An expired row is not a document, but its key is taken.
    conn.execute(sql.SQL(DELETE_EXPIRED).format(**parts), (table.collection,))
    _check_versions(conn, table, load)
    _check_references(conn, table, load)
    floor, buried = _buried(conn, table)

    def lowest(key: str) -> int:
        return max(floor, buried.get(key, 0))

    versions = {key: lowest(key) + 1 for key, _ in load.inserts if key in buried}
    if load.inserts:
        keys = [key for key, _ in load.inserts]
        with quick_inserts(conn, table), _naming(conn, table, keys):
            _copy(conn, table, _insert_blocks(table, load, now_us, floor + 1, versions))
            # What waits for the end of the transaction is asked now: while anything is pending the
            # triggers cannot be switched on again, and later nobody could name the collection.
            conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
    if versions:
        conn.execute(
            "DELETE FROM standfast.tombstones WHERE collection = %s AND key = ANY (%s)",
            (table.collection, list(versions)),
        )
    versions.update(_write_changes(conn, table, load.changes, now_us, lowest))
    if load.form is not None:
        conn.execute(
            "UPDATE standfast.collections SET shape = %s, key_field = %s WHERE name = %s",
            (load.form.shape, load.form.key_field, table.collection),
        )
    touched = [key for key, _ in load.inserts] + [change.key for change in load.changes]
    if touched:
        log_change(conn, table.collection, touched)
    failpoint("collection-written")
    return LoadReport(floor + 1, versions, load.source)


@contextmanager
def quick_inserts(conn: Connection[Any], table: Table) -> Generator[None]:
    """Put our triggers for foreign inserts to sleep, inside this transaction alone.

    They would do nothing, but a BEFORE trigger makes COPY insert row by row, and a transition
    table, of an earlier version's trigger, copies every row.  No other process inserts meanwhile:
    the table is locked.  Afterwards each fires when it did before: an administrator may have made
    it ENABLE ALWAYS, or disabled it.
    """
    found = conn.execute(_AWAKE, (table.schema, table.name)) if table.owned else ()
    awake = [(sql.Identifier(name), sql.SQL(_ENABLE[fires])) for name, fires in found]
    alter = sql.SQL("ALTER TABLE {} {} TRIGGER {}")
    for name, _ in awake:
        conn.execute(alter.format(table.sql, sql.SQL("DISABLE"), name))
    yield
    for name, enable in awake:
        conn.execute(alter.format(table.sql, enable, name))


_AWAKE = (
    "SELECT t.tgname::text, t.tgenabled::text FROM pg_trigger t"
    " JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = %s AND c.relname = %s AND t.tgenabled <> 'D'"
    " AND t.tgname IN ('standfast_stamp_insert', 'standfast_check_insert', 'standfast_log_insert')"
)
#: By `pg_trigger.tgenabled`.  Source: PostgreSQL's documentation, "pg_trigger", "ALTER TABLE".
_ENABLE: dict[str, LiteralString] = {
    "O": "ENABLE",
    "R": "ENABLE REPLICA",
    "A": "ENABLE ALWAYS",
}


def _check_versions(conn: Connection[Any], table: Table, load: Load) -> None:
    """Every row that the plan saw must still be what it saw."""
    if not load.changes:
        return
    keys = [change.key for change in load.changes]
    statement = sql.SQL(
        "SELECT {key_text}, {version} FROM {table} t WHERE t.{key} = ANY (%b::{key_type}[])"
    ).format(**table.parts())
    found: dict[str, int] = dict(conn.execute(statement, (key_values(table, keys),)).fetchall())
    for change in load.changes:
        if found.get(change.key, 0) != change.expected_version:
            raise stale(table.collection, change.key)


def _check_references(conn: Connection[Any], table: Table, load: Load) -> None:
    """What is deleted takes no row of another table along that nobody was asked about."""
    if not load.doomed:
        return
    statement = sql.SQL("SELECT FROM {table} t WHERE t.{key} = ANY (%b::{key_type}[]) FOR UPDATE")
    # Whoever adds a row that refers to one of these waits for this lock, and then for nothing.
    conn.execute(statement.format(**table.parts()), (key_values(table, load.doomed),))
    found = find_references(conn, table, load.doomed)
    require_known_references(load, found)
    row = conn.execute("SELECT current_setting('session_replication_role')").fetchone()
    if found and row == ("replica",):
        # Foreign keys are triggers: the rows that refer to these would refer to nothing.
        raise referenced(
            *(load.collection, found),
            hint="foreign keys do not act in this session, since session_replication_role is"
            " replica: reset it for the database or the role, or delete those rows first",
        )


def _buried(conn: Connection[Any], table: Table) -> tuple[int, dict[str, int]]:
    """The collection's version floor, and the versions of its tombstones.

    The floor is read last: it is above whatever was trimmed before the tombstones were read.
    """
    buried = conn.execute(
        "SELECT key, version FROM standfast.tombstones WHERE collection = %s", (table.collection,)
    ).fetchall()
    row = conn.execute(
        "SELECT version_floor FROM standfast.collections WHERE name = %s", (table.collection,)
    ).fetchone()
    return (int(row[0]) if row else 0), dict(buried)


def _insert_blocks(
    table: Table, load: Load, now_us: int, version: int, versions: Mapping[str, int]
) -> Iterator[str]:
    """The inserted rows in COPY's text format, a block at a time.

    Each is created one microsecond after the one before, so that the order of the source can be
    told later.
    """
    stamp_us = now_us
    for block in _blocks(load.inserts):
        columns = jsonb_columns_of_many([text for _, text in block])
        stamps = _stamps(stamp_us, len(block))
        stamp_us += len(block)
        lines: list[str] = []
        for (key, _), (data, raw), stamp in zip(block, columns, stamps, strict=True):
            if not key_fits(table, key):
                raise DataError(
                    f"collection `{table.collection}`: a key is no {table.key_type}, which the"
                    f" table's column `{table.key_column}` holds",
                    code="bad_key",
                    hint="give the file another collection name with --collection",
                )
            # The text of a document has no control characters, only backslashes.
            escaped = data.replace("\\", "\\\\")
            exact = NULL
            if raw is not None:
                exact = escaped if raw is data else raw.replace("\\", "\\\\")
            at = versions.get(key, version)
            lines.append(copy_line(key, escaped, exact, at, stamp, stamp, NULL))
        yield "".join(lines)


def _blocks(inserts: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    rest = iter(inserts)
    while block := list(islice(rest, _BLOCK_ROWS)):
        yield block


def _stamps(first_us: int, count: int) -> list[str]:
    """The texts of `count` times, one microsecond apart."""
    stamps: list[str] = []
    while len(stamps) < count:
        second, micros = divmod(first_us + len(stamps), 1_000_000)
        prefix = from_microseconds(second * 1_000_000).isoformat()[:19]
        last = min(1_000_000, micros + count - len(stamps))
        stamps.extend(f"{prefix}.{micro:06d}+00" for micro in range(micros, last))
    return stamps


_COLUMNS: LiteralString = "({key}, data, raw, version, created_at, updated_at, expires_at)"
_STAGE: LiteralString = (
    "CREATE TEMP TABLE standfast_stage ({key} {key_type}, data text, raw text, version bigint,"
    " created_at timestamptz, updated_at timestamptz, expires_at timestamptz) ON COMMIT DROP"
)
_UNSTAGE: LiteralString = (
    f"INSERT INTO {{table}} {_COLUMNS}"
    " SELECT {key}, data::{data_type}, raw, version, created_at, updated_at, expires_at"
    " FROM pg_temp.standfast_stage"
)


@contextmanager
def _naming(conn: Connection[Any], table: Table, keys: Sequence[str]) -> Generator[None]:
    """Rows that the table refuses, by name: the document and the constraint.

    `keys` are those of the rows that COPY sends, in their order; it says at which line it stopped.
    A key that is taken means that the plan is stale.
    """
    primary = conn.execute(_PRIMARY, (table.schema, table.name)).fetchone()
    try:
        yield
    except psycopg.DatabaseError as error:
        constraint = error.diag.constraint_name
        if isinstance(error, UniqueViolation) and primary and constraint == primary[0]:
            raise stale(table.collection, None) from None
        if (error.sqlstate or "")[:2] not in _REFUSED_ROWS:
            raise
        context = (error.diag.context or "").splitlines()[-1:]
        line = _LINE.search(context[0].replace(table.name, "", 1)) if context else None
        at = int(line[0]) - 1 if line else -1
        raise _refused_row(table, keys[at] if 0 <= at < len(keys) else None, error) from None


_PRIMARY = (
    "SELECT o.conname::text FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = %s AND c.relname = %s AND o.contype = 'p'"
)
#: Classes of SQLSTATE for what a table refuses: a value, a constraint, a trigger's own error.
_REFUSED_ROWS = {"22": "refused", "23": "constraint", "P0": "trigger"}
#: Where COPY stopped; the words around it are in the server's language.
_LINE = re.compile("[0-9]+")


def _refused_row(table: Table, key: str | None, error: psycopg.DatabaseError) -> DataError:
    """The error for a document that the table refuses; it names no value."""
    state = error.sqlstate or ""
    who = "a document" if key is None else f"the document of key {key!r}"
    # Of a function's error the name is what the function says, such as the row.
    raised = not (error.diag.context or "COPY ").startswith("COPY ")
    name = None if raised else error.diag.constraint_name
    by = f"constraint or index `{name}`" if name else state
    return DataError(
        f"collection `{table.collection}`: the table refuses {who} ({by}); nothing was written",
        code=_REFUSED_ROWS[state[:2]],
        hint="correct the document in the file, or change what the table demands",
    )


def add_rows(conn: Connection[Any], table: Table, blocks: Iterable[str]) -> None:
    """Add rows, given in COPY's text format; MigrationError when one is there already."""
    try:
        _copy(conn, table, blocks)
    except UniqueViolation:
        raise stale(table.collection, None) from None


@contextmanager
def adding_rows(conn: Connection[Any], table: Table) -> Generator[Callable[[str], None]]:
    """The same of blocks that come one by one, while the server works on those before.

    The connection does nothing else meanwhile.  Only for a table whose times have a zone.
    """
    try:
        with _sending(conn, _add_to(table)) as send:
            yield send
    except UniqueViolation:
        raise stale(table.collection, None) from None


def _copy(conn: Connection[Any], table: Table, blocks: Iterable[str]) -> None:
    """COPY, by way of a stage where it would drop the zone of times: a column that has none."""
    parts = table.parts()
    if table.zoned:
        _send(conn, _add_to(table), blocks)
        return
    conn.execute(sql.SQL(_STAGE).format(**parts))
    staged = sql.SQL("COPY pg_temp.standfast_stage " + _COLUMNS + " FROM STDIN")
    _send(conn, staged.format(**parts), blocks)
    conn.execute(sql.SQL(_UNSTAGE).format(**parts))
    conn.execute("DROP TABLE pg_temp.standfast_stage")


def _add_to(table: Table) -> sql.Composed:
    return sql.SQL("COPY {table} " + _COLUMNS + " FROM STDIN").format(**table.parts())


def _send(conn: Connection[Any], statement: sql.Composed, blocks: Iterable[str]) -> None:
    with _sending(conn, statement) as send:
        for block in blocks:
            send(block)


@contextmanager
def _sending(conn: Connection[Any], statement: sql.Composed) -> Generator[Callable[[str], None]]:
    with conn.cursor() as cur, cur.copy(statement, writer=_ThreadedWriter(cur)) as copy:
        yield copy.write


class _ThreadedWriter(LibpqWriter):
    """A thread sends one block while the next is made.

    What waits is bounded in bytes: psycopg's own QueuedLibpqWriter holds a thousand blocks.
    """

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        super().__init__(cursor)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="standfast-copy")
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._bytes = 0

    def write(self, data: Any) -> None:
        self._waiting.append((len(data), self._thread.submit(super().write, data)))
        self._bytes += len(data)
        self._wait(_WAITING_BYTES)

    def finish(self, exc: BaseException | None = None) -> None:
        try:
            self._wait(0)
        except BaseException as error:
            exc = exc or error
            raise
        finally:
            self._thread.shutdown(cancel_futures=True)
            super().finish(exc)

    def _wait(self, most: int) -> None:
        while self._waiting and self._bytes > most:
            size, sent = self._waiting.popleft()
            self._bytes -= size
            sent.result()


def copy_line(
    key: str, data: str, raw: str, version: int, created: str, updated: str, expires: str
) -> str:
    """One row in COPY's text format; all but the key is in that format already."""
    name = key if key.isalnum() else _copy_text(key)
    return f"{name}\t{data}\t{raw}\t{version}\t{created}\t{updated}\t{expires}\n"


def _record_line(record: Record) -> str:
    key, data, raw, version, created_us, updated_us, expires_us = record
    created, updated, expires = map(copy_stamp, (created_us, updated_us, expires_us))
    # A column of type json keeps line breaks.
    exact = NULL if raw is None else _copy_text(raw)
    return copy_line(str(key), _copy_text(data), exact, version, created, updated, expires)


def _copy_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def copy_stamp(stamp_us: int | None) -> str:
    """A time in COPY's text format."""
    if stamp_us is None:
        return NULL
    second, micros = divmod(stamp_us, 1_000_000)
    return f"{_second(second)}.{micros:06d}+00"


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    return from_microseconds(second * 1_000_000).isoformat()[:19]


UPDATE = (
    "UPDATE {table} t SET data = u.data::{data_type}, raw = u.raw, version = u.version,"
    " created_at = coalesce('epoch'::timestamptz + u.created * interval '1 microsecond',"
    " t.created_at),"
    " updated_at = 'epoch'::timestamptz + u.updated * interval '1 microsecond',"
    " expires_at = 'epoch'::timestamptz + u.expires * interval '1 microsecond'"
    " FROM unnest(%b::{key_type}[], %b::text[], %b::text[], %b::bigint[], %b::bigint[],"
    " %b::bigint[], %b::bigint[]) AS u(key, data, raw, version, created, updated, expires)"
    " WHERE t.{key} = u.key"
)


def _write_changes(
    conn: Connection[Any],
    table: Table,
    changes: Sequence[Change],
    now_us: int,
    lowest: Callable[[str], int],
) -> dict[str, int]:
    """Updates, put-backs and deletes of rows that exist, or did; returns their new versions."""
    doomed: list[str] = []
    updated: list[Record] = []
    restored: list[Record] = []
    versions: dict[str, int] = {}
    for change in changes:
        versions[change.key] = max(change.expected_version, lowest(change.key)) + 1
        if change.text is None and change.image is None:
            doomed.append(change.key)
            continue
        (value,) = key_values(table, [change.key])
        record = (value, *_content(change, now_us, versions[change.key]))
        (updated if change.expected_version else restored).append(record)
    if doomed:
        statement = sql.SQL(DELETE_KEYS).format(**table.parts())
        conn.execute(statement, (key_values(table, doomed), table.collection))
    if updated and _update(conn, table, updated) != len(updated):
        raise stale(table.collection, None)
    if restored:
        with _naming(conn, table, [str(record[0]) for record in restored]):
            _copy(conn, table, map(_record_line, restored))
        _restore_others(conn, table, changes)
    return versions


def _update(conn: Connection[Any], table: Table, records: Sequence[Record]) -> int:
    """Give rows new content, in one statement; where the table refuses one, it is looked for."""
    statement = sql.SQL(UPDATE).format(**table.parts())

    def update(some: Sequence[Record]) -> int:
        with conn.transaction():
            columns = [list(column) for column in zip(*some, strict=True)]
            return conn.execute(statement, columns).rowcount

    try:
        return update(records)
    except psycopg.DatabaseError as error:
        if (error.sqlstate or "")[:2] not in _REFUSED_ROWS:
            raise
        for record in records:
            try:
                update([record])
            except psycopg.DatabaseError as alone:
                if (alone.sqlstate or "")[:2] in _REFUSED_ROWS:
                    raise _refused_row(table, str(record[0]), alone) from None
                raise
        raise


def _restore_others(conn: Connection[Any], table: Table, changes: Sequence[Change]) -> None:
    """Give rows that were put back the columns that are not ours."""
    if not table.others:
        return
    names = sql.SQL(", ").join(map(sql.Identifier, table.others))
    statement = sql.SQL(
        "UPDATE {table} t SET ({names}) = ROW (r.*) FROM (SELECT {names} FROM"
        " jsonb_populate_record(NULL::{table}, %s::jsonb)) r WHERE t.{key} = %s"
    ).format(names=names, **table.parts())
    for change in changes:
        if not change.expected_version and change.image and change.image.others:
            (value,) = key_values(table, [change.key])
            conn.execute(statement, (change.image.others, value))


def _content(
    change: Change, now_us: int, version: int
) -> tuple[str, str | None, int, int | None, int | None, int | None]:
    """All columns but the key.  New content of an existing row keeps its time of creation."""
    if change.image is not None:
        image = change.image
        return (
            image.data,
            image.raw,
            version,
            image.created_us,
            image.updated_us,
            image.expires_us,
        )
    assert change.text is not None, "a change has a text or an image"
    data, raw = jsonb_columns(change.text)
    created_us = None if change.expected_version else now_us
    return data, raw, version, created_us, now_us, None
