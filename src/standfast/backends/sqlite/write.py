"""One batch of ops in one SQLite transaction: read, apply, write, watermark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw
import msgspec

from standfast.backends.base import encode_outcomes, skip_applied, skip_reissued
from standfast.backends.sqlite import conflicts as sqlite_conflicts
from standfast.backends.sqlite import tables
from standfast.backends.sqlite.tables import table_of
from standfast.errors import ConfigError
from standfast.ops.apply import Current
from standfast.ops.batch import Place, apply_ops, kept, places
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import Applied, Observed, Op, State


def json_array(keys: Iterable[str]) -> str:
    """The keys as one parameter, for `json_each`."""
    return msgspec.json.encode(list(keys)).decode()


def is_collection(conn: apsw.Connection, name: str) -> bool:
    """Whether the file has this collection."""
    return bool(conn.execute("SELECT 1 FROM _standfast_collections WHERE name = ?", (name,)).get)


def foreign_table(conn: apsw.Connection, name: str) -> str:
    """Why a table of this name stands in the way, in one sentence; empty when none does."""
    found = conn.execute(
        "SELECT name FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type <> 'trigger'",
        (name,),
    ).get
    if found is None:
        return ""
    if is_collection(conn, found):
        return f"the collection `{found}` has the same name but for upper and lower case"
    return f"the file has a table `{found}` that standfast did not make"


def ensure_table(conn: apsw.Connection, name: str, now_us: int) -> None:
    """Create the collection inside the caller's transaction when it is not there."""
    if is_collection(conn, name):
        return
    problem = foreign_table(conn, name)
    if problem:
        raise ConfigError(problem, code="not_adoptable", hint="use another name or another file")
    tables.create(conn, name, now_us)


def apply_batch(
    conn: apsw.Connection,
    ops: Sequence[Op],
    *,
    expected_watermark: int,
    now_us: int,
    directory: str | None,
    on_conflict: OnConflict,
) -> Applied:
    """Apply the ops inside the caller's transaction."""
    lane = ops[0].lane
    watermark, state, outcomes = conn.execute(
        "SELECT watermark, state, outcomes FROM _standfast_lanes WHERE lane = ? AND generation = 0",
        (lane,),
    ).fetchone() or (0, "open", "[]")
    fresh, skipped = skip_applied(ops, expected_watermark, watermark, state, outcomes)
    wanted, moved = skip_reissued(fresh, sqlite_conflicts.moved(conn, fresh))
    touched = places(kept(ops))
    rows: dict[Place, Current] = {}
    stored: set[Place] = set()
    for collection, keys in touched.items():
        ensure_table(conn, collection, now_us)
        rows.update(read_rows(conn, collection, keys, now_us, stored))
    before = dict(rows)
    entered = sqlite_conflicts.entered(conn, fresh)
    done, entries = apply_ops(rows, wanted, on_conflict=on_conflict, entered=entered)
    for collection, keys in touched.items():
        changed = [k for k in keys if rows[(collection, k)] is not before[(collection, k)]]
        if changed:
            _write_rows(conn, collection, changed, before, rows, stored, now_us)
    outcomes = sorted(skipped + moved + done, key=lambda outcome: outcome.seq)
    if fresh:
        watermark = fresh[-1].seq
        sqlite_conflicts.enter(conn, entries, now_us)
        sqlite_conflicts.note_moved(conn, wanted, now_us)
        conn.execute(
            "INSERT INTO _standfast_lanes (lane, watermark, outcomes, updated_at, directory)"
            " VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (lane, generation) DO UPDATE SET watermark = excluded.watermark,"
            " outcomes = excluded.outcomes, updated_at = excluded.updated_at,"
            " directory = coalesce(excluded.directory, directory)",
            (lane, watermark, encode_outcomes(outcomes), now_us, directory),
        )
    if directory is None:
        return Applied(outcomes, watermark)
    states = [state_of(place, row, now_us) for place, row in rows.items()]
    return Applied(
        outcomes, watermark, Observed(states, sqlite_conflicts.watermarks(conn, directory))
    )


def state_of(place: Place, row: Current, now_us: int) -> State:
    """A place as the file holds it once the batch is committed."""
    if row.changed and row.text is None:
        return State(*place, None, row.version)
    created, updated, expires = row.created_us, row.updated_us, row.expires_us
    if row.changed:
        created, updated = now_us if row.fresh else created, now_us
        if row.ttl_us is not None:
            expires = now_us + row.ttl_us if row.ttl_us else None
    return State(*place, row.text, row.version, created, updated, expires)


def read_rows(
    conn: apsw.Connection, collection: str, keys: Sequence[str], now_us: int, stored: set[Place]
) -> dict[Place, Current]:
    """What is stored at these keys; `stored` collects those that have a row, expired or not."""
    rows: dict[Place, Current] = {}
    table = table_of(conn, collection)
    select = f"{table.row} FROM {table.sql} WHERE {table.key_sql} = ?"
    for key in keys:
        found = conn.execute(select, (key,)).fetchone()
        place = (collection, key)
        if found is not None:
            _, text, version, created_us, updated_us, expires_us = found
            live = expires_us is None or expires_us > now_us
            rows[place] = Current(
                *(text if live else None, version),
                created_us=created_us,
                updated_us=updated_us,
                expires_us=expires_us,
            )
            stored.add(place)
            continue
        version = conn.execute(
            "SELECT max(version_floor, coalesce((SELECT version FROM _standfast_tombstones"
            " WHERE collection = ?1 AND key = ?2), 0)) FROM _standfast_collections WHERE name = ?1",
            (collection, key),
        ).get
        rows[place] = Current(None, version or 0)
    return rows


def _write_rows(
    conn: apsw.Connection,
    collection: str,
    keys: list[str],
    before: dict[Place, Current],
    after: dict[Place, Current],
    stored: set[Place],
    now_us: int,
) -> None:
    table = table_of(conn, collection)
    now = table.stamp(":now")
    for key in keys:
        place = (collection, key)
        row = after[place]
        if row.text is None:
            # The trigger buries it; several ops may have raised the version.
            conn.execute(f"DELETE FROM {table.sql} WHERE {table.key_sql} = ?", (key,))
            conn.execute(
                "INSERT INTO _standfast_tombstones (collection, key, version, deleted_at)"
                " VALUES (?, ?, ?, ?) ON CONFLICT (collection, key)"
                " DO UPDATE SET version = max(version, excluded.version)",
                (collection, key, row.version, now_us),
            )
            continue
        expires = ":now + :ttl" if row.ttl_us else ("expires_at" if row.ttl_us is None else "NULL")
        values = {
            "key": key,
            "text": row.text,
            "version": row.version,
            "now": now_us,
            "ttl": row.ttl_us,
        }
        if row.same_text:
            conn.execute(
                f"UPDATE {table.sql} SET version = :version, updated_at = {now},"
                f" expires_at = {expires} WHERE {table.key_sql} = :key",
                {name: values[name] for name in values if name != "text"},
            )
        elif place in stored:
            fresh = f", created_at = {now}" if row.fresh else ""
            conn.execute(
                f"UPDATE {table.sql} SET data = :text, version = :version, updated_at = {now},"
                f" expires_at = {expires}{fresh} WHERE {table.key_sql} = :key",
                values,
            )
        else:
            expires = "NULL" if expires == "expires_at" else expires
            conn.execute(
                f"INSERT INTO {table.sql} ({table.key_sql}, data, version, created_at,"
                f" updated_at, expires_at) VALUES (:key, :text, :version, {now}, {now}, {expires})",
                values,
            )
            if before[place].version:
                conn.execute(
                    "DELETE FROM _standfast_tombstones WHERE collection = ? AND key = ?",
                    (collection, key),
                )
