"""SQLite as a backend: one file, WAL, synchronous=FULL, one table a collection.

The durable settings are the ones that lost nothing in real power cuts (WAL with synchronous=FULL).
Sources: sqlite.org/wal.html, sqlite.org/pragma.html, apsw documentation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from standfast.backends.base import (
    SCHEMA_VERSION,
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
    migrations,
    readable,
)
from standfast.backends.sqlite import conflicts as sqlite_conflicts
from standfast.backends.sqlite import load as sqlite_load
from standfast.backends.sqlite import tables as sqlite_tables
from standfast.backends.sqlite import write as sqlite_write
from standfast.backends.sqlite.errors import from_sqlite, mapped
from standfast.backends.sqlite.file import (
    BUSY_TIMEOUT_S,
    Inode,
    connect,
    enter_wal,
    gone,
    inode_of,
    leave_wal,
    needs_room,
    transaction,
    warn_if_emptied,
    within,
)
from standfast.backends.sqlite.plain import KnownTables, NotPlain, put_batch
from standfast.backends.sqlite.references import enforced_references, find_references
from standfast.backends.sqlite.tables import (
    adopt,
    adoptable_tables,
    lost_table,
    obstacle,
    preview,
    table_of,
)
from standfast.backends.sqlite.trim import Trimmer, trim_bookkeeping, trim_expired
from standfast.document.containment import contains
from standfast.errors import ConfigError, Unavailable
from standfast.limits import MAX_EXPIRED_ROWS, MAX_TRIMMED_ROWS
from standfast.ops.batch import is_plain
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
from standfast.system.files import close_to_others, create_private
from standfast.system.forking import OPENING, watch

logger = logging.getLogger("standfast")

#: "stnd" in ASCII: marks the file as ours (PRAGMA application_id).
APPLICATION_ID = 0x73746E64
#: How long a store that is closed waits for another process that is writing.
_CLOSING_WAIT_MS = 100
#: What the file is: made by us, or by another program, whose tables we have adopted.
EMBEDDED, ADOPTED = "embedded primary", "adopted"


def now_us() -> int:
    """Microseconds since 1970 UTC: the clock of an embedded database is this machine's."""
    return time.time_ns() // 1000


class SqliteBackend:
    """Documents in one SQLite file.  Thread-safe; several processes may use the file.

    Nothing is created before the first write.  A file of another program with tables in the shape
    `key TEXT PRIMARY KEY, data` is read as it is, and adopted by the first write; one without such
    tables is refused.
    `busy_timeout_s` is how long a call waits for another process that is writing.
    """

    kind = "sqlite"

    def __init__(self, path: str | Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        # Absolute: a program may change its directory, and ":memory:" is a file name here.
        self.path = Path(path).absolute()
        self._place = str(self.path)
        self._busy_timeout_ms = int(busy_timeout_s * 1000)
        self._conn: apsw.Connection | None = None
        self._adopting = False  # the file is another program's until our first write
        self._inode: Inode | None = None
        self._closed = False
        self._lock = threading.RLock()
        # Of their own: a read must not wait for a write that waits for another process.
        self._reader: apsw.Connection | None = None
        self._trimmer = Trimmer()
        self._known: KnownTables | None = None  # to the connection that reads
        self._puts: KnownTables | None = None  # and to the one that writes
        self._read_lock = threading.Lock()
        self._in_use = False
        self._alone = False  # no other process can use the file now
        watch(self)

    @property
    def display(self) -> str:
        return f"sqlite:///{self.path}"

    # ---- the connection

    @contextmanager
    def using(self, doing: str, *, create: bool = False) -> Generator[apsw.Connection | None]:
        """The connection under the lock; None when there is no database and none is to be made."""
        with self._lock, mapped(f"{doing} in {self.display}"):
            if self._closed:
                raise Unavailable(
                    f"{self.display} was closed", code="closed", hint="open the store again"
                )
            self._check_inode()
            if create and self._adopting:
                self._drop_connection()
            if self._conn is None and (create or self._exists()):
                self._conn = self._open(create=create)
            yield self._conn

    @contextmanager
    def _looking(self, doing: str) -> Generator[apsw.Connection | None]:
        """The connection for reading; None when there is no database."""
        reader = self._reader
        if reader is None:
            with self.using(doing) as conn:
                reader = self._reader  # opened with the other one, unless there is nothing to open
                if reader is None:
                    yield conn
                    return
        with self._read_lock, mapped(f"{doing} in {self.display}"):
            self._check_reader(reader)
            yield reader

    def _check_reader(self, reader: apsw.Connection) -> None:
        """Raise where this is not the connection any more, or not to the file that is there."""
        if self._reader is not reader or self._closed:
            raise Unavailable(
                f"{self.display} was closed", code="closed", hint="open the store again"
            )
        if inode_of(self._place) != self._inode:
            raise gone(self.path, "the database file")

    @contextmanager
    def writing(self, doing: str) -> Generator[apsw.Connection]:
        """One transaction, which counts only if the file is still in its place afterwards."""
        with self.using(doing, create=True) as conn:
            assert conn is not None, "create=True opens"
            marks = not self._in_use and self._reader is not None
            with transaction(conn):
                marked = marks and mark_in_use(conn, in_use=True)
                yield conn
            if marks:
                self._in_use = True
            if marked:  # into the file itself, for whoever gets a copy of that alone
                conn.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._check_inode()

    def _exists(self) -> bool:
        try:
            return self.path.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _check_inode(self) -> None:
        """A file that was unlinked or replaced under us swallows writes without an error.

        It is an error until the same file is back: a new one would silently start from nothing.
        """
        if self._inode is not None and inode_of(self._place) != self._inode:
            self._drop_connection()
            raise gone(self.path, "the database file")

    def _drop_connection(self) -> None:
        self._adopting = self._in_use = self._alone = False
        with self._read_lock:
            reader, self._reader = self._reader, None
            self._known = self._puts = None
        conn, self._conn = self._conn, None
        _close(reader, conn)

    def fork_locks(self) -> list[Any]:
        return [self._lock, self._read_lock]

    def close_in_child(self) -> None:
        """The connections are the parent's; the child makes its own when it needs them."""
        self._conn, self._reader, inherited = None, None, (self._reader, self._conn)
        self._known = self._puts = None
        self._adopting = self._in_use = False
        _close(*inherited)

    def _connect(self) -> apsw.Connection:
        return connect(self.path, self._busy_timeout_ms, alone=self._alone)

    def make_room(self) -> None:
        """On a full disk: the room of the log is free once the file has its pages."""
        with contextlib.suppress(apsw.Error), self._lock:
            if self._conn is not None:
                self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _open(self, *, create: bool) -> apsw.Connection | None:
        """The file as our database; None when it is an empty one and none is to be made."""
        try:
            return self._opened(create=create)
        except apsw.Error as error:
            if not needs_room(error):
                raise
        self._alone = True
        try:
            return self._opened(create=create)
        except BaseException:
            self._alone = False
            raise

    def _opened(self, *, create: bool) -> apsw.Connection | None:
        with OPENING:
            warn_if_emptied(self.path)
            if create:
                create_private(self.path)
            inode = inode_of(self.path)
            has_log = os.path.lexists(f"{self.path}-wal")
            conn = self._connect()
        try:
            # What is not ours must not change, not even by a checkpoint when it is closed again.
            conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if self._schema_version(conn) == 0 and not create:
                names = adoptable_tables(conn)
                if not names:
                    conn.close(True)
                    return None
                preview(conn, (statements for _, statements in migrations("sqlite")), names)
                self._inode, self._adopting = inode, True
                return conn
            conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            close_to_others(self.path)
            # Before the first statement that may lock: of several processes one adopts the file.
            shared = self._is_shared(conn)
            if shared:
                leave_wal(conn)
            else:
                enter_wal(conn, self.path, self._busy_timeout_ms / 1000)
                if not has_log and is_in_use(conn):
                    logger.warning(
                        "%s was not closed, and its -wal file is missing: if it is a copy of a"
                        " running store, what was written last is not in it; copy the whole data"
                        " directory while no process uses it",
                        self.path,
                    )
            self._install(conn)
            if not shared:  # there a read may have to wait, and its own lock is no help
                self._reader = self._connect()
        except BaseException:
            conn.close(True)
            raise
        self._inode = inode
        return conn

    def _is_shared(self, conn: apsw.Connection) -> bool:
        """Whether the program that made the file may still use it, in this very process."""
        if self._schema_version(conn) == 0:
            return bool(adoptable_tables(conn))
        return conn.execute("SELECT role FROM _standfast_identity").get == ADOPTED

    def _install(self, conn: apsw.Connection) -> None:
        """Bring the bookkeeping up to date, as one of several processes perhaps."""
        if self._schema_version(conn) == SCHEMA_VERSION:
            return
        with transaction(conn):
            version = self._schema_version(conn)
            adopted = [] if version else adoptable_tables(conn)
            for number, statements in migrations("sqlite"):
                if number > version:
                    conn.execute(statements)
            if version == 0:
                conn.execute(
                    "INSERT INTO _standfast_identity (single, identity, role, created_at)"
                    " VALUES (1, ?, ?, ?)",
                    (str(uuid.uuid4()), ADOPTED if adopted else EMBEDDED, now_us()),
                )
                adopt(conn, adopted, now_us())
                conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _schema_version(self, conn: apsw.Connection) -> int:
        """The version of our tables in the file, 0 in an empty one; refuses what is not ours."""
        try:
            # One statement, one snapshot: another process may be creating the tables right now.
            owner, version, tables = conn.execute(
                "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
                " FROM pragma_application_id, pragma_user_version"
            ).get
        except apsw.NotADBError:
            raise ConfigError(
                f"{self.path} is not a SQLite database",
                code="not_a_database",
                hint="give another path, or move that file away",
            ) from None
        if owner == 0 and (not tables or (version == 0 and adoptable_tables(conn))):
            return 0
        if owner != APPLICATION_ID:
            raise ConfigError(
                f"{self.path} holds the tables of another application",
                code="not_ours",
                hint="give another path for the database",
            )
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{self.path} has schema version {version}, this library knows {SCHEMA_VERSION}",
                code="schema_newer",
                hint="update standfast to the version that the other program uses",
            )
        return version

    def check(self) -> None:
        with self.using("looking at the database"):
            pass

    def schema_version(self) -> int:
        with self.using("looking at the database") as conn:
            return 0 if conn is None or self._adopting else SCHEMA_VERSION

    def install(self, collections: Sequence[str]) -> None:
        with self.writing("creating collections") as conn:
            for name in collections:
                sqlite_write.ensure_table(conn, name, now_us())

    def identity(self) -> str | None:
        with self.using("reading the identity") as conn:
            return conn and conn.execute("SELECT identity FROM _standfast_identity").get

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._mark_closed()
            self._drop_connection()

    def _mark_closed(self) -> None:
        conn = self._conn
        if conn is None or self._reader is None:
            return
        with contextlib.suppress(apsw.Error):  # a note that stays costs a warning at the worst
            conn.set_busy_timeout(_CLOSING_WAIT_MS)
            if is_in_use(conn):
                with transaction(conn):
                    mark_in_use(conn, in_use=False)

    # ---- writing

    def new_handle(self) -> SqliteBackend:
        return self

    @property
    def connected(self) -> bool:
        return True

    def connect(
        self,
        deadline: float,
        *,
        accept: Callable[[ServerIdentity], object] | None = None,
        lanes: Sequence[str] = (),
    ) -> ServerIdentity:
        server_identity = self.server_identity(deadline, lanes=lanes)
        if accept is not None:
            accept(server_identity)
        return server_identity

    def server_identity(self, deadline: float, *, lanes: Sequence[str] = ()) -> ServerIdentity:
        return ServerIdentity(self.identity())

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
        if directory is None and is_plain(ops):
            with contextlib.suppress(NotPlain):
                return self._put(ops, expected_watermark)
        with self.writing("writing") as conn:
            applied = sqlite_write.apply_batch(
                *(conn, ops),
                expected_watermark=expected_watermark,
                now_us=now_us(),
                directory=directory,
                on_conflict=on_conflict,
            )
            self._trimmer.after(conn, ops, now_us())
            return applied

    def _put(self, ops: Sequence[Op], expected_watermark: int) -> Applied:
        """Apply plain puts, as `writing` does: this is the way of most calls."""
        with self._lock:
            conn, now = self._conn, now_us()
            if self._closed or conn is None or not (self._in_use or self._reader is None):
                raise NotPlain
            known = self._puts
            if known is None or known.conn is not conn:
                known = self._puts = KnownTables(conn)
            try:
                try:
                    conn.execute("BEGIN IMMEDIATE")
                    applied = put_batch(
                        conn, known, ops, expected_watermark=expected_watermark, now_us=now
                    )
                    self._trimmer.after(conn, ops, now)
                    conn.execute("COMMIT")
                except BaseException:
                    if conn.in_transaction:
                        conn.execute("ROLLBACK")
                    raise
                self._check_inode()
            except (apsw.Error, OSError) as error:
                raise from_sqlite(error, f"writing in {self.display}") from None
            known.note_own()
            return applied

    def fence(
        self,
        lanes: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> dict[str, int]:
        with self.writing("closing lanes of earlier processes") as conn:
            return sqlite_conflicts.fence(conn, lanes, directory, now_us())

    def differences(self) -> list[str]:
        return []

    def trim(self, collection: str | None = None, *, deadline: float | None = None) -> bool:
        with self.writing("removing what is past its time") as conn:
            if collection is None:
                trim_bookkeeping(conn, now_us(), rows=MAX_TRIMMED_ROWS)
                return False
            table = table_of(conn, collection)
            gone = trim_expired(conn, table, now_us(), rows=MAX_EXPIRED_ROWS)
            return gone >= MAX_EXPIRED_ROWS

    def outcomes(self, lane: str, *, deadline: float | None = None) -> list[Outcome]:
        with self.using("reading the outcomes of a lane") as conn:
            if conn is None or self._adopting:
                return []
            text = conn.execute(
                "SELECT outcomes FROM _standfast_lanes WHERE lane = ? AND generation = 0", (lane,)
            ).get
            return decode_outcomes(text or "[]")

    def conflicts(
        self,
        *,
        state: str | None = None,
        after: int = 0,
        limit: int = 100,
        name: Identity | None = None,
        deadline: float | None = None,
    ) -> list[ConflictRecord]:
        with self.using("reading the conflicts") as conn:
            if conn is None:
                return []
            return sqlite_conflicts.conflicts(
                conn, state=state, after=after, limit=limit, name=name
            )

    def count_conflicts(self, *, deadline: float | None = None) -> dict[str, int]:
        with self.using("reading the conflicts") as conn:
            return sqlite_conflicts.counts(conn) if conn is not None else {}

    def resolve_conflict(self, number: int, resolution: str) -> bool:
        if not self.conflicts(after=number - 1, limit=1):
            return False
        with self.writing("resolving a conflict") as conn:
            return sqlite_conflicts.resolve(conn, number, resolution, now_us())

    def close_lane(self, lane: str) -> None:
        with self.using("closing the lane") as conn:
            if conn is not None:
                conn.execute("DELETE FROM _standfast_lanes WHERE lane = ?", (lane,))

    def load(self, run: str, state: str, loads: Sequence[Load]) -> Mapping[str, LoadReport]:
        doing = f"loading run {run}"
        with self.using(doing, create=True) as conn:
            assert conn is not None, "create=True opens"
            once = sqlite_load.pages_written_once(conn, loads, self._busy_timeout_ms)
            with once, enforced_references(conn), self.writing(doing):
                return sqlite_load.load_run(conn, run, state, loads, now_us())

    def lost_table(self, collection: str) -> bool:
        with self.using(f"looking at `{collection}`") as conn:
            return conn is not None and lost_table(conn, collection)

    def references(self, collection: str, keys: Sequence[str]) -> list[Reference]:
        with self._reading(collection) as conn:
            return [] if conn is None else find_references(conn, table_of(conn, collection), keys)

    def misfits(self, collection: str, keys: Sequence[str]) -> list[str]:
        return []

    def run_record(self, run: str) -> RunRecord | None:
        with self.using(f"reading run {run}") as conn:
            return sqlite_load.read_run(conn, run) if conn is not None else None

    def moved(self) -> list[Moved]:
        with self.using("reading the runs") as conn:
            return [] if conn is None else sqlite_load.moved(conn)

    def buried(self, collection: str) -> set[str]:
        with self.using(f"reading `{collection}`") as conn:
            if conn is None:
                return set()
            found = conn.execute(
                "SELECT key FROM _standfast_tombstones WHERE collection = ?", (collection,)
            )
            return {key for (key,) in found}

    # ---- reading

    @contextmanager
    def _reading(self, collection: str) -> Generator[apsw.Connection | None]:
        with self._looking(f"reading `{collection}`") as conn:
            known = conn is not None and sqlite_write.is_collection(conn, collection)
            yield conn if known else None

    def read(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        reader = self._reader
        if reader is None:
            with self._looking(f"reading `{collection}`") as conn:
                return {} if conn is None else self._rows(conn, collection, keys)
        with self._read_lock:  # as `_looking` does: this is the way of every call
            try:
                self._check_reader(reader)
                return self._rows(reader, collection, keys)
            except (apsw.Error, OSError) as error:
                raise from_sqlite(error, f"reading `{collection}` in {self.display}") from None

    def _rows(self, conn: apsw.Connection, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        known = self._known
        if known is None or known.conn is not conn:
            known = self._known = KnownTables(conn)
        while True:
            table = known.get(collection)
            if table is None:
                return {}
            try:
                if len(keys) == 1:
                    found = known.execute(table.read_one, (keys[0],)).fetchall()
                else:
                    found = known.execute(
                        table.read_some, (sqlite_write.json_array(keys),)
                    ).fetchall()
            except apsw.SQLError:
                if known.hold():
                    raise
                continue
            if known.hold():
                now = 0
                rows: dict[str, Row] = {}
                for record in found:
                    expires_us = record[5]
                    if expires_us is None or expires_us > (now := now or now_us()):
                        rows[record[0]] = Row(*record)
                return rows

    def observe(
        self,
        collection: str,
        keys: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        missing = [State(collection, key, None, 0) for key in keys]
        with self._looking(f"reading `{collection}`") as conn:
            if conn is None:
                return Observed(missing)
            now = now_us()
            with transaction(conn, "BEGIN"):  # one snapshot of rows and watermarks
                watermarks = sqlite_conflicts.watermarks(conn, directory)
                if not sqlite_write.is_collection(conn, collection):
                    return Observed(missing, watermarks)
                rows = sqlite_write.read_rows(conn, collection, keys, now, set())
            states = [sqlite_write.state_of(place, row, now) for place, row in rows.items()]
            return Observed(states, watermarks)

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        with self._reading(collection) as conn:
            return [] if conn is None else scan_live(conn, collection, now_us(), span)

    def page(
        self,
        collection: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        with self._looking(f"reading `{collection}`") as conn:
            if conn is None:
                return Observed([])
            with transaction(conn, "BEGIN"):  # one snapshot of rows and watermarks
                watermarks = sqlite_conflicts.watermarks(conn, directory)
                if not sqlite_write.is_collection(conn, collection):
                    return Observed([], watermarks)
                rows = scan_live(conn, collection, now_us(), Span(after=after, limit=limit))
            return Observed([state_of_row(collection, row) for row in rows], watermarks)

    def count(self, collection: str, *, deadline: float | None = None) -> int:
        with self._reading(collection) as conn:
            if conn is None:
                return 0
            table = table_of(conn, collection)
            return conn.execute(
                f"SELECT count(*) FROM {table.sql} WHERE {table.live}", (now_us(),)
            ).get

    def dump(self, collection: str, *, in_order: bool = False) -> Iterator[StoredText]:
        with self._reading(collection) as conn:
            if conn is None:
                return
            # Of its own: one snapshot whatever is written meanwhile, and no other call has to wait.
            snapshot = self._connect()
            table = table_of(conn, collection)
        order = f"ORDER BY {table.time('created_at')}, {table.key_sql}" if in_order else ""
        try:
            with mapped(f"reading `{collection}` in {self.display}"):
                records = snapshot.execute(
                    f"SELECT {table.key_sql}, {table.data}, {table.version},"
                    f" {table.time('updated_at')} FROM {table.sql} WHERE {table.live} {order}",
                    (now_us(),),
                )
                yield from map(StoredText._make, records)
        finally:
            snapshot.close(True)

    def inconsistent(self, collection: str) -> Iterator[str]:
        """None: the exact text is all that is stored."""
        return iter(())

    def images(self, collection: str, keys: Sequence[str]) -> dict[str, Image]:
        with self._reading(collection) as conn:
            if conn is None:
                return {}
            table = table_of(conn, collection)
            found: Any = conn.execute(
                f"{table.row} FROM {table.sql}"
                f" WHERE {table.key_sql} IN (SELECT value FROM json_each(?))",
                (sqlite_write.json_array(keys),),
            )
            return {key: Image(key, text, None, *rest) for key, text, *rest in found}

    def collections(self, *, deadline: float | None = None) -> list[str]:
        with self._looking("listing the collections") as conn:
            if conn is None:
                return []
            found = conn.execute("SELECT name FROM _standfast_collections ORDER BY name")
            return [record[0] for record in found]

    def form(self, collection: str) -> Form:
        with self._looking(f"reading `{collection}`") as conn:
            if conn is None:
                return Form()
            found = conn.execute(
                "SELECT shape, key_field FROM _standfast_collections WHERE name = ?", (collection,)
            ).fetchone()
            return Form(*found) if found else Form()

    def incarnation(self, collection: str, *, deadline: float | None = None) -> str | None:
        with self._reading(collection) as conn:
            return conn and sqlite_tables.incarnation(conn, collection)

    def drop(
        self,
        collection: str,
        incarnation: str,
        *,
        if_empty: bool = False,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Dropped | None:
        with self.writing(f"dropping `{collection}`") as conn:
            if sqlite_tables.incarnation(conn, collection) != incarnation:
                return None
            floor = sqlite_tables.drop(conn, collection, now_us(), if_empty=if_empty)
            return Dropped(floor, sqlite_conflicts.watermarks(conn, directory))

    def create_index(self, collection: str, *, deadline: float | None = None) -> None:
        """SQLite has no index for containment: `find` reads the collection.  A no-op."""

    def adoptable(self, collection: str) -> str:
        with self.using(f"looking at `{collection}`") as conn:
            if conn is None:
                return ""
            if not sqlite_write.is_collection(conn, collection):
                return sqlite_write.foreign_table(conn, collection)
            if lost_table(conn, collection) or table_of(conn, collection).ready:
                return ""
            why = obstacle(conn, collection)
            return f"table `{collection}` was made anew, and {why}" if why else ""


def _close(*connections: apsw.Connection | None) -> None:
    for one in connections:
        if one is not None:
            with contextlib.suppress(apsw.Error):
                one.close(True)


_USE = "CREATE TABLE IF NOT EXISTS _standfast_use (in_use INTEGER NOT NULL)"


def mark_in_use(conn: apsw.Connection, *, in_use: bool) -> bool:
    """Note in the database itself that it is open, or was closed; False when that was so already.

    So a copy of the file alone shows that its write-ahead log is missing.
    """
    if is_in_use(conn) == in_use:
        return False
    conn.execute(_USE)
    conn.execute("DELETE FROM _standfast_use")
    conn.execute("INSERT INTO _standfast_use VALUES (?)", (in_use,))
    return True


def is_in_use(conn: apsw.Connection) -> bool:
    """Whether the database was last noted to be open."""
    if not conn.execute("SELECT 1 FROM sqlite_schema WHERE name = '_standfast_use'").get:
        return False
    return bool(conn.execute("SELECT max(in_use) FROM _standfast_use").get)


def scan_live(conn: apsw.Connection, collection: str, now_us: int, span: Span) -> list[Row]:
    """One page of live documents."""
    table = table_of(conn, collection)
    where, values = within(
        table.key_sql, prefix=span.prefix, after=span.after, reverse=span.reverse
    )
    records = conn.execute(
        f"{table.row} FROM {table.sql} WHERE {' AND '.join([table.live, *where])}"
        f" ORDER BY {table.key_sql} {'DESC' if span.reverse else ''}",
        (now_us, *values),
    )
    page: list[Row] = []
    for record in records:
        row = Row(*record)
        if span.query is None or contains(readable(collection, row), span.query):
            page.append(row)
            if len(page) == span.limit:
                break
    return page
