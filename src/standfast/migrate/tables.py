"""A SQLite file, of an older bot or of an embedded store: each table with JSON is a collection."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

import apsw

from standfast.backends.sqlite.backend import ADOPTED, EMBEDDED
from standfast.backends.sqlite.tables import obstacle, table_of
from standfast.document.codec import accept
from standfast.document.names import key_problem
from standfast.errors import ConfigError, DataError
from standfast.migrate.recognise import is_ours


def table_names(data: bytes, name: str) -> tuple[list[str], list[str]]:
    """The tables that can be moved, and why each of the others is not.

    Of an embedded store these are its collections.  ConfigError for a mirror, which holds nothing
    that its PostgreSQL does not, and for a file without any such table.
    """
    with _opened(data, name) as conn:
        if is_ours(data):
            return _collections(conn, name), []
        found: Any = conn.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table'"
            " AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name"
        )
        problems = {table: obstacle(conn, table) for (table,) in found.fetchall()}
    fit = [table for table, problem in problems.items() if not problem]
    if not fit:
        raise ConfigError(
            f"{name}: no table of this SQLite file has a text key and a column `data` with JSON",
            code="not_adoptable",
            hint="export what it holds as JSON, and migrate that",
        )
    return fit, [f"table `{table}` is left out: {why}" for table, why in problems.items() if why]


def _collections(conn: apsw.Connection, name: str) -> list[str]:
    role = None
    if conn.table_exists(None, "_standfast_collections"):
        role = conn.execute("SELECT role FROM _standfast_identity").get
    if role not in (EMBEDDED, ADOPTED):
        raise ConfigError(
            f"{name}: it is a file that standfast keeps for another database",
            code="mirror_file",
            hint="leave it out: what it holds is in that database, or on its way there",
        )
    found: Any = conn.execute("SELECT name FROM _standfast_collections ORDER BY name")
    return [collection for (collection,) in found.fetchall()]


def read_table(data: bytes, name: str, table: str) -> list[tuple[str, str]]:
    """The documents of one table, in the order of their creation."""
    documents: list[tuple[str, str]] = []
    with _opened(data, name) as conn:
        place = table_of(conn, table)
        rows: Any = conn.execute(
            f"SELECT {place.key_sql}, {place.data} FROM {place.sql} WHERE {place.live}"
            f" ORDER BY {place.time('created_at')}, {place.key_sql}",
            (time.time_ns() // 1000,),
        )
        for key, text in rows:
            where = f"{name}: table `{table}`, key {key!r}"
            if problem := key_problem(key):
                raise DataError(f"{where}: {problem}", code="bad_key", hint="correct it there")
            try:
                documents.append((key, accept(text)))
            except DataError as error:
                raise error.about(where) from None
    return documents


@contextmanager
def _opened(data: bytes, name: str) -> Generator[apsw.Connection]:
    """The file's content as a database in memory: the file itself is not touched."""
    with closing(apsw.Connection(":memory:")) as conn:
        try:
            # In memory there is no WAL mode; that no log is missing, the plan has seen to.
            conn.deserialize("main", data[:18] + b"\x01\x01" + data[20:])
            found = conn.execute("PRAGMA quick_check(1)").get
        except apsw.Error as error:
            found = str(error)
        if found != "ok":
            raise DataError(
                f"{name}: the SQLite file is damaged",
                code="not_json",
                hint="restore it from a copy",
                where=name,
            )
        yield conn
