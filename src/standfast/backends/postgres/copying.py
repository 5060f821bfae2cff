"""A PostgreSQL database as it is copied: one read-only snapshot, or one transaction, in pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from types import TracebackType
from typing import Any, LiteralString, Self, cast

from psycopg import Connection, sql

from standfast.backends.base import Backend, Form, stale
from standfast.backends.copying import (
    PAGE_CHARS,
    PAGE_ROWS,
    Described,
    Stored,
    Writing,
    too_long,
)
from standfast.backends.postgres import load, write
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.handshake import is_pooled
from standfast.backends.postgres.pinned import PIN_TRANSACTION
from standfast.backends.postgres.tables import Table, find_table, has_schema
from standfast.document.jsonb import compact, jsonb_columns_of_many
from standfast.errors import DataError
from standfast.limits import MAX_SNAPSHOT_S
from standfast.system.failpoints import failpoint

#: Rows of one block that is handed to COPY, of a page at the most.
_BLOCK_ROWS = 500
_NOW: LiteralString = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_LIVE: LiteralString = (
    "({expires} IS NULL OR {expires} > 'epoch'::timestamptz + %s * interval '1 microsecond')"
)
_DELETE_EXPIRED: LiteralString = (
    write.BURIED_DELETE.replace("{where}", "NOT " + _LIVE) + " SELECT count(*) FROM gone"
)
#: A row's texts that are longer than this together come by a statement of their own: a page of rows
#: is fetched before anybody knows how long they are.
_LONG = PAGE_CHARS // PAGE_ROWS
_TEXTS: LiteralString = "{raw} AS raw, CASE WHEN {raw} IS NULL THEN t.data::text END AS data"
_LENGTH: LiteralString = (
    "coalesce(octet_length(x.raw), octet_length(x.data), 0) + coalesce(octet_length(x.others), 0)"
)
# OFFSET 0: a document is made into text once, not once for each place that names it.
_ROWS: LiteralString = (
    "SELECT {key_text}, LENGTH, CASE WHEN LENGTH <= {long} THEN x.raw END,"
    " CASE WHEN LENGTH <= {long} THEN x.data END, CASE WHEN LENGTH <= {long} THEN x.others END,"
    " {version}, {created_or_null}, {updated_or_null}, {expires_us} FROM {table} t,"
    " LATERAL (SELECT " + _TEXTS + ", {others} AS others OFFSET 0) x WHERE "
).replace("LENGTH", _LENGTH)
_LONG_ROWS: LiteralString = (
    "SELECT {key_text}, " + _TEXTS + ", {others} FROM {table} t"
    " WHERE t.{key} = ANY (%b::{key_type}[])"
)


def _parts(table: Table) -> dict[str, sql.Composable]:
    expires = table.column("expires_at", "NULL::timestamptz")
    return {**table.parts(), "expires": expires, "long": sql.Literal(_LONG)}


def _rows(
    conn: Connection[Any], table: Table, at_us: int, key: str | None
) -> Iterator[list[Stored]]:
    """The rows that are live at a moment, page by page in the bytewise order of keys."""
    where: LiteralString = _LIVE
    values: list[Any] = [at_us]
    if key is not None:
        found = write.key_values(table, [key])
        if not found:
            return
        where += " AND t.{key} = %s"
        values.append(found[0])
    statement = sql.SQL(_ROWS + where + " ORDER BY {ordered}").format(**_parts(table))
    # The server makes a page ready while the one before is worked on.
    with (
        conn.cursor("standfast_copy", binary=True) as cursor,
        ThreadPoolExecutor(1, thread_name_prefix="standfast-copy") as thread,
    ):
        cursor.execute(statement, values)
        found = cursor.fetchmany(PAGE_ROWS)
        while found:
            coming = thread.submit(cursor.fetchmany, PAGE_ROWS)
            for some in _grouped(found):
                yield _completed(conn, table, some)
            found = coming.result()


def _grouped(records: Sequence[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Records in groups whose documents are a page at the most, or one document."""
    group: list[tuple[Any, ...]] = []
    size = 0
    for record in records:
        if group and size + record[1] > PAGE_CHARS:
            yield group
            group, size = [], 0
        group.append(record)
        size += record[1]
    yield group


def _completed(
    conn: Connection[Any], table: Table, records: Sequence[tuple[Any, ...]]
) -> list[Stored]:
    """The rows of these records, with the texts that were too long to come with them."""
    keys = write.key_values(table, [record[0] for record in records if record[1] > _LONG])
    texts: dict[str, list[Any]] = {}
    if keys:
        statement = sql.SQL(_LONG_ROWS).format(**_parts(table))
        with conn.cursor(binary=True) as cursor:
            texts = {key: rest for key, *rest in cursor.execute(statement, [keys]).fetchall()}
    page: list[Stored] = []
    for key, length, raw, data, others, *rest in records:
        if length > _LONG:
            raw, data, others = texts[key]
        text = compact(data or "null") if raw is None else raw
        page.append(Stored(key, text, *rest, others=others, exact=raw is None))
    return page


class PostgresSnapshot:
    """What one transaction of its own sees."""

    def __init__(self, backend: PostgresBackend, conn: Connection[Any], limit_s: float) -> None:
        self._backend = backend
        self._conn = conn
        self._until = time.monotonic() + limit_s
        self.taken_us = _now_us(conn)
        self.identity: str | None = None
        self.watermarks: dict[str, int] = {}
        self._ours = has_schema(conn)
        if self._ours:
            row = conn.execute("SELECT identity::text FROM standfast.identity").fetchone()
            self.identity = str(row[0]) if row else None
            self.watermarks = dict(
                conn.execute(
                    "SELECT lane::text, max(watermark) FROM standfast.lanes GROUP BY lane"
                ).fetchall()
            )

    def collections(self) -> list[Described]:
        """The collections, by name; their sizes are what the server last estimated."""
        if not self._ours:
            return []
        found = self._conn.execute(
            "SELECT s.name, s.shape, s.key_field, greatest(coalesce(c.reltuples, 0), 0)::bigint"
            " FROM standfast.collections s LEFT JOIN pg_namespace n ON n.nspname = s.table_schema"
            " LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.table_name"
            " ORDER BY s.name"
        ).fetchall()
        return [Described(name, Form(shape, field), size) for name, shape, field, size in found]

    def rows(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """The live documents, or the one of this key, in the bytewise order of keys."""
        return chain.from_iterable(self.pages(collection, key=key))

    def pages(self, collection: str, *, key: str | None = None) -> Iterator[list[Stored]]:
        """The same, a page at a time."""
        backend = self._backend
        table = find_table(
            self._conn, collection, backend.schema_of(self._conn), backend.target.trust
        )
        if table is None:
            return
        backend.require_own_schema(table)
        for page in _rows(self._conn, table, self.taken_us, key):
            if time.monotonic() > self._until:
                raise too_long(backend.display)
            yield page


@contextmanager
def snapshot(backend: Backend, limit_s: float, idle_s: float) -> Generator[PostgresSnapshot]:
    """One REPEATABLE READ, read-only transaction: it holds nobody up, and ends with its reader.

    The server gives it up, too, when its reader asks for nothing for `idle_s` seconds.
    """
    ours = cast("PostgresBackend", backend)
    with ours.unpinned("reading a snapshot") as conn:
        ours.schema_of(conn)  # before the search path is pinned
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if is_pooled(conn):
                conn.execute(PIN_TRANSACTION)
            conn.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, true),"
                " set_config('statement_timeout', %s, true)",
                (f"{int(idle_s * 1000)}ms", f"{int(limit_s * 1000)}ms"),
            )
            yield PostgresSnapshot(ours, conn, limit_s)


def _now_us(conn: Connection[Any]) -> int:
    row = conn.execute(_NOW).fetchone()
    assert row is not None, "a SELECT without FROM returns a row"
    return int(row[0])


class PostgresFilling:
    """The writing side: one transaction, and a snapshot beside it of what was there before."""

    def __init__(
        self, conn: Connection[Any], earlier: PostgresSnapshot, tables: Mapping[str, Table]
    ) -> None:
        self._conn = conn
        self._earlier = earlier
        self._tables = tables
        self.now_us = earlier.taken_us
        self._touched: dict[str, list[str]] = {}
        self._floors: dict[str, int] = {}
        self._has_tombstones: dict[str, bool] = {}
        self._quick = ExitStack()
        self._adding = ExitStack()
        self._added: tuple[str, Callable[[str], None]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._adding.__exit__(kind, error, trace)

    def open(self, collection: str) -> None:
        """Remove its expired rows: their keys are taken otherwise."""
        conn, table = self._conn, self._tables[collection]
        expired = sql.SQL(_DELETE_EXPIRED).format(**_parts(table))
        conn.execute(expired, (self.now_us, collection))
        row = conn.execute(
            "SELECT version_floor, EXISTS (SELECT FROM standfast.tombstones WHERE collection = %s)"
            " FROM standfast.collections WHERE name = %s",
            (collection, collection),
        ).fetchone()
        self._floors[collection], self._has_tombstones[collection] = row or (0, True)
        self._quick.enter_context(load.quick_inserts(conn, table))

    def before(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """What was live before this transaction wrote: read over the other connection."""
        return self._earlier.rows(collection, key=key)

    def after(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """What is live now."""
        self._end_adding()
        return chain.from_iterable(_rows(self._conn, self._tables[collection], self.now_us, key))

    def write(self, collection: str, rows: Sequence[Writing]) -> None:
        """Write rows, in order."""
        conn, table = self._conn, self._tables[collection]
        touched = self._touched.setdefault(collection, [])
        if len(touched) < 1001:
            touched += [each.key for each in rows][: 1001 - len(touched)]
        if self._only_adds(table, rows):
            send = self._begin_adding(table)
            for block in self._lines(table, rows, {}):
                send(block)
            return
        self._end_adding()
        lowest = self._lowest(collection, rows)
        self._delete(table, [each.key for each in rows if each.row is None])
        self._update(table, [each for each in rows if each.row and each.expected_version], lowest)
        fresh = [each for each in rows if each.row and not each.expected_version]
        if fresh:
            load.add_rows(conn, table, self._lines(table, fresh, lowest))
        _set_others(conn, table, rows)
        buried = [each.key for each in rows if each.row and each.key in lowest]
        if buried:
            conn.execute(
                "DELETE FROM standfast.tombstones WHERE collection = %s AND key = ANY (%b::text[])",
                (collection, buried),
            )

    def _only_adds(self, table: Table, rows: Sequence[Writing]) -> bool:
        """Whether these rows need no other statement than the COPY that the last ones began."""
        if not table.zoned or self._has_tombstones[table.collection]:
            return False
        return not any(
            each.expected_version or each.row is None or (table.others and each.row.others)
            for each in rows
        )

    def _begin_adding(self, table: Table) -> Callable[[str], None]:
        if self._added is None or self._added[0] != table.collection:
            self._end_adding()
            send = self._adding.enter_context(load.adding_rows(self._conn, table))
            self._added = table.collection, send
        return self._added[1]

    def _end_adding(self) -> None:
        self._added = None
        self._adding.close()

    def _lowest(self, collection: str, rows: Sequence[Writing]) -> dict[str, int]:
        """The versions of the tombstones of these keys.

        One that is trimmed meanwhile has raised the collection's floor, which is read after them.
        """
        if not self._has_tombstones[collection]:
            return {}
        found = self._conn.execute(
            "SELECT key, version FROM standfast.tombstones WHERE collection = %s"
            " AND key = ANY (%b::text[])",
            (collection, [each.key for each in rows]),
        ).fetchall()
        floor = self._conn.execute(
            "SELECT version_floor FROM standfast.collections WHERE name = %s", (collection,)
        ).fetchone()
        self._floors[collection] = floor[0] if floor else 0
        return dict(found)

    def _columns(
        self, table: Table, rows: Sequence[Writing], lowest: Mapping[str, int]
    ) -> Iterator[load.Record]:
        """All columns of rows that are written: key, data, raw, version and times."""
        floor = self._floors[table.collection]
        stored = [each.row for each in rows if each.row]  # deletes are left out
        for each, row, (data, raw) in zip(rows, stored, _exact_columns(stored), strict=True):
            known = max(each.expected_version, floor, lowest.get(each.key, 0) if lowest else 0)
            version = row.version if not known else max(row.version, known + 1)
            created_us = row.created_us or row.updated_us or self.now_us
            times = (created_us, row.updated_us or created_us, row.expires_us)
            yield each.key, data, raw, version, *times

    def _lines(
        self, table: Table, rows: Sequence[Writing], lowest: Mapping[str, int]
    ) -> Iterator[str]:
        """New rows in COPY's text format, a block at a time."""
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS]
            _require_fit(table, block)
            yield "".join([_line(record) for record in self._columns(table, block, lowest)])

    def _update(self, table: Table, rows: Sequence[Writing], lowest: Mapping[str, int]) -> None:
        if not rows:
            return
        columns = [list(column) for column in zip(*self._columns(table, rows, lowest), strict=True)]
        columns[0] = write.key_values(table, columns[0])
        statement = sql.SQL(load.UPDATE).format(**table.parts())
        if self._conn.execute(statement, columns).rowcount != len(rows):
            raise stale(table.collection, None)

    def _delete(self, table: Table, keys: Sequence[str]) -> None:
        if keys:
            statement = sql.SQL(write.DELETE_KEYS).format(**table.parts())
            self._conn.execute(statement, (write.key_values(table, keys), table.collection))

    def set_form(self, collection: str, form: Form) -> None:
        """Set how the collection looks as a file."""
        self._end_adding()
        self._conn.execute(
            "UPDATE standfast.collections SET shape = %s, key_field = %s WHERE name = %s",
            (form.shape, form.key_field, collection),
        )

    def finish(self) -> None:
        """Log what was changed."""
        self._end_adding()
        self._quick.close()
        for collection, keys in self._touched.items():
            write.log_change(self._conn, collection, keys)


def _exact_columns(rows: Sequence[Stored]) -> list[tuple[str, str | None]]:
    """`data` and `raw` of each; of a text that jsonb is known to keep nothing is looked at, and of
    one that it is known not to keep, only whether it takes it as it is."""
    texts: dict[bool | None, list[str]] = {False: [], None: []}
    for row in rows:
        if not row.exact:
            texts[row.exact].append(row.text)
    columns = {
        exact: iter(jsonb_columns_of_many(some, kept=exact) if some else ())
        for exact, some in texts.items()
    }
    return [(row.text, None) if row.exact else next(columns[row.exact]) for row in rows]


def _line(record: load.Record) -> str:
    """A row in COPY's text format: a document's text has no control characters."""
    key, data, raw, version, created_us, updated_us, expires_us = record
    escaped = data.replace("\\", "\\\\") if "\\" in data else data
    exact = load.NULL
    if raw is not None:
        exact = escaped if raw is data else raw.replace("\\", "\\\\")
    created = load.copy_stamp(created_us)
    updated = created if updated_us == created_us else load.copy_stamp(updated_us)
    expires = load.NULL if expires_us is None else load.copy_stamp(expires_us)
    return load.copy_line(key, escaped, exact, version, created, updated, expires)


def _require_fit(table: Table, rows: Sequence[Writing]) -> None:
    for each in () if table.key_type == "text" else rows:
        if not write.key_fits(table, each.key):
            raise DataError(
                f"collection `{table.collection}`: key {each.key!r} does not fit the table's"
                f" column `{table.key_column}`, which is {table.key_type}",
                code="bad_key",
                hint="leave that collection out with --collection, or use another database",
            )


def _set_others(conn: Connection[Any], table: Table, rows: Sequence[Writing]) -> None:
    """Give rows the columns that are not ours, as far as the table has them."""
    kept = [(each.row.others, each.key) for each in rows if each.row and each.row.others]
    if not table.others or not kept:
        return
    names = sql.SQL(", ").join(map(sql.Identifier, table.others))
    statement = sql.SQL(
        "UPDATE {table} t SET ({names}) = ROW (r.*) FROM (SELECT {names} FROM"
        " jsonb_populate_record(NULL::{table}, %s::jsonb)) r WHERE t.{key} = %s"
    ).format(names=names, **table.parts())
    for others, key in kept:
        (value,) = write.key_values(table, [key])
        conn.execute(statement, (others, value))


@contextmanager
def filling(
    backend: Backend, run: str, state: str, collections: Sequence[str]
) -> Generator[PostgresFilling]:
    """One transaction that keeps other writers of these collections out; readers go on."""
    ours = cast("PostgresBackend", backend)
    with ours.connection(f"filling run {run}") as conn:
        ours.writable(conn, sorted(collections))
        tables = {name: ours.table_of(name) for name in sorted(collections)}
        with ours.transaction(conn, lane=run):
            conn.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, true),"
                # One COPY takes a whole collection: longer than a role may allow a statement.
                " set_config('statement_timeout', %s, true)",
                (f"{int(MAX_SNAPSHOT_S)}s", f"{int(MAX_SNAPSHOT_S)}s"),
            )
            load.take_load_lock(conn)
            for table in tables.values():
                lock = sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
                conn.execute(lock.format(**table.parts()))
            failpoint("filling-begun")
            with (
                # Nothing is asked of it while a collection is written that was not there.
                snapshot(ours, MAX_SNAPSHOT_S, MAX_SNAPSHOT_S) as earlier,
                PostgresFilling(conn, earlier, tables) as work,
            ):
                for name in tables:
                    work.open(name)
                yield work
                work.finish()
            load.record_run(conn, run, state, {})
            failpoint("filling-recorded")


@contextmanager
def closed_to_others(backend: Backend) -> Generator[PostgresSnapshot]:
    """The database at one moment, to whose collections nobody writes until the block ends."""
    ours = cast("PostgresBackend", backend)
    collections = ours.collections()
    with ours.connection("closing the collections to writers") as conn:
        ours.writable(conn, collections)
        with ours.transaction(conn):
            for name in collections:
                lock = sql.SQL("LOCK TABLE {table} IN EXCLUSIVE MODE")
                conn.execute(lock.format(**ours.table_of(name).parts()))
            conn.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, true)",
                (f"{int(MAX_SNAPSHOT_S)}s",),
            )
            yield PostgresSnapshot(ours, conn, MAX_SNAPSHOT_S)
