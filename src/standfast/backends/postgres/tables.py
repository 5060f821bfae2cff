"""A collection's table in PostgreSQL: found, judged, adopted as it is, or created.

A table that is already there is adopted without being rewritten: columns that are missing are
added (a constant default costs no rewrite since PostgreSQL 11), triggers for foreign writers are
put on it, nothing else changes.  What cannot be adopted safely is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

import msgspec
from psycopg import Connection, sql

from standfast.backends.base import missing_table
from standfast.backends.postgres.trust import refuse_stranger, strangers
from standfast.backends.postgres.trust import tables as trust_tables
from standfast.errors import ConfigError
from standfast.limits import LOST_TABLE_VERSIONS

_KEY_TYPES: dict[str, LiteralString] = {
    "text": "text",
    "varchar": "text",
    "int8": "bigint",
    "int4": "integer",
}
_STAMP = ("timestamptz", "timestamp")
_WANTED = {
    "data": ("jsonb", "json"),
    "raw": ("text",),
    "version": ("int8",),
    "created_at": _STAMP,
    "updated_at": _STAMP,
    "expires_at": _STAMP,
}
_OURS = tuple(_WANTED)


class Table(msgspec.Struct, frozen=True, cache_hash=True):
    """Where a collection lives, and what of our columns is there already."""

    collection: str
    schema: str
    name: str
    key_column: str
    key_type: LiteralString
    data_type: LiteralString
    columns: frozenset[str]
    others: tuple[str, ...]
    triggers: frozenset[str]
    registered: bool
    zoned: bool
    exact_order: bool
    owned: bool

    @property
    def sql(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(self.schema, self.name)

    @property
    def key(self) -> sql.Identifier:
        """The key column's quoted name."""
        return sql.Identifier(self.key_column)

    @property
    def ready(self) -> bool:
        """Whether it can be written: registered, with all our columns and triggers."""
        return (
            self.registered
            and self.columns.issuperset(_OURS)
            and self.triggers.issuperset(name for name, *_ in TRIGGERS)
        )

    def column(self, name: str, otherwise: LiteralString) -> sql.Composable:
        """A column, or what stands for it while the table is not adopted."""
        return sql.Identifier("t", name) if name in self.columns else sql.SQL(otherwise)

    def parts(self) -> dict[str, sql.Composable]:
        """The pieces that statements on this table are made of."""
        expires = self.column("expires_at", "NULL::timestamptz")
        return {
            "table": self.sql,
            "key": self.key,
            "key_type": sql.SQL(self.key_type),
            "data_type": sql.SQL(self.data_type),
            "key_text": sql.SQL("t.{}::text").format(self.key),
            "ordered": sql.SQL("t.{}{}").format(
                self.key, sql.SQL("" if self.exact_order else '::text COLLATE "C"')
            ),
            "text": sql.SQL("coalesce({}, t.data::text, 'null')").format(
                self.column("raw", "NULL::text")
            ),
            "raw": self.column("raw", "NULL::text"),
            "version": self.column("version", "1::bigint"),
            "created_us": _micros(self.column("created_at", "'epoch'::timestamptz")),
            "updated_us": _micros(self.column("updated_at", "'epoch'::timestamptz")),
            "created_or_null": _micros(self.column("created_at", "NULL"), keep_null=True),
            "updated_or_null": _micros(self.column("updated_at", "NULL"), keep_null=True),
            "same_key": self._same_key(),
            "new_order": sql.SQL('u.key COLLATE "C"' if self.key_type == "text" else "u.key"),
            "others": self._others(),
            "expires_us": _micros(expires, keep_null=True),
            "created_sent": _sent(self.column("created_at", "NULL")),
            "updated_sent": _sent(self.column("updated_at", "NULL")),
            "expires_sent": _sent(expires),
            "live": sql.SQL("({0} IS NULL OR {0} > now())").format(expires),
        }

    def _same_key(self) -> sql.Composable:
        """Whether a row has the key `u.k`, a text that may be no number in a table of numbers."""
        if self.key_type == "text":
            return sql.SQL("t.{} = u.k").format(self.key)
        number = sql.SQL(
            "t.{} = CASE WHEN u.k ~ '^(0|-?[1-9][0-9]{{0,18}})$' AND u.k::numeric BETWEEN"
            " -9223372036854775808 AND 9223372036854775807 THEN u.k::bigint END"
        )
        return number.format(self.key)

    def _others(self) -> sql.Composable:
        """The columns that are not ours as one JSON object; NULL when there are none."""
        if not self.others:
            return sql.SQL("NULL::text")
        pairs = [sql.SQL("{}, {}").format(name, sql.Identifier("t", name)) for name in self.others]
        return sql.SQL("jsonb_build_object({})::text").format(sql.SQL(", ").join(pairs))


#: 2000-01-01 in microseconds since 1970, and the bounds of Python's calendar.
_POSTGRES_EPOCH_US = 946_684_800_000_000
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


def _micros(stamp: sql.Composable, *, keep_null: bool = False) -> sql.Composable:
    """A time in microseconds; what Python's calendar does not have (infinity, years before 1 and
    after 9999) is the nearest time that it has."""
    form: LiteralString = (
        "CASE WHEN {0}::timestamptz > '9999-12-31 23:59:59.999999+00' THEN 253402300799999999"
        " WHEN {0}::timestamptz < '0001-01-01 00:00:00+00' THEN -62135596800000000"
        " ELSE (extract(epoch FROM {0}::timestamptz) * 1000000)::bigint END"
    )
    return sql.SQL(form if keep_null else "coalesce(" + form + ", 0)").format(stamp)


def _sent(stamp: sql.Composable) -> sql.Composable:
    """A time as the server sends it, for `sent_us`: its arithmetic costs more than the row."""
    return sql.SQL("timestamptz_send({}::timestamptz)").format(stamp)


def sent_us(stamp: bytes) -> int:
    """The microseconds of a time of `*_sent`, with the same bounds as `*_us`."""
    found = int.from_bytes(stamp, "big", signed=True) + _POSTGRES_EPOCH_US
    return found if _FIRST_US <= found <= _LAST_US else min(max(found, _FIRST_US), _LAST_US)


# One statement, and so one snapshot: between two, the table may be dropped and made anew.
#: The collection's place, for the statements that follow in the same script; empty without any.
_PLACE: LiteralString = """
SELECT set_config('standfast.asked', {collection}, true), set_config('standfast.place', '', true);
DO $find$ BEGIN
    -- Not to_regclass: it answers from a cache that does not see what another session created
    -- while we waited for the lock under which that is done.
    IF EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'standfast' AND c.relname = 'collections') THEN
        PERFORM set_config('standfast.place', coalesce(
            (SELECT jsonb_build_array(k.table_schema, k.table_name, k.key_column)::text
               FROM standfast.collections k WHERE k.name = current_setting('standfast.asked')),
            ''), true);
    END IF;
END $find$
"""
_REGISTERED: LiteralString = """
SELECT p.place ->> 0, p.place ->> 1, p.place ->> 2
  FROM (SELECT nullif(current_setting('standfast.place'), '')::jsonb AS place) p
 WHERE p.place IS NOT NULL
"""
_AT: LiteralString = (
    "coalesce(nullif(current_setting('standfast.place'), '')::jsonb ->> {index}, {otherwise})"
)
# One statement, and so one snapshot: between two, the table may be dropped and made anew.
_DESCRIBE: LiteralString = """
SELECT c.relkind::text, c.relpersistence::text, c.relrowsecurity,
       pg_has_role(c.relowner, 'USAGE'),
       EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent)),
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index i
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
         WHERE i.indrelid = c.oid AND i.indisprimary),
       (SELECT i.indimmediate FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
       (SELECT array_agg(g.tgname::text) FROM pg_trigger g
         WHERE g.tgrelid = c.oid AND NOT g.tgisinternal),
       (SELECT jsonb_agg(jsonb_build_array(a.attname, t.typname, a.attnotnull,
                 a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a',
                 coalesce(l.collname, ''), coalesce(l.collisdeterministic, true)))
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_collation l ON l.oid = a.attcollation
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = {schema} AND c.relname = {name}
"""


# A renamed table keeps its triggers, whose first argument is the collection.
_RENAMED = """
SELECT n.nspname || '.' || c.relname
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE g.tgname = 'standfast_stamp_delete'
   AND position(convert_to(%s, getdatabaseencoding()) || %s::bytea IN g.tgargs) = 1
"""


class _Found(NamedTuple):
    """A row of `_DESCRIBE`."""

    kind: str
    persistence: str
    row_security: bool
    owned: bool
    inherits: bool
    primary: list[str] | None
    immediate: bool | None
    triggers: list[str] | None
    columns: list[list[Any]] | None


class _Column(NamedTuple):
    """A column as `_DESCRIBE` shows it."""

    name: str
    type: str
    not_null: bool
    has_default: bool
    generated: bool
    collation: str
    deterministic: bool


def ask(conn: Connection[Any], statements: Sequence[sql.Composable]) -> list[list[tuple[Any, ...]]]:
    """Run statements without parameters in one round trip; the rows of each, or none."""
    cur = conn.execute(sql.SQL(";\n").join(statements), prepare=False)
    found: list[list[tuple[Any, ...]]] = []
    while True:
        found.append(cur.fetchall() if cur.description else [])
        if not cur.nextset():
            return found


def find_statements(
    collection: str, schema: str, trusted: Sequence[str] = ()
) -> list[sql.Composed]:
    """What `found_table` needs the rows of, as statements for `ask`, the last of a script."""
    place = {
        "schema": sql.SQL(_AT).format(index=sql.Literal(0), otherwise=schema),
        "name": sql.SQL(_AT).format(index=sql.Literal(1), otherwise=collection),
    }
    return [
        sql.SQL(_PLACE).format(collection=collection),
        *(sql.SQL(form).format(**place) for form in (_REGISTERED, _DESCRIBE)),
        strangers(trusted, trust_tables(place["schema"], place["name"])),
    ]


def found_table(
    collection: str, schema: str, rows: Sequence[list[tuple[Any, ...]]]
) -> Table | None:
    """The table that these statements have found; raises as `find_table` does."""
    registered, found, foreign = rows[-3:]
    place = registered[0][:2] if registered else (schema, collection)
    if not found:
        if registered:
            raise missing_table(collection, f"{place[0]}.{place[1]}")
        return None
    refuse_stranger(foreign)
    key = registered[0][2] if registered else None
    return _judge(collection, place, _Found(*found[0]), key)


def find_table(
    conn: Connection[Any], collection: str, schema: str, trusted: Sequence[str] = ()
) -> Table | None:
    """The collection's table as it stands, or None; ConfigError when it cannot be adopted.

    `foreign_owner`: a stranger owns it, whose triggers would run as whoever writes to it.
    """
    rows = ask(conn, find_statements(collection, schema, trusted))
    return found_table(collection, schema, rows)


def lost_table(conn: Connection[Any], collection: str) -> tuple[str, str] | None:
    """Schema and name of a registered collection's table that is gone.

    ConfigError("no_table") where it was renamed or moved to another schema.
    """
    if not has_schema(conn):
        return None
    place = conn.execute(
        "SELECT k.table_schema, k.table_name FROM standfast.collections k WHERE k.name = %s AND NOT"
        " EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = k.table_schema AND c.relname = k.table_name)",
        (collection,),
    ).fetchone()
    if place is None:
        return None
    renamed = conn.execute(_RENAMED, (collection, b"\0")).fetchone()
    if renamed is not None:
        raise missing_table(collection, ".".join(place), renamed=renamed[0])
    return place[0], place[1]


def remake_statements(collection: str, schema: str) -> list[sql.Composed]:
    """The statements that make a lost table anew; the versions of its rows do not fall."""
    raised = sql.SQL(
        "UPDATE standfast.collections SET version_floor = version_floor + {} WHERE name = {}"
    )
    return [
        *create_statements(collection, schema),
        raised.format(LOST_TABLE_VERSIONS, collection),
    ]


def _judge(
    collection: str,
    place: tuple[Any, ...],
    found: _Found,
    registered_key: str | None,
) -> Table:
    """The table as ours, or the reason why it cannot be."""
    _require_ordinary(collection, found)
    assert found.primary, "an ordinary table has a primary key"
    columns = [_Column(*record) for record in found.columns or ()]
    key = next(column for column in columns if column.name == found.primary[0])
    _require_columns(collection, key, columns, adopted=registered_key is not None)
    types = {column.name: column.type for column in columns}
    return Table(
        collection=collection,
        schema=place[0],
        name=place[1],
        key_column=key.name,
        key_type=_KEY_TYPES[key.type],
        data_type="json" if types["data"] == "json" else "jsonb",
        columns=frozenset(types),
        others=tuple(
            column.name
            for column in columns
            if column.name not in (key.name, *_OURS) and not column.generated
        ),
        triggers=frozenset(found.triggers or ()),
        registered=registered_key == key.name,
        zoned="timestamp" not in types.values(),
        exact_order=key.collation in ("C", "POSIX", "ucs_basic"),
        owned=found.owned,
    )


def _require_ordinary(collection: str, found: _Found) -> None:
    """Refuse anything but a plain table with one key column."""
    if found.kind != "r":
        raise _refused(
            collection, "it is not an ordinary table", "give the collection another name"
        )
    if found.inherits:
        raise _refused(
            collection, "it inherits, is inherited or is a partition", "use a table of its own"
        )
    if not found.primary or len(found.primary) != 1:
        what = "several columns as its primary key" if found.primary else "no primary key"
        raise _refused(
            collection, f"it has {what}", "a collection needs a single-column primary key"
        )
    if not found.immediate:
        raise _refused(collection, "its primary key is deferrable", "make it NOT DEFERRABLE")
    if found.row_security:
        raise _refused(
            collection, "row security is enabled on it", "rows could be hidden without an error"
        )
    if found.persistence != "p":
        raise _refused(
            collection, "it is UNLOGGED or temporary", "ALTER TABLE ... SET LOGGED first"
        )


def _require_columns(
    collection: str, key: _Column, columns: list[_Column], *, adopted: bool
) -> None:
    """Refuse columns that cannot hold our values, or that we could not fill."""
    if key.type not in _KEY_TYPES:
        raise _refused(
            collection,
            f"its key column `{key.name}` is {key.type}",
            "the key must be text, varchar, integer or bigint",
        )
    if not key.deterministic:
        raise _refused(
            collection,
            f"its key column `{key.name}` compares different texts as equal",
            "give the column a deterministic collation",
        )
    if "%" in key.name:  # the driver would take it for a placeholder
        raise _refused(
            collection, f"the name of its key column `{key.name}` has a %", "rename the column"
        )
    present = {column.name for column in columns}
    if "data" not in present:
        hint = "the documents must be in a column `data` of type jsonb"
        raise _refused(collection, "it has no column `data`", hint)
    # One of them alone was made by another program, for another purpose.
    only_ours = {"raw", "expires_at"} & present
    if only_ours and not adopted and not present >= {"version", "raw", "expires_at"}:
        name = min(only_ours)
        raise _refused(
            collection, f"its column `{name}` has a meaning of its own", "rename the column"
        )
    for column in columns:
        why, hint = _column_problem(column, is_key=column is key)
        if why:
            raise _refused(collection, f"its column `{column.name}` {why}", hint)


def _column_problem(column: _Column, *, is_key: bool) -> tuple[str, str]:
    """Why this column stands in the way, and what to do; empty when it does not."""
    wanted = _WANTED.get(column.name, ())
    if is_key or column.name in _OURS:
        if column.generated:
            return "is generated", "drop the GENERATED clause"
        if wanted and not is_key and column.type not in wanted:
            return f"is {column.type}", f"it must be {wanted[0]}"
        if column.name == "version" and not column.not_null:
            return "allows NULL", "it must be bigint NOT NULL"
        if column.name in ("raw", "expires_at") and column.not_null:
            return "is NOT NULL", "drop the NOT NULL constraint"
    elif column.not_null and not column.has_default:
        return "is NOT NULL without a default", "give it a default"
    return "", ""


def _refused(collection: str, why: str, hint: str) -> ConfigError:
    return ConfigError(
        f"table `{collection}` cannot be adopted: {why}", code="not_adoptable", hint=hint
    )


def require_rights(table: Table) -> None:
    """Raise unless this role may make the table ours: only its owner may change it."""
    if not table.owned and not table.ready:
        raise ConfigError(
            f"table `{table.schema}.{table.name}` cannot be adopted: this role does not own it",
            code="no_rights",
            hint=f"hand a DBA the output of `standfast schema sql --collection {table.collection}`",
        )


def has_schema(conn: Connection[Any]) -> bool:
    """Whether the bookkeeping is there; a cheap look-up, no error when it is not."""
    # Not to_regclass: it answers from a cache that does not see what another session created while
    # we waited for the lock under which that is done.
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'standfast' AND c.relname = 'collections')"
    ).fetchone()
    return bool(row and row[0])


def create_statements(collection: str, schema: str) -> list[sql.Composed]:
    """The statements that create a collection's table in the shape that bots already have."""
    table = sql.Identifier(schema, collection)
    return [
        sql.SQL(
            'CREATE TABLE {} (key text COLLATE "C" PRIMARY KEY, data jsonb NOT NULL,'
            " created_at timestamptz NOT NULL DEFAULT now(),"
            " updated_at timestamptz NOT NULL DEFAULT now(),"
            " version bigint NOT NULL DEFAULT 0, raw text, expires_at timestamptz)"
        ).format(table),
        *_register_statements(collection, schema, collection, "key", adopted=False),
    ]


_ADDED: tuple[tuple[str, LiteralString], ...] = (
    # Existing rows read as version 1; new foreign rows come as 0 and are stamped.
    ("version", "bigint NOT NULL DEFAULT 1"),
    ("raw", "text"),
    ("created_at", "timestamptz DEFAULT now()"),
    ("updated_at", "timestamptz DEFAULT now()"),
    ("expires_at", "timestamptz"),
)


def adopt_statements(table: Table) -> list[sql.Composed]:
    """The statements that make an existing table ours; none of them rewrites it.

    One that has our columns already needs no lock that shuts its readers out.
    """
    statements: list[sql.Composed] = []
    for name, definition in _ADDED:
        if name not in table.columns:
            statements.append(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                    table.sql, sql.Identifier(name), sql.SQL(definition)
                )
            )
    if statements or not table.registered:
        statements.append(
            sql.SQL("ALTER TABLE {} ALTER COLUMN version SET DEFAULT 0").format(table.sql)
        )
    return [
        *statements,
        *_register_statements(
            table.collection, table.schema, table.name, table.key_column, adopted=True
        ),
    ]


#: Name, event and function of the triggers that every collection's table has.
TRIGGERS: tuple[tuple[str, LiteralString, str], ...] = (
    (
        "standfast_stamp_insert",
        "BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.version = 0)",
        "stamp_insert",
    ),
    (
        "standfast_stamp_update",
        "BEFORE UPDATE ON {table} FOR EACH ROW WHEN (NEW.version = OLD.version)",
        "stamp_update",
    ),
    ("standfast_stamp_delete", "AFTER DELETE ON {table} FOR EACH ROW", "stamp_delete"),
    (
        "standfast_check_insert",
        "AFTER INSERT ON {table} FOR EACH ROW {foreign}",
        "check_insert",
    ),
    (
        "standfast_log_truncate",
        "BEFORE TRUNCATE ON {table} FOR EACH STATEMENT",
        "log_truncate",
    ),
)
#: Triggers of earlier versions, which do nothing any more but make every statement copy its rows:
#: what other programs write is logged by the triggers that stamp and check it.
OBSOLETE = frozenset({"standfast_log_insert", "standfast_log_update", "standfast_log_delete"})
# Our own transactions log what they write, and make sure of their versions; they say so by this
# setting.
_FOREIGN = "WHEN (coalesce(current_setting('standfast.lane', true), '') = '')"


def tidy_statements(table: Table) -> list[sql.Composed]:
    """The statements that take triggers of earlier versions off a table."""
    return [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), table.sql)
        for name in sorted(table.triggers & OBSOLETE)
    ]


def _register_statements(
    collection: str, schema: str, name: str, key_column: str, *, adopted: bool
) -> list[sql.Composed]:
    table = sql.Identifier(schema, name)
    statements = [
        sql.SQL(
            "INSERT INTO standfast.collections"
            " (name, table_schema, table_name, key_column, adopted, version_floor)"
            " SELECT {}, {}, {}, {}, {}, version_floor FROM standfast.identity"
            " ON CONFLICT (name) DO UPDATE SET key_column = excluded.key_column"
        ).format(collection, schema, name, key_column, adopted)
    ]
    for trigger, event, function in TRIGGERS:
        statements.append(
            sql.SQL("CREATE OR REPLACE TRIGGER {} ").format(sql.Identifier(trigger))
            + sql.SQL(event).format(table=table, foreign=sql.SQL(_FOREIGN))
            + sql.SQL(" EXECUTE FUNCTION standfast.{}({}, {})").format(
                sql.Identifier(function), collection, key_column
            )
        )
    return statements
