"""The parts of `bench/store.py` that need few callers: one of them, embedded stores, scans, sizes.

The bare calls beside ours do what a program does without a store: one statement, `json.dumps` or
`json.loads` of the standard library, and for SQLite a log with synchronous=FULL, in which a commit
is on disk as well.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import apsw
import psycopg
from measures import DOCUMENTS, Beside, Measure

import standfast

_UPSERT = (
    "INSERT INTO plain (key, data) VALUES ({0}) ON CONFLICT (key) DO UPDATE SET"
    " data = excluded.data, updated_at = {1}"
)
#: Calls of one round.
_CALLS = 200


def _document(key: int) -> dict[str, Any]:
    return DOCUMENTS[key % len(DOCUMENTS)]


def _others() -> Callable[[int], dict[str, Any]]:
    """Documents to put, hardly one of which is what its key holds already: that could be cheap."""
    turns = itertools.count(1)
    return lambda key: _document(key + next(turns))


def one_blocking_caller(url: str, data_dir: Path, *, rounds: int, keys: int) -> list[Measure]:
    """One caller that waits for each call, beside psycopg's bare statements."""
    rng = random.Random(1)
    put, get, items = Beside(), Beside(), Beside()
    document, bare_document = _others(), _others()
    upsert = _UPSERT.format("%s, %s::jsonb", "now()")
    with (
        standfast.open(url, data_dir=data_dir, deadline_s=10) as store,
        psycopg.connect(url, autocommit=True) as conn,
    ):
        views = store["views"]

        def bare_put(key: int) -> None:
            conn.execute(upsert, (str(key), json.dumps(bare_document(key))))

        def bare_get(key: int) -> None:
            row = conn.execute("SELECT data::text FROM plain WHERE key = %s", (str(key),))
            json.loads((row.fetchone() or ["null"])[0])

        def bare_items(_: int) -> None:
            found = conn.execute("SELECT key, data::text FROM plain ORDER BY key").fetchall()
            _drain((key, json.loads(text)) for key, text in found)

        for _ in range(rounds):
            chosen = [rng.randrange(keys) for _ in range(_CALLS)]
            put.round(lambda key: views.put(key, document(key)), bare_put, chosen)
            get.round(views.get, bare_get, chosen)
            items.round(lambda _: _drain(views.items()), bare_items, [0, 0])
    return [
        put.measure("put, one blocking caller, to psycopg's upsert", 1.5),
        get.measure("get, one blocking caller, to psycopg's select", 1.5),
        items.measure(f"items of {keys:,} documents, to psycopg's select", 1.5),
    ]


def embedded(data_dir: Path, *, rounds: int, keys: int) -> list[Measure]:
    """A store on SQLite alone, beside a bare table in a file of its own on the same disk."""
    rng = random.Random(1)
    put, get, items = Beside(), Beside(), Beside()
    document, bare_document = _others(), _others()
    conn = apsw.Connection(str(data_dir.with_suffix(".bare.db")))
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("CREATE TABLE plain (key TEXT PRIMARY KEY, data TEXT, updated_at INTEGER)")
    upsert = _UPSERT.format("?, ?", "unixepoch()")

    def bare_put(key: int) -> None:
        conn.execute(upsert, (str(key), json.dumps(bare_document(key))))

    def bare_get(key: int) -> None:
        row = conn.execute("SELECT data FROM plain WHERE key = ?", (str(key),)).fetchone()
        json.loads(row[0])

    def bare_items(_: int) -> None:
        found = conn.execute("SELECT key, data FROM plain ORDER BY key").fetchall()
        _drain((key, json.loads(text)) for key, text in found)

    with standfast.open(data_dir=data_dir) as store:
        views = store["views"]
        views.put_many({str(key): _document(key) for key in range(keys)})
        with conn:
            for key in range(keys):
                bare_put(key)
        for _ in range(rounds):
            chosen = [rng.randrange(keys) for _ in range(_CALLS)]
            put.round(lambda key: views.put(key, document(key)), bare_put, chosen)
            get.round(views.get, bare_get, chosen)
            items.round(lambda _: _drain(views.items()), bare_items, [0, 0])
    conn.close()
    return [
        put.measure("embedded put, to a bare durable upsert", 1.3),
        get.measure("embedded get, to a bare select", 1.5),
        items.measure(f"embedded items of {keys:,} documents, to a bare select", 1.5),
    ]


def _drain(rows: Iterable[object]) -> None:
    for _ in rows:
        pass


def sizes(url: str, work: Path, *, writes: int) -> None:
    """Print how large every table is after each quarter of so many writes of 1,000 keys.

    Healthy ones, on PostgreSQL with its mirror, and on an embedded store.
    """
    with (
        standfast.open(url, data_dir=work / "sizes", deadline_s=30) as store,
        psycopg.connect(url, autocommit=True) as conn,
    ):
        store["sized"].put("0", 0)  # the first write makes the tables that are listed
        found = conn.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname = 'standfast' ORDER BY 1"
        ).fetchall()
        counts: dict[str, Callable[[], int]] = {
            f"PostgreSQL {name}": lambda name=name: _count(conn, name) for (name,) in found
        }
        counts |= {
            f"PostgreSQL {name}, KB": lambda name=name: _kilobytes(conn, name)
            for name in [*(name for (name,) in found), "public.sized"]
        }
        for file in ("mirror.db", "journal.db"):
            counts |= _tables(work / "sizes" / file)
        _write_and_count(store, writes, counts)
    with standfast.open(data_dir=work / "sizes-embedded") as store:
        store["sized"].put("0", 0)
        _write_and_count(store, writes, _tables(work / "sizes-embedded" / "fallback.db"))


def _count(conn: psycopg.Connection[Any], name: str) -> int:
    # A name that the server has quoted.
    row = conn.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
    return int(row[0]) if row else 0


def _kilobytes(conn: psycopg.Connection[Any], name: str) -> int:
    """A table with its indexes on the disk."""
    row = conn.execute("SELECT pg_total_relation_size(%s::regclass) / 1024", (name,)).fetchone()
    return int(row[0]) if row else 0


def _tables(path: Path) -> dict[str, Callable[[], int]]:
    """The tables of a SQLite file, each with what counts its rows."""
    conn = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    names = [row[0] for row in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    counts: dict[str, Callable[[], int]] = {
        f"{path.name} {name}": lambda name=name: conn.execute(f'SELECT count(*) FROM "{name}"').get
        for name in sorted(names)
    }
    return counts | {f"{path.name}, KB": lambda: path.stat().st_size // 1024}


def _write_and_count(
    store: standfast.Store, writes: int, counts: dict[str, Callable[[], int]]
) -> None:
    columns: list[list[int]] = []
    for _ in range(4):
        for _ in range(0, writes // 4, 1000):
            store["sized"].put_many({str(key): key for key in range(1000)})
        columns.append([count() for count in counts.values()])
    print(f"\nrows, or KB, after each quarter of {writes:,} writes to 1,000 keys")
    for name, *rows in zip(counts, *columns, strict=True):
        print(f"  {name:40}" + "".join(f"{count:>10,}" for count in rows))
