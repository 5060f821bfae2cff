"""PostgreSQL as a backend: pooled connections, one transaction a batch, exact text beside jsonb."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from psycopg import Connection, sql

from standfast.backends.base import (
    Dropped,
    Form,
    Image,
    Load,
    LoadReport,
    Moved,
    Reference,
    RunRecord,
    StoredText,
    decode_outcomes,
)
from standfast.backends.postgres import (
    conflicts,
    differences,
    dropping,
    fast_put,
    load,
    read,
    schema,
    script,
    trim,
    write,
)
from standfast.backends.postgres.connection import Connections, DeadlineConnection
from standfast.backends.postgres.errors import RETRIED
from standfast.backends.postgres.handshake import is_pooled
from standfast.backends.postgres.known_tables import KnownTables
from standfast.backends.postgres.read import looking_again
from standfast.backends.postgres.references import find_references
from standfast.backends.postgres.session import time_left
from standfast.backends.postgres.tables import Table, find_table, has_schema
from standfast.config.settings import Target
from standfast.document.jsonb import compact
from standfast.errors import Unavailable
from standfast.limits import (
    INDEX_DEADLINE_S,
    MAX_CONNECTIONS,
    MAX_EXPIRED_ROWS,
    MAX_PRESENT,
    MAX_TRANSACTION_ATTEMPTS,
    MAX_TRIMMED_ROWS,
)
from standfast.ops.batch import Place, is_plain, kept, places
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import (
    Applied,
    ConflictRecord,
    Identity,
    Observed,
    Op,
    Outcome,
    Row,
    ServerIdentity,
    Span,
    State,
    state_of_row,
)
from standfast.system.failpoints import failpoint

#: Rows that a streaming read holds at a time.
_STREAM_ROWS = 1000


class PostgresBackend(KnownTables):
    """Documents in ordinary PostgreSQL tables, one a collection.

    Thread-safe.  Nothing is created before the first write.  Works behind transaction poolers:
    all state is transaction-scoped.
    """

    kind = "postgresql"

    def __init__(
        self,
        target: Target,
        *,
        max_connections: int = MAX_CONNECTIONS,
        connect_timeout_s: float = 5.0,
        lock_timeout_s: float = 2.0,
        connections: Connections | None = None,
        dedicated: DeadlineConnection | None = None,
    ) -> None:
        super().__init__(
            target,
            connections
            or Connections(
                target, max_connections=max_connections, connect_timeout_s=connect_timeout_s
            ),
            dedicated,
            lock_timeout_s=lock_timeout_s,
        )
        self._lock_timeout_s = lock_timeout_s
        self._next_handle = 0
        self._present: set[Place] = set()
        """Documents that were there when last written or read: a guess that the server checks."""

    def new_handle(self) -> PostgresBackend:
        """For one thread of the engine: one connection of the set, which only `connect` makes.

        If there are more handles than connections, threads share a connection, in turns.
        """
        every = self.connections.all
        index, self._next_handle = self._next_handle % len(every), self._next_handle + 1
        if index == len(self._handles):
            made = self._make_handle(every[index])
            # What one of them knows of the tables, all of them know.
            made._tables, made._maker, made._handles = self._tables, self._maker, self._handles
            made._present = self._present
            self._handles.append(made)
        found = self._handles[index]
        assert isinstance(found, PostgresBackend), "this method has made it"
        return found

    def connect(
        self,
        deadline: float,
        *,
        accept: Callable[[ServerIdentity], object] | None = None,
        lanes: Sequence[str] = (),
    ) -> ServerIdentity:
        """As `Sessions.connect`; where the server takes no more connections, another handle's
        serves this one too, and both wait for each other."""
        self.dedicated = self._own
        try:
            return super().connect(deadline, accept=accept, lanes=lanes)
        except Unavailable as error:
            others = [handle._own for handle in self._handles if handle is not self]
            shared = next((one for one in others if one is not None and one.connected), None)
            if error.code != "too_many_connections" or shared is None:
                raise
        self.dedicated = shared
        found = self.server_identity(deadline, lanes=lanes)
        if accept is not None:
            accept(found)
        return found

    def close(self) -> None:
        (self._own or self.connections).close()

    def _make_handle(self, dedicated: DeadlineConnection) -> PostgresBackend:
        return PostgresBackend(
            self.target,
            lock_timeout_s=self._lock_timeout_s,
            connections=self.connections,
            dedicated=dedicated,
        )

    def schema_version(self) -> int:
        with self.connection("looking at the schema") as conn:
            return schema.schema_version(conn)

    def install(self, collections: Sequence[str]) -> None:
        with self.connection("creating the schema") as conn:
            with self.transaction(conn):
                schema.install(conn, self.target.trust)
            self.writable(conn, collections)

    def schema_script(self, collections: Sequence[str], *, options: script.ScriptOptions) -> str:
        """The SQL that is missing for these collections, as a script."""
        with self.connection("looking at the schema") as conn:
            home = self.schema_of(conn)
            options = options._replace(trusted=self.target.trust)
            return script.script(conn, home, collections, options)

    def identity(self) -> str | None:
        with self.connection("reading the identity") as conn:
            if not has_schema(conn):
                return None
            row = conn.execute("SELECT identity::text FROM standfast.identity").fetchone()
            return str(row[0]) if row else None

    def incarnation(self, collection: str, *, deadline: float | None = None) -> str | None:
        with self.connection(f"looking at `{collection}`", deadline) as conn:
            return dropping.incarnation(conn, collection)

    def drop(
        self,
        collection: str,
        incarnation: str,
        *,
        if_empty: bool = False,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Dropped | None:
        doing = f"dropping `{collection}`"
        with self.unpinned(doing, deadline) as conn:
            if deadline is not None and self.clock is None:
                self.measure_clock(conn)
            expires_us = self.expires_us(deadline)
            try:
                with self.transaction(conn, deadline=deadline):
                    schema.lock_tables(conn)
                    if dropping.incarnation(conn, collection) != incarnation:
                        return None
                    lost = self._lost_table(conn, collection)
                    home, trust = self.schema_of(conn), self.target.trust
                    table = None if lost else find_table(conn, collection, home, trust)
                    if table is not None:
                        self.require_own_schema(table)
                    floor = dropping.drop(conn, collection, table, if_empty=if_empty)
                    watermarks = read.watermarks(conn, directory)
                    if expires_us is not None:
                        write.expire(conn, expires_us)
            finally:
                self._tables.pop(collection, None)
            return Dropped(floor, watermarks)

    def create_index(self, collection: str, *, deadline: float | None = None) -> None:
        doing = f"indexing `{collection}`"
        self.make_tables([collection], deadline)
        with self.connection(doing, deadline) as conn:
            table = self.table_of(collection)
            # IF NOT EXISTS asks who owns the table before it looks.
            if schema.has_index(conn, table):
                return
        with self.connection(doing, time.monotonic() + INDEX_DEADLINE_S) as conn:
            conn.execute(schema.index_statement(table.schema, table.name))

    # ---- writing

    def apply(
        self,
        ops: Sequence[Op],
        *,
        expected_watermark: int = 0,
        deadline: float | None = None,
        directory: str | None = None,
        on_conflict: OnConflict = "mine",
        lock_timeout_s: float | None = None,
    ) -> Applied:
        plain = False
        if directory is not None and lock_timeout_s is None and is_plain(ops):
            options = write.TransactionOptions(
                expected_watermark, expires_us=self.expires_us(deadline), directory=directory
            )
            applied = self._put(ops, options, deadline)
            if applied is not None:
                return applied
            plain = True
        self._present.difference_update([(op.collection, op.key) for op in ops])
        touched = places(kept(ops))
        names = ", ".join(f"`{name}`" for name in touched)
        doing = f"writing to {names}" if names else "recording conflicts"
        options = write.TransactionOptions(
            expected_watermark,
            directory=directory,
            on_conflict=on_conflict,
        )
        if not touched:
            self._make_schema(doing, deadline)
        for attempt in range(1, MAX_TRANSACTION_ATTEMPTS + 1):
            # Half of the time, since others write in the same batch.
            now = time.monotonic()
            half = None if deadline is None else now + (deadline - now) / 2
            self.make_tables(list(touched), half)
            with self.unpinned(doing, deadline) as conn:
                if half is not None and ops[0].replay and time.monotonic() > half:
                    # Nobody waits for it; cut off in the middle it would cost the connection.
                    raise Unavailable(
                        "the connection was free too late for a replay",
                        code="busy",
                        hint="nothing was sent; it is tried again",
                    )
                try:
                    tables = [(self.table_of(name), keys) for name, keys in touched.items()]
                    limited = self.limited(options, deadline, lock_timeout_s)._replace(
                        pin=is_pooled(conn)
                    )
                    written = write.apply_batch(conn, tables, ops, limited)
                    if plain:
                        written = fast_put.recall_versions(conn, tables[0][0], ops, written)
                        self._present.update((op.collection, op.key) for op in ops)
                    self.clock = (written.server_us, written.at)
                    return written.applied
                except Unavailable as error:  # another thread has just forgotten the table
                    if error.code != "busy" or attempt == MAX_TRANSACTION_ATTEMPTS:
                        raise
                except write.UnregisteredError as error:
                    self._forget_tables(error)
                    if attempt == MAX_TRANSACTION_ATTEMPTS:
                        raise read.unregistered() from None
                except psycopg.Error as error:
                    last = attempt == MAX_TRANSACTION_ATTEMPTS
                    stale = self._forget_tables(error) and not last
                    if stale and time_left(deadline) > 0:
                        continue  # as it was known here: looked at again, it may be in order
                    if error.sqlstate == "SF001" and not last and time_left(deadline) > 0:
                        self.measure_clock(conn)  # it may have jumped
                    elif error.sqlstate not in RETRIED or last or time_left(deadline) <= 0:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _make_schema(self, doing: str, deadline: float | None) -> None:
        """Rejected ops touch no collection, whose table would bring the bookkeeping with it."""
        with self.connection(doing, deadline) as conn:
            if not has_schema(conn):
                with self.transaction(conn, deadline=deadline):
                    schema.install(conn, self.target.trust)

    def _put(
        self, ops: Sequence[Op], options: write.TransactionOptions, deadline: float | None
    ) -> Applied | None:
        """Apply plain puts in one statement, if the session has its limits; None: in general."""
        table, dedicated = self._tables.get(ops[0].collection), self.dedicated
        if table is None or dedicated is None or not dedicated.has_settings:
            return None
        if not options.expected_watermark:
            return None  # the general way makes the lane's row
        if table.key_type != "text" and not all(write.key_fits(table, op.key) for op in ops):
            return None

        there = self._present
        keys = {(op.collection, op.key) for op in ops}

        def put(conn: Connection[Any], *, present: bool) -> Applied | None:
            try:
                written = fast_put.put_batch(conn, table, ops, options, present=present)
            except psycopg.Error as error:
                if present and error.sqlstate == "SF002":
                    there.difference_update(keys)
                    return put(conn, present=False)
                stale = self._forget_tables(error)
                if error.sqlstate == "SF001":
                    self.measure_clock(conn)  # it may have jumped
                elif error.sqlstate not in RETRIED and not stale:
                    raise
                return None
            self.clock = (written.server_us, written.at)
            if not present:
                self._remember(written.applied.observed)
            return written.applied

        work = partial(put, present=keys <= there)
        return dedicated.run(work, f"writing to `{table.collection}`", deadline)

    def _remember(self, observed: Observed) -> None:
        """Guess from now on that these documents are there."""
        if len(self._present) > MAX_PRESENT:
            self._present.clear()
        self._present.update(
            (one.collection, one.key) for one in observed.states if one.text is not None
        )

    def fence(
        self,
        lanes: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> dict[str, int]:
        doing = "closing lanes of earlier processes"
        with (
            self.connection(doing, deadline) as conn,
            self.transaction(conn, deadline=deadline),
        ):
            if not has_schema(conn):
                # A zombie of theirs would create it: then its first write finds nothing closed.
                schema.install(conn, self.target.trust)
            final = conflicts.fence(conn, sorted(set(lanes)), directory)
            failpoint("pg-lanes-fenced")
            return final

    def differences(self) -> list[str]:
        with self.connection("looking at the schema") as conn:
            return differences.differences(conn) if has_schema(conn) else []

    def trim(self, collection: str | None = None, *, deadline: float | None = None) -> bool:
        doing = "removing what is past its time"
        with self.connection(doing, deadline) as conn:
            # Only a table that was used here: whether it is ours to change was judged then.
            table = None if collection is None else self._tables.get(collection)
            is_there = self._installed or table is not None or has_schema(conn)
            if not is_there or (collection and table is None):
                return False
            with self.transaction(conn, deadline=deadline):
                if table is None:
                    return trim.trim_bookkeeping(conn, limited=True) >= MAX_TRIMMED_ROWS
                return trim.trim_expired(conn, table, rows=MAX_EXPIRED_ROWS) >= MAX_EXPIRED_ROWS

    def outcomes(self, lane: str, *, deadline: float | None = None) -> list[Outcome]:
        with self.connection("reading the outcomes of a lane", deadline) as conn:
            row = conn.execute(
                "SELECT outcomes FROM standfast.lanes WHERE lane = %s AND generation = 0", (lane,)
            ).fetchone()
            return decode_outcomes(row[0]) if row else []

    def conflicts(
        self,
        *,
        state: str | None = None,
        after: int = 0,
        limit: int = 100,
        name: Identity | None = None,
        deadline: float | None = None,
    ) -> list[ConflictRecord]:
        with self.connection("reading the conflicts", deadline) as conn:
            if not has_schema(conn):
                return []
            return conflicts.conflicts(conn, state=state, after=after, limit=limit, name=name)

    def count_conflicts(self, *, deadline: float | None = None) -> dict[str, int]:
        with self.connection("reading the conflicts", deadline) as conn:
            return conflicts.counts(conn) if has_schema(conn) else {}

    def resolve_conflict(self, number: int, resolution: str) -> bool:
        with self.connection("resolving a conflict") as conn:
            return has_schema(conn) and conflicts.resolve(conn, number, resolution)

    def close_lane(self, lane: str) -> None:
        with self.connection("closing the lane") as conn:
            if has_schema(conn):
                conn.execute("DELETE FROM standfast.lanes WHERE lane = %s", (lane,))

    # ---- reading

    @contextmanager
    def _reading(
        self, collection: str, deadline: float | None = None
    ) -> Generator[tuple[Connection[Any], Table | None]]:
        with self.connection(f"reading `{collection}`", deadline, reading=True) as conn:
            try:
                yield conn, self._table(conn, collection)
            except (psycopg.Error, write.UnregisteredError) as error:
                self._forget_tables(error)
                raise

    @looking_again
    def read(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        with self._reading(collection) as (conn, table):
            if table is None:
                return {}
            return read.read_rows(conn, table, keys)

    @looking_again
    def observe(
        self,
        collection: str,
        keys: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        def look(conn: Connection[Any], table: Table) -> Observed:
            seen = read.observe(conn, table, keys, directory)
            self._remember(seen)
            return seen

        def look_apart(conn: Connection[Any], table: Table | None) -> list[State]:
            rows = {} if table is None else read.read_rows(conn, table, keys)
            return [read.state_of(collection, key, rows.get(key)) for key in keys]

        return self._observed(collection, look, look_apart, directory, deadline)

    @looking_again
    def page(
        self,
        collection: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        def look(conn: Connection[Any], table: Table) -> Observed:
            return read.page(conn, table, after, limit, directory)

        def look_apart(conn: Connection[Any], table: Table | None) -> list[State]:
            if table is None:
                return []
            rows = read.scan_rows(conn, table, after=after, limit=limit)
            return [state_of_row(collection, row) for row in rows]

        return self._observed(collection, look, look_apart, directory, deadline)

    def _observed(
        self,
        collection: str,
        look: Callable[[Connection[Any], Table], Observed],
        look_apart: Callable[[Connection[Any], Table | None], list[State]],
        directory: str | None,
        deadline: float | None,
    ) -> Observed:
        """What a table shows, with the watermarks: by one statement, or where it is not ready by
        several."""
        table, dedicated = self._tables.get(collection), self.dedicated
        if table is not None and dedicated is not None and dedicated.has_settings:

            def look_at_once(conn: Connection[Any]) -> Observed:
                try:
                    return look(conn, table)
                except (psycopg.Error, write.UnregisteredError) as error:
                    self._forget_tables(error)
                    raise

            return dedicated.run(look_at_once, f"reading `{collection}`", deadline, reading=True)
        with self._reading(collection, deadline) as (conn, table):
            if table is not None and table.ready:
                return look(conn, table)
            # Whatever is in the watermarks was committed before the table is looked for once more.
            told = read.watermarks(conn, directory) if has_schema(conn) else {}
            return Observed(look_apart(conn, self._table(conn, collection)), told)

    @looking_again
    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        with self._reading(collection, deadline) as (conn, table):
            if table is None:
                return []
            return read.scan_rows(
                *(conn, table),
                prefix=span.prefix,
                after=span.after,
                limit=span.limit,
                reverse=span.reverse,
                query=span.query,
            )

    @looking_again
    def count(self, collection: str, *, deadline: float | None = None) -> int:
        with self._reading(collection, deadline) as (conn, table):
            if table is None:
                return 0
            statement = sql.SQL("SELECT count(*) FROM {table} t WHERE {live}")
            row = conn.execute(statement.format(**table.parts())).fetchone()
            return int(row[0]) if row else 0

    def dump(self, collection: str, *, in_order: bool = False) -> Iterator[StoredText]:
        with self._reading(collection) as (conn, table):
            if table is None:
                return
            statement = sql.SQL(
                "SELECT {key_text}, {raw}, CASE WHEN {raw} IS NULL THEN t.data::text END,"
                " {version}, {updated_us} FROM {table} t WHERE {live}"
                + (" ORDER BY {created_us}, {ordered}" if in_order else "")
            ).format(**table.parts())
            # Streamed: the server goes on while the rows that came are looked at.
            with conn.cursor(binary=True) as cur:
                for key, raw, data, version, updated_us in cur.stream(statement, size=_STREAM_ROWS):
                    text = compact(data or "null") if raw is None else raw
                    yield StoredText(key, text, version, updated_us)

    def inconsistent(self, collection: str) -> Iterator[str]:
        with self._reading(collection) as (conn, table):
            if table is None or not table.registered or "raw" not in table.columns:
                return
            yield from read.inconsistent_keys(conn, table)

    @looking_again
    def images(self, collection: str, keys: Sequence[str]) -> dict[str, Image]:
        with self._reading(collection) as (conn, table):
            if table is None:
                return {}
            return read.read_images(conn, table, keys)

    def collections(self, *, deadline: float | None = None) -> list[str]:
        with self.connection("listing the collections", deadline) as conn:
            if not has_schema(conn):
                return []
            found = conn.execute("SELECT name FROM standfast.collections ORDER BY name")
            return [record[0] for record in found]

    def form(self, collection: str) -> Form:
        with self.connection(f"reading `{collection}`") as conn:
            row = None
            if has_schema(conn):
                row = conn.execute(
                    "SELECT shape, key_field FROM standfast.collections WHERE name = %s",
                    (collection,),
                ).fetchone()
            return Form(*row) if row else Form()

    # ---- bulk loads

    def load(self, run: str, state: str, loads: Sequence[Load]) -> Mapping[str, LoadReport]:
        with self.connection(f"loading run {run}") as conn:
            try:
                if lost := [load.collection for load in loads if load.remake]:
                    with self.transaction(conn):
                        for name in lost:
                            home, trust = self.schema_of(conn), self.target.trust
                            schema.remake_table(conn, name, home, trust)
                names = [load.collection for load in loads]
                # A table that is there is adopted before: changing it shuts its readers out.
                there = [name for name in names if self._table(conn, name) is not None]
                self.writable(conn, there)
                with self.transaction(conn, lane=run):
                    load.take_load_lock(conn)
                    made = self._made(conn, [name for name in names if name not in there])
                    reports = load.load_run(conn, self._tables | made, run, state, loads)
                self._tables.update(made)
                return reports
            except psycopg.Error as error:
                self._forget_tables(error)
                raise

    def references(self, collection: str, keys: Sequence[str]) -> list[Reference]:
        with self._reading(collection) as (conn, table):
            return [] if table is None else find_references(conn, table, keys)

    def misfits(self, collection: str, keys: Sequence[str]) -> list[str]:
        with self._reading(collection) as (_, table):
            return [key for key in keys if table is not None and not write.key_fits(table, key)]

    def run_record(self, run: str) -> RunRecord | None:
        with self.connection(f"reading run {run}") as conn:
            return load.read_run(conn, run) if has_schema(conn) else None

    def moved(self) -> list[Moved]:
        with self.connection("reading the runs") as conn:
            return load.moved(conn) if has_schema(conn) else []

    def buried(self, collection: str) -> set[str]:
        with self.connection(f"reading `{collection}`") as conn:
            if not has_schema(conn):
                return set()
            found = conn.execute(
                "SELECT key FROM standfast.tombstones WHERE collection = %s", (collection,)
            )
            return {key for (key,) in found}
