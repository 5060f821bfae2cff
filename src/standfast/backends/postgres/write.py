"""One batch of ops in one PostgreSQL transaction: lock, read, apply, write, log, watermark."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg import Connection, Cursor, pq, sql

from standfast.backends.base import encode_outcomes, skip_applied, skip_reissued
from standfast.backends.postgres.pinned import PIN_TRANSACTION
from standfast.backends.postgres.tables import Table
from standfast.document.jsonb import compact, jsonb_columns
from standfast.ops.apply import Current
from standfast.ops.batch import Place, apply_ops
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import Applied, ConflictRecord, Identity, Observed, Op, State
from standfast.system.failpoints import failpoint

_INTEGER_BOUNDS = {"integer": 2**31, "bigint": 2**63}


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


_COLUMNS: LiteralString = (
    " FROM unnest(%b::{key_type}[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::bool[])"
    " AS u(key, data, raw, version, ttl, fresh)"
)
_EXPIRY: LiteralString = (
    "CASE WHEN u.ttl IS NULL THEN {otherwise} WHEN u.ttl = 0 THEN NULL"
    " ELSE now() + u.ttl * interval '1 microsecond' END"
)
#: The count of the rows is required by the server, since the commit is on its way already.
_ALL: LiteralString = " RETURNING 1) SELECT standfast.require((SELECT count(*) FROM done) = %s)"
#: The same where a trigger may have changed the key.
_ALL_KEYS: LiteralString = (
    " AS key) SELECT standfast.require((SELECT count(*) FROM done d"
    " WHERE d.key = ANY (%b::{key_type}[])) = %s)"
)
_INSERT: LiteralString = (
    "WITH done AS (INSERT INTO {table}"
    " ({key}, data, raw, version, expires_at, created_at, updated_at)"
    " SELECT u.key, u.data::{data_type}, u.raw, u.version, "
    + _EXPIRY.replace("{otherwise}", "NULL")
    + ", now(), now()"
    + _COLUMNS
    + " ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
    + _ALL_KEYS
)
_UPDATE: LiteralString = (
    "WITH done AS (UPDATE {table} t SET data = u.data::{data_type}, raw = u.raw,"
    " version = u.version,"
    " expires_at = " + _EXPIRY.replace("{otherwise}", "t.expires_at") + ", updated_at = now(),"
    " created_at = CASE WHEN u.fresh THEN now() ELSE t.created_at END"
    + _COLUMNS
    + " WHERE t.{key} = u.key RETURNING t.{key}"
    + _ALL_KEYS
)
_TOUCH: LiteralString = (
    "WITH done AS (UPDATE {table} t SET version = u.version,"
    " expires_at = CASE WHEN u.ttl = 0 THEN NULL ELSE now() + u.ttl * interval '1 microsecond' END,"
    " updated_at = now()"
    " FROM unnest(%b::{key_type}[], %b::bigint[], %b::bigint[]) AS u(key, version, ttl)"
    " WHERE t.{key} = u.key RETURNING t.{key}" + _ALL_KEYS
)
#: Deletes by a condition, with a tombstone for each row: `gone` is what went.  The table's trigger
#: buries too, but sleeps where triggers are switched off or `session_replication_role` is replica.
BURIED_DELETE: LiteralString = (
    "WITH gone AS (DELETE FROM {table} t WHERE {where} RETURNING {key_text} AS key, t.version),"
    " buried AS (INSERT INTO standfast.tombstones AS b (collection, key, version)"
    " SELECT %s, key, version + 1 FROM gone"
    " ON CONFLICT (collection, key) DO UPDATE SET"
    " version = greatest(b.version, excluded.version), deleted_at = now())"
)
#: Deletes by keys, and the count of what went.
DELETE_KEYS: LiteralString = (
    BURIED_DELETE.replace("{where}", "t.{key} = ANY (%b::{key_type}[])")
    + " SELECT count(*) FROM gone"
)
#: Deletes what has expired.
DELETE_EXPIRED: LiteralString = (
    BURIED_DELETE.replace("{where}", "NOT {live}") + " SELECT count(*) FROM gone"
)
_DELETE: LiteralString = DELETE_KEYS.replace(
    " SELECT count(*) FROM gone", " SELECT standfast.require((SELECT count(*) FROM gone) = %s)"
)
#: Nothing locks the key of a document that is not there: between the look at its tombstone and the
#: insert others may have made and deleted it, and the tombstone may have been trimmed.  From the
#: insert on the key is ours, so what this statement sees stays true: it removes the tombstones, and
#: what would not be above what is known of its place is sent back (R17).
_REBORN: LiteralString = (
    "WITH born AS (SELECT * FROM unnest(%b::text[], %b::bigint[]) AS u(key, version)),"
    " known AS (SELECT c.name, c.version_floor FROM standfast.collections c WHERE c.name = %s),"
    " gone AS (DELETE FROM standfast.tombstones t USING born, known"
    " WHERE t.collection = known.name AND t.key = born.key)"
    " SELECT standfast.require(NOT EXISTS (SELECT FROM known CROSS JOIN born"
    " LEFT JOIN standfast.tombstones t ON t.collection = known.name AND t.key = born.key"
    " WHERE greatest(known.version_floor, t.version) >= born.version))"
)
_FORMS: tuple[tuple[str, LiteralString], ...] = (("insert", _INSERT), ("update", _UPDATE))


@lru_cache(maxsize=4096)
def statement(table: Table, form: LiteralString) -> bytes:
    """A statement on a table, composed once."""
    return sql.SQL(form).format(**table.parts()).as_bytes(None)


def write_rows(
    conn: Connection[Any],
    table: Table,
    keys: list[str],
    before: dict[Place, Current],
    after: dict[Place, Current],
    stored: set[Place],
) -> None:
    """Write the rows that changed, each kind in one statement, and log them as one change."""
    kinds: dict[str, list[str]] = {"insert": [], "update": [], "touch": [], "delete": []}
    for key in keys:
        place = (table.collection, key)
        if after[place].text is None:
            kinds["delete"].append(key)
        elif after[place].same_text:
            kinds["touch"].append(key)
        else:
            kinds["update" if place in stored else "insert"].append(key)
    for kind, form in _FORMS:
        if not kinds[kind]:
            continue
        records: list[tuple[Any, ...]] = []
        for key, value in zip(kinds[kind], key_values(table, kinds[kind]), strict=True):
            row = after[(table.collection, key)]
            assert row.text is not None, "a deleted row is not written"
            records.append((value, *jsonb_columns(row.text), row.version, row.ttl_us, row.fresh))
        columns = [list(column) for column in zip(*records, strict=True)]
        conn.execute(statement(table, form), (*columns, columns[0], len(records)))
    if kinds["touch"]:
        values = key_values(table, kinds["touch"])
        rows = [after[(table.collection, key)] for key in kinds["touch"]]
        stamps = [row.version for row in rows], [row.ttl_us for row in rows]
        conn.execute(statement(table, _TOUCH), (values, *stamps, values, len(values)))
    doomed = [key for key in kinds["delete"] if (table.collection, key) in stored]
    if doomed:
        conn.execute(
            statement(table, _DELETE), (key_values(table, doomed), table.collection, len(doomed))
        )
    _bury(conn, table, kinds["delete"], before, after)
    if kinds["insert"]:
        versions = [after[(table.collection, key)].version for key in kinds["insert"]]
        conn.execute(_REBORN, (kinds["insert"], versions, table.collection))
    log_change(conn, table.collection, keys)


def _bury(
    conn: Connection[Any],
    table: Table,
    keys: list[str],
    before: dict[Place, Current],
    after: dict[Place, Current],
) -> None:
    """Raise the tombstones of documents that several ops of the batch changed before the delete.

    Deleting them has buried what was stored, and knows nothing of versions in between.
    """
    places = [(table.collection, key) for key in keys]
    late = [place for place in places if after[place].version > before[place].version + 1]
    if late:
        conn.execute(
            "INSERT INTO standfast.tombstones AS t (collection, key, version)"
            " SELECT %s, u.key, u.version FROM unnest(%b::text[], %b::bigint[]) AS u(key, version)"
            " ON CONFLICT (collection, key) DO UPDATE SET"
            " version = greatest(t.version, excluded.version), deleted_at = now()",
            (table.collection, [key for _, key in late], [after[place].version for place in late]),
        )


def log_change(conn: Connection[Any], collection: str, keys: list[str] | None) -> None:
    """One row of the change log; above 1,000 keys they are not listed."""
    listed = keys if keys is not None and len(keys) <= 1000 else None
    conn.execute(
        "INSERT INTO standfast.changes (collection, keys) VALUES (%s, %b::text[])",
        (collection, listed),
    )


class TransactionOptions(NamedTuple):
    """How a batch is applied: time limits for the server, and what the answer must contain.

    `expires_us` is an instant of the server's clock after which the batch must not take effect;
    the time-outs are in milliseconds, 0 for none.  `pin`: the session is not ours, so the
    transaction has to pin its settings.
    """

    expected_watermark: int = 0
    lock_timeout_ms: int = 2000
    statement_timeout_ms: int = 0
    expires_us: int | None = None
    directory: str | None = None
    on_conflict: OnConflict = "mine"
    pin: bool = False


class Written(NamedTuple):
    """The answer to a batch, and the server's clock at an instant of `time.monotonic()`."""

    applied: Applied
    server_us: int
    at: float


#: How long a client that has stopped in the middle of a batch may keep its locks.
_IDLE_TIMEOUT = "60s"
_SETTINGS: LiteralString = (
    "SELECT set_config('standfast.lane', %s, true), set_config('lock_timeout', %s, true),"
    " set_config('idle_in_transaction_session_timeout', %s, true),"
    " set_config('statement_timeout', %s, true),"
    # A role or database may have it off; an acknowledgement means that the commit is on disk.
    " CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')"
    " THEN set_config('synchronous_commit', 'on', true) END"
)
_LANE: LiteralString = (
    "INSERT INTO standfast.lanes AS l (lane, directory) VALUES (%s, %s)"
    " ON CONFLICT (lane, generation) DO UPDATE SET updated_at = now(),"
    " directory = coalesce(excluded.directory, l.directory)"
    " RETURNING l.watermark, l.state, l.outcomes, (extract(epoch FROM now()) * 1000000)::bigint,"
    " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
)
#: The watermarks of a directory's open lanes, which are read after the rows are locked: so
#: they say exactly which ops are in these.
LANES: LiteralString = (
    "SELECT lane::text, watermark FROM standfast.lanes WHERE directory = %s AND state = 'open'"
)
decode_watermarks = msgspec.json.Decoder(dict[str, int]).decode
_ENTERED: LiteralString = (
    "SELECT l.lane::text, l.seq FROM standfast.conflicts l"
    " JOIN unnest(%s::uuid[], %s::bigint[]) AS n(lane, seq) ON l.lane = n.lane AND l.seq = n.seq"
)
#: The first names of ops that moved from closed lanes, kept with these by sequence, for as long as
#: the fence.  A name that two lanes note at once is a unique violation: the later one looks again.
_MOVED: LiteralString = (
    "SELECT l.lane::text, l.generation FROM standfast.lanes l"
    " JOIN unnest(%s::uuid[], %s::integer[]) AS n(lane, seq)"
    " ON l.lane = n.lane AND l.generation = n.seq WHERE l.generation > 0"
)
_NOTE_MOVED: LiteralString = (
    "INSERT INTO standfast.lanes (lane, generation, state)"
    " SELECT u.lane, u.seq, 'fenced' FROM unnest(%s::uuid[], %s::integer[]) AS u(lane, seq)"
)
_EXPIRE: LiteralString = (
    "SELECT standfast.expire(to_timestamp(0) + %s::bigint * interval '1 microsecond')"
)
_ENTER: LiteralString = (
    "INSERT INTO standfast.conflicts"
    " (lane, seq, collection, key, kind, pointer, reason, base, mine, theirs, state, resolution,"
    " app)"
    # Who may write to the collection's table shares its conflicts; where there is none, or it is
    # somebody else's, a record stays with this app.
    " SELECT u.*, CASE WHEN NOT standfast.may(u.collection, 'INSERT') THEN standfast.app() END"
    " FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::text[],"
    " %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])"
    " AS u(lane, seq, collection, key, kind, pointer, reason, base, mine, theirs, state,"
    " resolution)"
)


class UnregisteredError(Exception):
    """The bookkeeping does not know the collection any more: its table is to be looked at again."""


class _Batch:
    """One batch on its way through a transaction of two round trips: look, then write."""

    def __init__(
        self, conn: Connection[Any], tables: list[tuple[Table, list[str]]], ops: Sequence[Op]
    ) -> None:
        self.conn = conn
        self.tables = tables
        self.ops = ops
        self.rows: dict[Place, Current] = {}
        self.stored: set[Place] = set()
        self.unsure: set[Place] = set()
        self.watermarks: dict[str, int] = {}
        self.moved: set[Identity] = set()
        self.now_us = 0
        self.server_us = 0
        self.looked_at = 0.0
        # A document's text travels only where something is made of it.
        self.needed = {
            (op.collection, op.key)
            for op in ops
            if op.replay or op.seen != "unknown" or op.kind not in ("put", "delete")
        }

    def look(self, options: TransactionOptions) -> tuple[int, str, str, set[Identity]]:
        """Lock the lane, then the rows in key order, and read all that `apply_ops` needs."""
        conn, lane = self.conn, self.ops[0].lane
        # Whatever the server's default is: what is read after a wait for a lock must be new.
        conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        if options.pin:
            conn.execute(PIN_TRANSACTION)
        limit = str(options.statement_timeout_ms)
        idle = limit if options.statement_timeout_ms else _IDLE_TIMEOUT
        conn.execute(_SETTINGS, (lane, str(options.lock_timeout_ms), idle, limit))
        lane_cur = conn.execute(_LANE, (lane, options.directory))
        locks = [self._lock(table, keys) for table, keys in self.tables]
        lanes = conn.execute(LANES, (options.directory,)) if options.directory else None
        buried = [self._buried(table, keys) for table, keys in self.tables]
        names = sorted({name for op in self.ops for name in op.pending})
        entered = None
        if names:
            entered = conn.execute(_ENTERED, ([name[0] for name in names], [n[1] for n in names]))
        origins = [op.origin for op in self.ops if op.origin]
        moved = conn.execute(_MOVED, _columns(origins)) if origins else None
        row = lane_cur.fetchone()
        assert row is not None, "an upsert returns its row"
        watermark, state, outcomes, self.now_us, self.server_us = row
        # Later than the server's clock was read: what expires by it expires too early if anything.
        self.looked_at = time.monotonic()
        for (table, _), lock in zip(self.tables, locks, strict=True):
            self._take_rows(table, lock)
        for (table, _), versions in zip(self.tables, buried, strict=True):
            self._take_buried(table, versions)
        for table, keys in self.tables:
            if any((table.collection, key) not in self.rows for key in keys):
                raise UnregisteredError(table.collection)
        if lanes is not None:
            self.watermarks.update(lanes.fetchall())
        if moved is not None:
            self.moved.update(moved.fetchall())
        return watermark, state, outcomes, set(entered.fetchall()) if entered else set()

    def _lock(self, table: Table, keys: list[str]) -> Cursor[Any]:
        """Lock the rows in key order, and read them."""
        needed = [key for key in keys if (table.collection, key) in self.needed]
        return self.conn.execute(
            statement(table, _LOCK), (key_values(table, needed), key_values(table, keys))
        )

    def _take_rows(self, table: Table, lock: Cursor[Any]) -> None:
        for key, text, version, live, created_us, updated_us, expires_us in lock:
            place = (table.collection, key)
            self.rows[place] = Current(
                *((compact(text) if text else "") if live else None, version),
                created_us=created_us,
                updated_us=updated_us,
                expires_us=expires_us,
            )
            self.stored.add(place)

    def _buried(self, table: Table, keys: list[str]) -> Cursor[Any]:
        """The version to continue from if there is no row (R17), and whether there is one now.

        Nothing locks an absent row: a row that another writer inserted between the locks and the
        watermarks would be in the watermarks, but not in the observed state.
        """
        return self.conn.execute(statement(table, _BURIED), (keys, table.collection))

    def _take_buried(self, table: Table, versions: Cursor[Any]) -> None:
        for key, version, is_there in versions:
            place = (table.collection, key)
            if place not in self.rows:
                if is_there:
                    self.unsure.add(place)
                unfit = (
                    "" if key_fits(table, key) else f"the table's key column is {table.key_type}"
                )
                self.rows[place] = Current(None, version, unfit=unfit)

    def read_texts(self, wanted: Iterable[Place]) -> None:
        """Fetch texts that were not expected to be needed, of rows that are locked already."""
        missing = self.stored.intersection(wanted) - self.needed
        for table, keys in self.tables:
            mine = [key for key in keys if (table.collection, key) in missing]
            if mine:
                self.needed.update((table.collection, key) for key in mine)
                self._take_rows(table, self._lock(table, mine))

    def write(self, before: dict[Place, Current], changed: set[Place]) -> None:
        """Write the rows that changed, and log them."""
        for table, keys in self.tables:
            mine = [key for key in keys if (table.collection, key) in changed]
            if mine:
                write_rows(self.conn, table, mine, before, self.rows, self.stored)

    def observed(self, changed: set[Place], watermark: int) -> Observed:
        """What the places hold after the batch.

        Places that another writer filled while the batch waited for another row are left out.
        """
        states = [
            _state(place, row, changed=place in changed, now_us=self.now_us)
            for place, row in self.rows.items()
            if place in changed or place not in self.unsure
        ]
        return Observed(states, {**self.watermarks, self.ops[0].lane: watermark})


def apply_batch(
    conn: Connection[Any],
    tables: list[tuple[Table, list[str]]],
    ops: Sequence[Op],
    options: TransactionOptions,
) -> Written:
    """Apply the ops in a transaction of their own, in two round trips."""
    batch = _Batch(conn, tables, ops)
    try:
        with _pipeline(conn):
            watermark, state, outcomes, entered = batch.look(options)
            failpoint("pg-rows-locked")
            fresh, skipped = skip_applied(
                ops, options.expected_watermark, watermark, state, outcomes
            )
            wanted, moved = skip_reissued(fresh, batch.moved)
            skipped += moved
            before = dict(batch.rows)
            done, entries = apply_ops(
                batch.rows, wanted, on_conflict=options.on_conflict, entered=entered
            )
            changed = {place for place, row in batch.rows.items() if row is not before[place]}
            if options.directory:
                batch.read_texts(batch.rows.keys() - changed)
            if fresh:
                batch.write(before, changed)
                if entries:
                    _enter(conn, entries)
                if origins := [op.origin for op in wanted if op.origin]:
                    conn.execute(_NOTE_MOVED, _columns(origins))
                watermark = fresh[-1].seq
                conn.execute(_ADVANCE, (watermark, encode_outcomes([*skipped, *done]), ops[0].lane))
                if options.expires_us is not None:
                    expire(conn, options.expires_us)
            failpoint("pg-before-commit")
            # Where everything was skipped nothing is written: the lane's row stays the one that the
            # transaction which applied it has written (`fast_put.recall_versions`).
            conn.execute("COMMIT" if fresh else "ROLLBACK")
    except BaseException:
        _roll_back(conn)
        raise
    outcomes_now = sorted(skipped + done, key=lambda outcome: outcome.seq)
    observed = batch.observed(changed, watermark) if options.directory else Observed([])
    applied = Applied(outcomes_now, watermark, observed)
    return Written(applied, batch.server_us, batch.looked_at)


def expire(conn: Connection[Any], expires_us: int) -> None:
    """Abort the transaction where the server's clock is beyond this instant."""
    conn.execute(_EXPIRE, (expires_us,))


def _columns(names: Sequence[Identity]) -> tuple[list[str], list[int]]:
    """Names of ops as two arrays, each once."""
    once = sorted(set(names))
    return [lane for lane, _ in once], [seq for _, seq in once]


@contextmanager
def _pipeline(conn: Connection[Any]) -> Generator[None]:
    """A pipeline that raises the first error, and does not log the ones that follow from it."""
    failure: BaseException | None = None
    try:
        with conn.pipeline():
            try:
                yield
            except BaseException as error:
                failure = error
    except psycopg.Error:
        if failure is None:
            raise
    if failure is not None:
        raise failure


def _roll_back(conn: Connection[Any]) -> None:
    """Leave no transaction open; a connection that cannot even do that is of no use.

    What a pipeline skipped after an error was never prepared, which the driver does not know: it
    forgets all of it when it sees one of these.  It only looks at a text that is new to it, and it
    must not prepare them: hence the number.
    """
    if conn.closed:
        return
    idle = conn.info.transaction_status == pq.TransactionStatus.IDLE
    if idle and conn.prepare_threshold is None:
        return  # behind a pooler, other clients may have prepared something
    what = b"DEALLOCATE ALL" if idle else b"ROLLBACK"
    try:
        conn.execute(what + b" -- %d" % next(_SERIAL), prepare=False)
    except psycopg.Error:
        conn.close()


def _state(place: Place, row: Current, *, changed: bool, now_us: int) -> State:
    """A place as the primary holds it once the batch is committed."""
    if changed and row.text is None:
        return State(*place, None, row.version)
    created, updated, expires = row.created_us, row.updated_us, row.expires_us
    if changed:
        created, updated = now_us if row.fresh else created, now_us
        if row.ttl_us is not None:
            expires = now_us + row.ttl_us if row.ttl_us else None
    return State(*place, row.text, row.version, created, updated, expires)


_ADVANCE: LiteralString = (
    "UPDATE standfast.lanes SET watermark = %s, outcomes = %s, updated_at = now()"
    " WHERE lane = %s AND generation = 0"
)
_LOCK: LiteralString = (
    "SELECT {key_text}, CASE WHEN t.{key} = ANY (%b::{key_type}[]) THEN {text} END, t.version,"
    " {live}, {created_us}, {updated_us}, {expires_us}"
    " FROM {table} t WHERE t.{key} = ANY (%b::{key_type}[]) ORDER BY {ordered} FOR UPDATE OF t"
)
_BURIED: LiteralString = (
    "SELECT u.k, greatest(c.version_floor, coalesce(b.version, 0)),"
    " EXISTS (SELECT FROM {table} t WHERE {same_key})"
    "  FROM unnest(%b::text[]) AS u(k)"
    "  JOIN standfast.collections c ON c.name = %s"
    "  LEFT JOIN standfast.tombstones b ON b.collection = c.name AND b.key = u.k"
)
_SERIAL = itertools.count()


def _enter(conn: Connection[Any], entries: Sequence[ConflictRecord]) -> None:
    """Write conflict records, in the transaction whose watermark passes their ops (R12)."""
    fields = (
        *("lane", "seq", "collection", "key", "kind", "pointer", "reason", "base", "mine"),
        *("theirs", "state", "resolution"),
    )
    conn.execute(_ENTER, [[getattr(entry, field) for entry in entries] for field in fields])
