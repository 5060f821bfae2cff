"""A collection's table in a SQLite file: ours, or that of an older bot, adopted as it is.

An adopted table keeps its name, its columns and its texts of time, so that the program that made it
goes on working.  What is missing is added: a version, an expiry, and the triggers that stamp rows
which other programs write.  Until the first write of ours nothing is added: then the rows are read
as they stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import apsw

from standfast.backends.base import missing_table, not_empty, require_droppable
from standfast.limits import LOST_TABLE_VERSIONS, MAX_DROPPED_VERSION

#: Declared types of a key that is a text, in capital letters; an older table may declare none.
_TEXT_TYPES = ("", "TEXT", "VARCHAR", "CHAR", "STRING")
_OURS = ("version", "expires_at")
_TIMES = ("created_at", "updated_at")

_CREATE = """
CREATE TABLE "{name}" (
    key        TEXT NOT NULL PRIMARY KEY,
    data       TEXT NOT NULL,
    created_at INTEGER NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL DEFAULT 0,
    version    INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER
);
"""
# What others write is stamped, and logged; of our own writes nobody would read a log.
_TRIGGERS = """
CREATE TRIGGER "{name}_standfast_replace" BEFORE INSERT ON "{name}" WHEN NEW.version = 0 BEGIN
    INSERT INTO _standfast_tombstones (collection, key, version, deleted_at)
    SELECT '{name}', {key}, version, {now} FROM "{name}" WHERE {key} = NEW.{key}
    ON CONFLICT (collection, key) DO UPDATE SET version = max(version, excluded.version);
END;
CREATE TRIGGER "{name}_standfast_insert" AFTER INSERT ON "{name}" WHEN NEW.version = 0 BEGIN
    UPDATE "{name}" SET
        version = 1 + max(
            (SELECT version_floor FROM _standfast_collections WHERE name = '{name}'),
            coalesce((SELECT version FROM _standfast_tombstones
                       WHERE collection = '{name}' AND key = NEW.{key}), 0)),
        {inserted}
     WHERE {key} = NEW.{key};
    DELETE FROM _standfast_tombstones WHERE collection = '{name}' AND key = NEW.{key};
    INSERT INTO _standfast_changes (collection, keys, at)
    VALUES ('{name}', json_array(NEW.{key}), {now});
END;
CREATE TRIGGER "{name}_standfast_update" AFTER UPDATE ON "{name}"
WHEN NEW.version = OLD.version AND OLD.version > 0 BEGIN
    INSERT INTO _standfast_tombstones (collection, key, version, deleted_at)
    SELECT '{name}', OLD.{key}, OLD.version + 1, {now} WHERE OLD.{key} <> NEW.{key}
    ON CONFLICT (collection, key) DO UPDATE SET version = max(version, excluded.version);
    UPDATE "{name}" SET
        version = 1 + max(OLD.version, coalesce((SELECT version FROM _standfast_tombstones
                       WHERE collection = '{name}' AND key = NEW.{key}), 0)),
        {updated}
     WHERE {key} = NEW.{key};
    DELETE FROM _standfast_tombstones WHERE collection = '{name}' AND key = NEW.{key};
    INSERT INTO _standfast_changes (collection, keys, at)
    VALUES ('{name}', json_array(OLD.{key}, NEW.{key}), {now});
END;
CREATE TRIGGER "{name}_standfast_delete" AFTER DELETE ON "{name}" BEGIN
    INSERT INTO _standfast_tombstones (collection, key, version, deleted_at)
    VALUES ('{name}', OLD.{key}, OLD.version + 1, {now})
    ON CONFLICT (collection, key)
    DO UPDATE SET version = max(version, excluded.version), deleted_at = excluded.deleted_at;
    INSERT INTO _standfast_changes (collection, keys, at)
    VALUES ('{name}', json_array(OLD.{key}), {now});
END;
"""
# unixepoch('subsec') needs SQLite 3.42, and the triggers run in the foreign writer's SQLite.
_NOW = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
#: What the triggers set in a row that was inserted, and in one that was updated.
_OUR_STAMPS = (f"created_at = {_NOW}, updated_at = {_NOW}", f"updated_at = {_NOW}")
# A program that made its table stamps its rows itself, as a rule.
_NOW_TEXT = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
_THEIR_STAMPS = (
    f"created_at = coalesce(created_at, {_NOW_TEXT}),"
    f" updated_at = coalesce(updated_at, {_NOW_TEXT})",
    "updated_at = CASE WHEN NEW.updated_at IS OLD.updated_at"
    f" THEN {_NOW_TEXT} ELSE NEW.updated_at END",
)
# To the millisecond, which a day number in 64 bits holds; a whole second then stays one.
_READ_TIME = (
    "CASE typeof({0}) WHEN 'integer' THEN {0} WHEN 'text' THEN"
    " coalesce(CAST(round((julianday({0}) - 2440587.5) * 86400000.0) AS INTEGER) * 1000, 0)"
    " ELSE 0 END"
)
_WRITE_TIME = (
    "strftime(CASE {0} % 1000000 WHEN 0 THEN '%Y-%m-%d %H:%M:%S' ELSE '%Y-%m-%d %H:%M:%f' END,"
    " {0} / 1000000.0, 'unixepoch')"
)


class Table(NamedTuple):
    """Where the documents of a collection are, and how they are read and written there.

    `adopted`: another program made it, and times are texts.  `ready`: it has our columns.
    """

    name: str
    key: str
    columns: frozenset[str]
    adopted: bool

    @property
    def ready(self) -> bool:
        """Whether a row has a version and an expiry."""
        return self.columns.issuperset(_OURS)

    @property
    def sql(self) -> str:
        """The table's quoted name."""
        return quoted(self.name)

    @property
    def key_sql(self) -> str:
        """The key column's quoted name."""
        return quoted(self.key)

    @property
    def data(self) -> str:
        """The exact text of a document."""
        return "coalesce(data, 'null')" if self.adopted else "data"

    @property
    def version(self) -> str:
        """The version of a row; 1 while the table is not ours yet."""
        return "version" if self.ready else "1"

    @property
    def expires(self) -> str:
        """When a row expires, in microseconds."""
        return "expires_at" if self.ready else "NULL"

    @property
    def live(self) -> str:
        """What is stored and has not expired; its parameter is the time now."""
        return f"({self.expires} IS NULL OR {self.expires} > ?)"

    @property
    def row(self) -> str:
        """The start of a SELECT: key, text, version, times and expiry in microseconds."""
        return (
            f"SELECT {self.key_sql}, {self.data}, {self.version}, {self.time('created_at')},"
            f" {self.time('updated_at')}, {self.expires}"
        )

    def time(self, column: str) -> str:
        """A time of a row, in microseconds."""
        if not self.adopted:
            return column
        # Not a bare 0, which in ORDER BY is the number of a column.
        return _READ_TIME.format(column) if column in self.columns else "(0 + 0)"

    def stamp(self, value: str) -> str:
        """How a time in microseconds is stored."""
        return _WRITE_TIME.format(value) if self.adopted else value


def quoted(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def table_of(conn: apsw.Connection, name: str) -> Table:
    """The table of a collection that the file has."""
    cursor: Any = conn.execute(
        "SELECT name, upper(type), pk FROM pragma_table_info(?) ORDER BY pk DESC", (name,)
    )
    found = cursor.fetchall()
    if not found:
        raise missing_table(name, name)
    types = {column: kind for column, kind, _ in found}
    adopted = types.get("created_at") != "INTEGER" or types.get("version") != "INTEGER"
    return Table(name, found[0][0], frozenset(types), adopted)


def adoptable_tables(conn: apsw.Connection) -> list[str]:
    """The tables of another program that can be adopted, by name."""
    found: Any = conn.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
        " ORDER BY name"
    )
    return [name for (name,) in found.fetchall() if not obstacle(conn, name)]


def obstacle(conn: apsw.Connection, name: str) -> str:
    """Why a table of another program cannot be adopted, in one sentence; empty when it can."""
    if "'" in name or '"' in name:
        return "its name has a quote"
    cursor: Any = conn.execute(
        'SELECT name, upper(type), "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)',
        (name,),
    )
    columns = cursor.fetchall()
    keys = [(column, kind) for column, kind, _, _, pk, _ in columns if pk]
    if len(keys) != 1 or keys[0][1].partition("(")[0].strip() not in _TEXT_TYPES:
        return "its primary key is not one column of text"
    data = next((column for column in columns if column[0] == "data"), None)
    if data is None or data[5] or data[1] in ("BLOB", "INTEGER", "REAL"):
        return "it has no column `data` of text"
    for column, _, not_null, default, pk, hidden in columns:
        if column in _OURS or (column in _TIMES and hidden):
            return f"its column `{column}` has a meaning of its own"
        if not_null and default is None and not pk and column not in ("data", *_TIMES):
            return f"its column `{column}` is NOT NULL without a default"
    bad = conn.execute(
        f"SELECT count(*) FROM {quoted(name)} WHERE typeof({quoted(keys[0][0])}) <> 'text'"
        " OR (data IS NOT NULL AND NOT json_valid(data))"
    ).get
    return f"{bad} of its rows do not hold JSON" if bad else ""


def create(conn: apsw.Connection, name: str, now_us: int) -> None:
    """Create the table of a new collection inside the caller's transaction."""
    _register(conn, name, now_us)
    _create(conn, name)


def _create(conn: apsw.Connection, name: str) -> None:
    conn.execute(_CREATE.format(name=name))
    _watch(conn, name, "key", stamps=_OUR_STAMPS)


def lost_table(conn: apsw.Connection, name: str) -> bool:
    """Whether a registered collection's table is gone.  ConfigError where it was renamed."""
    registered = conn.execute("SELECT 1 FROM _standfast_collections WHERE name = ?", (name,)).get
    table = "SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ?"
    if not registered or conn.execute(table, (name,)).get:
        return False
    # A renamed table keeps its triggers, and their names.
    trigger = "SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name = ?"
    renamed = conn.execute(trigger, (f"{name}_standfast_delete",)).get
    if renamed:
        raise missing_table(name, name, renamed=renamed)
    return True


def remake(conn: apsw.Connection, name: str) -> None:
    """Make a lost table anew inside the caller's transaction; its rows' versions do not fall."""
    if not lost_table(conn, name):
        return
    conn.execute(
        "UPDATE _standfast_collections SET version_floor = version_floor + ? WHERE name = ?",
        (LOST_TABLE_VERSIONS, name),
    )
    _create(conn, name)


def incarnation(conn: apsw.Connection, name: str) -> str | None:
    """Which collection of this name there is; None without any."""
    found: Any = conn.execute(
        "SELECT created_at || '/' || version_floor FROM _standfast_collections WHERE name = ?",
        (name,),
    ).get
    return found


def drop(conn: apsw.Connection, name: str, now_us: int, *, if_empty: bool) -> int:
    """Drop a collection inside the caller's transaction; returns its highest version."""
    highest, lost = 0, 0
    if lost_table(conn, name):
        lost = LOST_TABLE_VERSIONS
    else:
        table = table_of(conn, name)
        require_droppable(
            name, adopted=table.adopted or not table.ready, referenced=_referring(conn, name)
        )
        live = f"SELECT EXISTS (SELECT 1 FROM {table.sql} WHERE {table.live})"
        if if_empty and conn.execute(live, (now_us,)).get:
            raise not_empty(name)
        highest = conn.execute(f"SELECT coalesce(max(version), 0) FROM {table.sql}").get
        conn.execute(f"DROP TABLE {table.sql}")
    floor: int = conn.execute(
        # A version that another program made up does not use up those of all collections.
        "UPDATE _standfast_identity SET version_floor = max(version_floor, min(?4, max(?2,"
        " (SELECT version_floor FROM _standfast_collections WHERE name = ?1) + ?3, coalesce("
        "(SELECT max(version) FROM _standfast_tombstones WHERE collection = ?1), 0))))"
        " RETURNING version_floor",
        (name, highest, lost, MAX_DROPPED_VERSION),
    ).get
    conn.execute("DELETE FROM _standfast_tombstones WHERE collection = ?", (name,))
    conn.execute("DELETE FROM _standfast_collections WHERE name = ?", (name,))
    return floor


def _referring(conn: apsw.Connection, name: str) -> str:
    """The tables whose foreign keys refer to this one, in one sentence; empty without any."""
    found: Any = conn.execute(
        "SELECT DISTINCT m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f"
        " WHERE m.type = 'table' AND lower(f.\"table\") = lower(?) AND m.name <> ? ORDER BY 1",
        (name, name),
    )
    names = ", ".join(f"`{child}`" for (child,) in found)
    return f"foreign keys of {names} refer to its table" if names else ""


def adopt(conn: apsw.Connection, names: Iterable[str], now_us: int) -> None:
    """Make tables of another program collections, inside the caller's transaction.

    The rows that are there have version 1, and those that come later from elsewhere are stamped.
    """
    for name in names:
        table = table_of(conn, name)
        for column, definition in (
            ("version", "INTEGER NOT NULL DEFAULT 0"),
            ("expires_at", "INTEGER"),
            ("created_at", "TEXT"),
            ("updated_at", "TEXT"),
        ):
            if column not in table.columns:
                conn.execute(f"ALTER TABLE {table.sql} ADD COLUMN {column} {definition}")
        conn.execute(f"UPDATE {table.sql} SET version = 1")
        _register(conn, name, now_us)
        _watch(conn, name, table.key_sql, stamps=_THEIR_STAMPS)


def preview(conn: apsw.Connection, statements: Iterable[str], names: Iterable[str]) -> None:
    """Bookkeeping for this connection alone, to read a file of another program as it stands."""
    for script in statements:
        conn.execute(script.replace("CREATE TABLE", "CREATE TEMP TABLE"))
    for name in names:
        _register(conn, name, 0)


def _register(conn: apsw.Connection, name: str, now_us: int) -> None:
    conn.execute(
        "INSERT INTO _standfast_collections (name, created_at, version_floor) VALUES (?, ?,"
        " coalesce((SELECT version_floor FROM _standfast_identity), 0))"
        " ON CONFLICT (name) DO NOTHING",
        (name, now_us),
    )


def _watch(conn: apsw.Connection, name: str, key: str, *, stamps: tuple[str, str]) -> None:
    inserted, updated = stamps
    conn.execute(_TRIGGERS.format(name=name, key=key, now=_NOW, inserted=inserted, updated=updated))
