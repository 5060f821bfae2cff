"""A SQLite file as it is copied: one read transaction, or one write transaction, in pages."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

import apsw

from standfast.backends.base import Backend, Form, stale
from standfast.backends.copying import (
    PAGE_CHARS,
    PAGE_ROWS,
    Described,
    Stored,
    Writing,
    too_long,
)
from standfast.backends.sqlite.backend import SqliteBackend, now_us
from standfast.backends.sqlite.errors import mapped
from standfast.backends.sqlite.file import connect, transaction
from standfast.backends.sqlite.load import record_run
from standfast.backends.sqlite.references import enforced_references
from standfast.backends.sqlite.tables import Table, adoptable_tables, table_of
from standfast.backends.sqlite.write import ensure_table, json_array
from standfast.document.jsonb import compact
from standfast.errors import Unavailable
from standfast.limits import MAX_SNAPSHOT_S
from standfast.system.failpoints import failpoint
from standfast.system.files import create_private

_BUSY_MS = 5000


class SqliteSnapshot:
    """What one connection sees, inside the caller's read transaction."""

    def __init__(self, conn: apsw.Connection | None, limit_s: float, display: str) -> None:
        self._conn = conn
        self._until = time.monotonic() + limit_s
        self._display = display
        self.taken_us = now_us()
        self.identity: str | None = None
        self.watermarks: dict[str, int] = {}
        self._ours = False
        if conn is not None:
            self._ours = bool(
                conn.execute(
                    "SELECT 1 FROM sqlite_schema WHERE name = '_standfast_collections'"
                ).get
            )
        if conn is not None and self._ours:
            self.identity = conn.execute("SELECT identity FROM _standfast_identity").get
            self.watermarks = dict(
                conn.execute("SELECT lane, max(watermark) FROM _standfast_lanes GROUP BY lane")
            )

    def collections(self) -> list[Described]:
        """The collections, by name."""
        if self._conn is None:
            return []
        if self._ours:
            found: Any = self._conn.execute(
                "SELECT name, shape, key_field FROM _standfast_collections ORDER BY name"
            )
            records: list[Any] = list(found)
        else:
            records = [(name, None, None) for name in adoptable_tables(self._conn)]
        return [
            Described(name, Form(shape or "object", field), self._count(name))
            for name, shape, field in records
        ]

    def _count(self, name: str) -> int:
        assert self._conn is not None, "only called with a connection"
        return self._conn.execute(f"SELECT count(*) FROM {table_of(self._conn, name).sql}").get

    def rows(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """The live documents, or the one of this key, in the bytewise order of keys."""
        return chain.from_iterable(self.pages(collection, key=key))

    def pages(self, collection: str, *, key: str | None = None) -> Iterator[list[Stored]]:
        """The same, a page at a time."""
        if self._conn is None:
            return
        table = table_of(self._conn, collection)
        for page in pages(self._conn, table, self.taken_us, key):
            if time.monotonic() > self._until:
                raise too_long(self._display)
            yield page


def pages(
    conn: apsw.Connection, table: Table, at_us: int, key: str | None
) -> Iterator[list[Stored]]:
    """The rows that are live at a moment, or that of one key, page by page in order of keys.

    Each page is a statement of its own, so rows may be written in between.
    """
    created = table.time("created_at")
    updated = table.time("updated_at")
    start = (
        f"SELECT {table.key_sql}, {table.data}, {table.version}, {created}, {updated},"
        f" {table.expires} FROM {table.sql} WHERE {table.live} AND {table.key_sql}"
    )
    if key is not None:
        found: Any = conn.execute(f"{start} = ?", (at_us, key))
        yield [_stored(record, table) for record in found]
        return
    last, bound = "", ">="  # the empty string is a key
    while True:
        found = conn.execute(
            f"{start} {bound} ? ORDER BY {table.key_sql} LIMIT ?", (at_us, last, PAGE_ROWS)
        )
        page = _page(found, table)
        found.close()
        if not page:
            return
        yield page
        last, bound = page[-1].key, ">"


def _page(found: Any, table: Table) -> list[Stored]:
    """The first rows of a statement, which makes each when it is asked for: up to a page's size."""
    page: list[Stored] = []
    chars = 0
    for record in found:
        page.append(_stored(record, table))
        chars += len(page[-1].text)
        if chars >= PAGE_CHARS:
            break
    return page


def _stored(record: tuple[Any, ...], table: Table) -> Stored:
    if not table.adopted:
        return Stored(*record)
    key, text, version, created_us, updated_us, expires_us = record
    return Stored(key, compact(text), version, created_us or None, updated_us or None, expires_us)


@contextmanager
def snapshot(backend: Backend, limit_s: float) -> Generator[SqliteSnapshot]:
    """The file at one moment.  In WAL mode writers are not held up; a file that another program
    shares has a rollback journal, and is copied first, which holds them up for that long."""
    ours = cast("SqliteBackend", backend)
    with mapped(f"reading {ours.display}"):
        if not ours.path.exists() or not ours.path.stat().st_size:
            yield SqliteSnapshot(None, limit_s, ours.display)
            return
        with _source(ours) as conn, transaction(conn, "BEGIN"):
            yield SqliteSnapshot(conn, limit_s, ours.display)


@contextmanager
def _source(backend: SqliteBackend) -> Generator[apsw.Connection]:
    backend.check()  # puts our own file into WAL mode, and refuses what is not ours
    conn = connect(backend.path, _BUSY_MS)
    try:
        if conn.execute("PRAGMA journal_mode").get == "wal":
            yield conn
            return
        with _copied(conn, backend.path) as copy:
            yield copy
    finally:
        conn.close(True)


@contextmanager
def _copied(conn: apsw.Connection, path: Path) -> Generator[apsw.Connection]:
    """A private copy, gone afterwards.  Source: sqlite.org/backup.html, one step for all pages."""
    place = path.with_name(f".{path.name}.{secrets.token_hex(4)}.copy")
    create_private(place)
    try:
        copy = apsw.Connection(str(place))
        try:
            with copy.backup("main", conn, "main") as work:
                work.step(-1)
            yield copy
        finally:
            copy.close(True)
    finally:
        for ending in ("", "-journal", "-wal", "-shm"):
            Path(f"{place}{ending}").unlink(missing_ok=True)


class SqliteFilling:
    """The writing side, inside the caller's transaction."""

    def __init__(self, conn: apsw.Connection) -> None:
        self._conn = conn
        self.now_us = now_us()
        self._floors: dict[str, int] = {}

    def open(self, collection: str) -> None:
        """Make the collection, and remove its expired rows: their keys are taken otherwise."""
        ensure_table(self._conn, collection, self.now_us)
        table = table_of(self._conn, collection)
        self._conn.execute(f"DELETE FROM {table.sql} WHERE expires_at <= ?", (self.now_us,))
        self._floors[collection] = self._conn.execute(
            "SELECT version_floor FROM _standfast_collections WHERE name = ?", (collection,)
        ).get

    def before(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """What is live and was not passed yet."""
        return self.after(collection, key=key)

    def after(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """What is live now."""
        table = table_of(self._conn, collection)
        for page in pages(self._conn, table, self.now_us, key):
            yield from page

    def write(self, collection: str, rows: Sequence[Writing]) -> None:
        """Write rows, in order."""
        table = table_of(self._conn, collection)
        lowest = self._lowest(collection, rows)
        doomed = [(each.key,) for each in rows if each.row is None]
        self._conn.executemany(f"DELETE FROM {table.sql} WHERE {table.key_sql} = ?", doomed)
        self._update(table, [each for each in rows if each.row and each.expected_version], lowest)
        self._insert(
            table, [each for each in rows if each.row and not each.expected_version], lowest
        )
        buried = [(collection, each.key) for each in rows if each.row and lowest.get(each.key)]
        self._conn.executemany(
            "DELETE FROM _standfast_tombstones WHERE collection = ? AND key = ?", buried
        )

    def _lowest(self, collection: str, rows: Sequence[Writing]) -> dict[str, int]:
        """The versions of the tombstones of these keys."""
        return dict(
            self._conn.execute(
                "SELECT key, version FROM _standfast_tombstones WHERE collection = ?"
                " AND key IN (SELECT value FROM json_each(?))",
                (collection, json_array(each.key for each in rows)),
            )
        )

    def _values(
        self, table: Table, rows: Sequence[Writing], lowest: Mapping[str, int]
    ) -> list[tuple[Any, ...]]:
        values: list[tuple[Any, ...]] = []
        floor = self._floors[table.name]
        for each in rows:
            row = each.row
            assert row is not None, "the caller leaves deletes out"
            known = max(each.expected_version, floor, lowest.get(each.key, 0))
            created_us = row.created_us or row.updated_us or self.now_us
            version = row.version if not known else max(row.version, known + 1)
            times = (created_us, row.updated_us or created_us, row.expires_us)
            values.append((each.key, row.text, version, *times))
        return values

    def _insert(self, table: Table, rows: Sequence[Writing], lowest: Mapping[str, int]) -> None:
        try:
            self._conn.executemany(
                f"INSERT INTO {table.sql}"
                f" ({table.key_sql}, data, version, created_at, updated_at, expires_at)"
                f" VALUES (?1, ?2, ?3, {table.stamp('?4')}, {table.stamp('?5')}, ?6)",
                self._values(table, rows, lowest),
            )
        except apsw.ConstraintError:
            raise stale(table.name, None) from None

    def _update(self, table: Table, rows: Sequence[Writing], lowest: Mapping[str, int]) -> None:
        self._conn.executemany(
            f"UPDATE {table.sql} SET data = ?2, version = ?3, created_at = {table.stamp('?4')},"
            f" updated_at = {table.stamp('?5')}, expires_at = ?6 WHERE {table.key_sql} = ?1",
            self._values(table, rows, lowest),
        )

    def set_form(self, collection: str, form: Form) -> None:
        """Set how the collection looks as a file."""
        self._conn.execute(
            "UPDATE _standfast_collections SET shape = ?, key_field = ? WHERE name = ?",
            (form.shape, form.key_field, collection),
        )


@contextmanager
def filling(
    backend: Backend, run: str, state: str, collections: Sequence[str]
) -> Generator[SqliteFilling]:
    """One write transaction of the file, with the run's record."""
    ours = cast("SqliteBackend", backend)
    doing = f"filling {ours.display}"
    with ours.using(doing, create=True) as outside:
        assert outside is not None, "create=True opens"
    with enforced_references(outside), ours.writing(doing) as conn:
        failpoint("filling-begun")
        work = SqliteFilling(conn)
        for name in collections:
            work.open(name)
        yield work
        record_run(conn, run, state, {}, work.now_us)
        failpoint("filling-recorded")


@contextmanager
def closed_to_others(backend: Backend) -> Generator[SqliteSnapshot]:
    """The file at one moment, which nobody else can read or write until the block ends.

    Refused while another process has it open: leaving WAL mode needs the file alone.  A file that
    another program shares has a rollback journal; there only a transaction under way is noticed.
    """
    ours = cast("SqliteBackend", backend)
    if not ours.path.exists() or not ours.path.stat().st_size:
        yield SqliteSnapshot(None, MAX_SNAPSHOT_S, ours.display)
        return
    with mapped(f"closing {ours.display} to others"):
        conn = connect(ours.path, 0)
        try:
            try:
                conn.execute("PRAGMA journal_mode = DELETE")
                conn.execute("BEGIN EXCLUSIVE")
            except apsw.BusyError:
                raise Unavailable(
                    f"{ours.path} is open in another process",
                    code="locked",
                    hint="stop the app first; nothing was changed",
                ) from None
            yield SqliteSnapshot(conn, MAX_SNAPSHOT_S, ours.display)
            conn.execute("ROLLBACK")
        finally:
            conn.close(True)
