"""A whole run in one SQLite transaction."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import apsw
import msgspec

from standfast.backends.base import (
    Change,
    Load,
    LoadReport,
    Moved,
    RunRecord,
    require_known_references,
    stale,
    standing,
)
from standfast.backends.sqlite.references import find_references
from standfast.backends.sqlite.tables import Table, adopt, remake, table_of
from standfast.backends.sqlite.write import ensure_table
from standfast.errors import DataError
from standfast.system.failpoints import failpoint

#: Rows from which on a load is worth two changes of the journal's mode.
LARGE_LOAD_ROWS = 5_000


@contextmanager
def pages_written_once(
    conn: apsw.Connection, loads: Sequence[Load], busy_timeout_ms: int
) -> Generator[None]:
    """Write the pages of a large load once, if no other process has the file open.

    WAL writes every page twice: to the log, and at the checkpoint.  A rollback journal only keeps
    old pages, of which a load has few.  With synchronous=EXTRA it is as durable: a power cut leaves
    the state before the load or after it.  Source: sqlite.org/pragma.html#pragma_synchronous.
    """
    alone = sum(len(load.inserts) for load in loads) >= LARGE_LOAD_ROWS
    alone = alone and conn.execute("PRAGMA journal_mode").get == "wal"
    if alone:
        conn.set_busy_timeout(0)
        try:
            alone = conn.execute("PRAGMA journal_mode = DELETE").get == "delete"
        except apsw.BusyError:
            alone = False
        conn.set_busy_timeout(busy_timeout_ms)
    if not alone:
        yield
        return
    conn.execute("PRAGMA synchronous = EXTRA")
    try:
        yield
    finally:
        # Whoever opened the file meanwhile keeps it from WAL; the next one to open it will try too.
        with suppress(apsw.BusyError):
            if conn.execute("PRAGMA journal_mode = WAL").get == "wal":
                conn.execute("PRAGMA synchronous = FULL")


def load_run(
    conn: apsw.Connection, run: str, state: str, loads: Sequence[Load], now_us: int
) -> dict[str, LoadReport]:
    """Write the loads and the run's record inside the caller's transaction."""
    failpoint("transaction-begun")
    reports = {load.collection: _load(conn, load, now_us) for load in loads}
    record_run(conn, run, state, reports, now_us)
    failpoint("record-written")
    return reports


def record_run(
    conn: apsw.Connection, run: str, state: str, reports: Mapping[str, LoadReport], now_us: int
) -> None:
    """Write, or replace, what the database knows of a run."""
    conn.execute(
        "INSERT INTO _standfast_runs VALUES (?1, ?2, ?3, ?3, ?4) ON CONFLICT (run) DO UPDATE SET"
        " state = excluded.state, updated_at = excluded.updated_at, report = excluded.report",
        (run, state, now_us, msgspec.json.encode(reports).decode()),
    )


def read_run(conn: apsw.Connection, run: str) -> RunRecord | None:
    """The run's record, if any transaction of it was committed."""
    row = conn.execute("SELECT run, state, report FROM _standfast_runs WHERE run = ?", (run,)).get
    if row is None:
        return None
    return RunRecord(row[0], row[1], msgspec.json.decode(row[2], type=dict[str, LoadReport]))


def moved(conn: apsw.Connection) -> list[Moved]:
    """As `Backend.moved`."""
    rows: Any = conn.execute(
        "SELECT run, state, report, updated_at FROM _standfast_runs ORDER BY started_at DESC"
    )
    found: Any = conn.execute("SELECT name, created_at FROM _standfast_collections")
    return standing(rows.fetchall(), dict(found.fetchall()))


def _load(conn: apsw.Connection, load: Load, now_us: int) -> LoadReport:
    if load.remake:
        remake(conn, load.collection)
    ensure_table(conn, load.collection, now_us)
    name = load.collection
    table = table_of(conn, name)
    if not table.ready:  # dropped, and created by another program
        adopt(conn, [name], now_us)
        table = table_of(conn, name)
    # An expired row is not a document, but its key is taken.
    conn.execute(f"DELETE FROM {table.sql} WHERE expires_at <= ?", (now_us,))
    _check_versions(conn, load, table)
    require_known_references(load, find_references(conn, table, load.doomed))
    floor = conn.execute(
        "SELECT version_floor FROM _standfast_collections WHERE name = ?", (name,)
    ).get
    buried: dict[str, int] = dict(
        conn.execute("SELECT key, version FROM _standfast_tombstones WHERE collection = ?", (name,))
    )

    def lowest(key: str) -> int:
        return max(floor, buried.get(key, 0))

    versions = {key: lowest(key) + 1 for key, _ in load.inserts if key in buried}
    current = ""

    def rows() -> Iterator[tuple[str, str, int]]:
        nonlocal current
        for (current, text), stamp_us in zip(load.inserts, count(now_us), strict=False):
            yield current, text, stamp_us

    try:
        conn.executemany(
            f"INSERT INTO {table.sql} ({table.key_sql}, data, created_at, updated_at, version)"
            f" VALUES (?1, ?2, {table.stamp('?3')}, {table.stamp('?3')}, {floor + 1})",
            rows(),
        )
        conn.executemany(
            f"UPDATE {table.sql} SET version = ? WHERE {table.key_sql} = ?",
            [(version, key) for key, version in versions.items()],
        )
    except apsw.ConstraintError as error:
        taken = f"SELECT 1 FROM {table.sql} WHERE {table.key_sql} = ?"
        if conn.execute(taken, (current,)).get:
            raise stale(name, None) from None
        raise _refused_row(name, current, error) from None
    conn.executemany(
        "DELETE FROM _standfast_tombstones WHERE collection = ? AND key = ?",
        [(name, key) for key in versions],
    )
    for change in load.changes:
        versions[change.key] = max(change.expected_version, lowest(change.key)) + 1
        try:
            _write_change(conn, table, change, versions[change.key], now_us)
        except apsw.ConstraintError as error:
            raise _refused_row(name, change.key, error) from None
    if load.form is not None:
        conn.execute(
            "UPDATE _standfast_collections SET shape = ?, key_field = ? WHERE name = ?",
            (load.form.shape, load.form.key_field, name),
        )
    failpoint("collection-written")
    return LoadReport(floor + 1, versions, load.source)


def _refused_row(collection: str, key: str, error: apsw.ConstraintError) -> DataError:
    """The error for a document that the table refuses; it names no value."""
    # The types of apsw leave `extendedresult` out.
    kind: int = getattr(error, "extendedresult", apsw.SQLITE_CONSTRAINT_TRIGGER)
    by_trigger = kind == apsw.SQLITE_CONSTRAINT_TRIGGER  # which says what it likes
    said = "" if by_trigger else str(error).partition("constraint failed: ")[2]
    return DataError(
        f"collection `{collection}`: the table refuses the document of key {key!r}"
        f" ({said or 'a trigger or a foreign key'}); nothing was written",
        code="constraint",
        hint="correct the document in the file, or change what the table demands",
    )


def _check_versions(conn: apsw.Connection, load: Load, table: Table) -> None:
    """Every row that the plan saw must still be what it saw."""
    for change in load.changes:
        found = conn.execute(
            f"SELECT version FROM {table.sql} WHERE {table.key_sql} = ?", (change.key,)
        ).get
        if (found or 0) != change.expected_version:
            raise stale(load.collection, change.key)


def _write_change(
    conn: apsw.Connection, table: Table, change: Change, version: int, now_us: int
) -> None:
    columns = f"{table.key_sql}, data, created_at, updated_at, version"
    if change.image is not None:
        image = change.image
        text = image.data if image.raw is None else image.raw
        conn.execute(
            # Not INSERT OR REPLACE, whose delete would take along what refers to the row.
            f"INSERT INTO {table.sql} ({columns}, expires_at)"
            f" VALUES (?1, ?2, {table.stamp('?3')}, {table.stamp('?4')}, ?5, ?6)"
            f" ON CONFLICT ({table.key_sql}) DO UPDATE SET data = excluded.data,"
            " created_at = excluded.created_at, updated_at = excluded.updated_at,"
            " version = excluded.version, expires_at = excluded.expires_at",
            (change.key, text, image.created_us, image.updated_us, version, image.expires_us),
        )
    elif change.text is not None:
        conn.execute(
            f"INSERT INTO {table.sql} ({columns})"
            f" VALUES (?1, ?2, {table.stamp('?3')}, {table.stamp('?3')}, ?4)"
            f" ON CONFLICT ({table.key_sql}) DO UPDATE SET data = excluded.data,"
            " version = excluded.version, updated_at = excluded.updated_at, expires_at = NULL",
            (change.key, change.text, now_us, version),
        )
    else:
        conn.execute(f"DELETE FROM {table.sql} WHERE {table.key_sql} = ?", (change.key,))
        return
    conn.execute(
        "DELETE FROM _standfast_tombstones WHERE collection = ? AND key = ?",
        (table.name, change.key),
    )
