"""A collection's table in PostgreSQL: found, judged, adopted as it is, or created.

A table that is already there is adopted without being rewritten: columns that are missing are
added (a constant default costs no rewrite since PostgreSQL 11), triggers for foreign writers are
put on it, nothing else changes.  What cannot be adopted safely is refused by name.
"""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection, sql

from holdfast.errors import ConfigError

_KEY_TYPES = {
    "text": "text",
    "varchar": "text",
    "int8": "bigint",
    "int4": "integer",
}
_STAMPS = ("timestamptz", "timestamp")
_OURS = ("data", "raw", "version", "created_at", "updated_at", "expires_at")


class Table(msgspec.Struct, frozen=True):
    """Where a collection lives, and what of our columns is there already."""

    collection: str
    schema: str
    name: str
    key_column: str
    key_type: str
    data_type: str
    columns: frozenset[str]
    registered: bool
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
        """Whether it can be written: registered, with all our columns."""
        return self.registered and self.columns.issuperset(_OURS)

    def column(self, name: str, otherwise: str) -> sql.Composable:
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
                self.key, sql.SQL('' if self.exact_order else '::text COLLATE "C"')
            ),
            "text": sql.SQL("coalesce({}, t.data::text, 'null')").format(
                self.column("raw", "NULL::text")
            ),
            "raw": self.column("raw", "NULL::text"),
            "version": self.column("version", "1::bigint"),
            "created_us": _micros(self.column("created_at", "'epoch'::timestamptz")),
            "updated_us": _micros(self.column("updated_at", "'epoch'::timestamptz")),
            "expires_us": _micros(expires, keep_null=True),
            "live": sql.SQL("({0} IS NULL OR {0} > now())").format(expires),
        }


def _micros(stamp: sql.Composable, *, keep_null: bool = False) -> sql.Composable:
    form = "(extract(epoch FROM {}::timestamptz) * 1000000)::bigint"
    return sql.SQL(form if keep_null else "coalesce(" + form + ", 0)").format(stamp)


_DESCRIBE = """
SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relrowsecurity,
       pg_has_role(c.relowner, 'USAGE'),
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index i
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
         WHERE i.indrelid = c.oid AND i.indisprimary)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""
_COLUMNS = """
SELECT a.attname, t.typname, a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
       a.attgenerated <> '' OR a.attidentity = 'a', coalesce(l.collname, ''), NOT a.attnotnull
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


def find_table(conn: Connection[Any], collection: str, schema: str) -> Table | None:
    """The collection's table as it stands, or None; ConfigError when it cannot be adopted."""
    with conn.cursor() as cur:
        registered = None
        if has_schema(conn):
            registered = cur.execute(
                "SELECT table_schema, table_name FROM holdfast.collections WHERE name = %s",
                (collection,),
            ).fetchone()
        place = registered or (schema, collection)
        found = cur.execute(_DESCRIBE, place).fetchone()
        if found is None:
            if registered is not None:
                raise _refused(collection, "its table was dropped or renamed", "restore the table")
            return None
        columns = cur.execute(_COLUMNS, (found[0],)).fetchall()
    return _judge(collection, place, found, columns, registered is not None)


def _judge(
    collection: str,
    place: tuple[str, str],
    found: tuple[Any, ...],
    columns: list[tuple[Any, ...]],
    registered: bool,
) -> Table:
    """The table as ours, or the reason why it cannot be."""
    _, kind, persistence, row_security, owned, primary = found
    types = {name: type_name for name, type_name, *_ in columns}

    def refuse(why: str, hint: str) -> ConfigError:
        return _refused(collection, why, hint)

    if kind != "r":
        raise refuse("it is no ordinary table", "give the collection another name")
    if not primary or len(primary) != 1:
        what = "no primary key" if not primary else "a primary key of several columns"
        raise refuse(f"it has {what}", "a collection needs a single-column primary key")
    key_type = _KEY_TYPES.get(types[primary[0]])
    if key_type is None:
        raise refuse(
            f"its key column `{primary[0]}` is {types[primary[0]]}",
            "the key must be text, varchar, integer or bigint",
        )
    if types.get("data") not in ("jsonb", "json"):
        what = "no column `data`" if "data" not in types else f"`data` as {types['data']}"
        raise refuse(f"it has {what}", "the documents must stand in a column `data` of type jsonb")
    for name, wanted in (("version", ("int8",)), ("raw", ("text",))):
        if name in types and types[name] not in wanted:
            raise refuse(f"its column `{name}` is {types[name]}", f"it must be {wanted[0]}")
    for name in ("created_at", "updated_at", "expires_at"):
        if name in types and types[name] not in _STAMPS:
            raise refuse(f"its column `{name}` is {types[name]}", "it must be timestamptz")
    for name, _, required, generated, _, nullable in columns:
        if name == "version" and nullable:
            raise refuse("its column `version` allows NULL", "it must be bigint NOT NULL")
        if required and name not in (primary[0], *_OURS):
            raise refuse(
                f"its column `{name}` is NOT NULL without a default", "give it a default"
            )
        if generated and name in (primary[0], *_OURS):
            raise refuse(f"its column `{name}` is generated", "drop the GENERATED clause")
    if row_security:
        raise refuse("row security is enabled on it", "rows could be hidden without an error")
    if persistence != "p":
        raise refuse("it is UNLOGGED or temporary", "ALTER TABLE ... SET LOGGED first")
    collations = {name: collation for name, _, _, _, collation, _ in columns}
    return Table(
        collection=collection,
        schema=place[0],
        name=place[1],
        key_column=primary[0],
        key_type=key_type,
        data_type=types["data"],
        columns=frozenset(types),
        registered=registered,
        exact_order=key_type == "text" and collations[primary[0]] in ("C", "POSIX", "ucs_basic"),
        owned=owned,
    )


def _refused(collection: str, why: str, hint: str) -> ConfigError:
    return ConfigError(
        f"table `{collection}` cannot be adopted: {why}", code="not_adoptable", hint=hint
    )


def require_rights(table: Table) -> None:
    """Raise unless this role may make the table ours; only its owner may add columns and triggers."""
    if not table.owned and not table.ready:
        raise ConfigError(
            f"table `{table.schema}.{table.name}` cannot be adopted: this role does not own it",
            code="no_rights",
            hint=f"hand a DBA the output of `holdfast schema sql --collection {table.collection}`",
        )


def has_schema(conn: Connection[Any]) -> bool:
    """Whether the bookkeeping is there; a cheap look-up, no error when it is not."""
    row = conn.execute("SELECT to_regclass('holdfast.collections') IS NOT NULL").fetchone()
    return bool(row and row[0])


def create_statements(collection: str, schema: str) -> list[sql.Composable]:
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


def adopt_statements(table: Table) -> list[sql.Composable]:
    """The statements that make an existing table ours; none of them rewrites it."""
    statements: list[sql.Composable] = []
    for name, definition in (
        # Existing rows read as version 1; new foreign rows come as 0 and are stamped.
        ("version", "bigint NOT NULL DEFAULT 1"),
        ("raw", "text"),
        ("created_at", "timestamptz DEFAULT now()"),
        ("updated_at", "timestamptz DEFAULT now()"),
        ("expires_at", "timestamptz"),
    ):
        if name not in table.columns:
            statements.append(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                    table.sql, sql.Identifier(name), sql.SQL(definition)
                )
            )
    statements.append(
        sql.SQL("ALTER TABLE {} ALTER COLUMN version SET DEFAULT 0").format(table.sql)
    )
    return [
        *statements,
        *_register_statements(
            table.collection, table.schema, table.name, table.key_column, adopted=True
        ),
    ]


_TRIGGERS = (
    (
        "holdfast_stamp_insert",
        "BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.version = 0)",
        "stamp_insert",
    ),
    (
        "holdfast_stamp_update",
        "BEFORE UPDATE ON {table} FOR EACH ROW WHEN (NEW.version = OLD.version)",
        "stamp_update",
    ),
    ("holdfast_stamp_delete", "AFTER DELETE ON {table} FOR EACH ROW", "stamp_delete"),
    (
        "holdfast_log_insert",
        "AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT" " {foreign}",
        "log_new",
    ),
    (
        "holdfast_log_update",
        "AFTER UPDATE ON {table} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT {foreign}",
        "log_new",
    ),
    (
        "holdfast_log_delete",
        "AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT {foreign}",
        "log_old",
    ),
    (
        "holdfast_log_truncate",
        "BEFORE TRUNCATE ON {table} FOR EACH STATEMENT",
        "log_truncate",
    ),
)
# Our own transactions log what they write themselves; they say so by this setting.
_FOREIGN = "WHEN (coalesce(current_setting('holdfast.lane', true), '') = '')"


def _register_statements(
    collection: str, schema: str, name: str, key_column: str, *, adopted: bool
) -> list[sql.Composable]:
    table = sql.Identifier(schema, name)
    statements: list[sql.Composable] = [
        sql.SQL(
            "INSERT INTO holdfast.collections"
            " (name, table_schema, table_name, key_column, adopted)"
            " VALUES ({}, {}, {}, {}, {}) ON CONFLICT (name) DO NOTHING"
        ).format(collection, schema, name, key_column, adopted)
    ]
    for trigger, event, function in _TRIGGERS:
        statements.append(
            sql.SQL("CREATE OR REPLACE TRIGGER {} ").format(sql.Identifier(trigger))
            + sql.SQL(event).format(table=table, foreign=sql.SQL(_FOREIGN))
            + sql.SQL(" EXECUTE FUNCTION holdfast.{}({}, {})").format(
                sql.Identifier(function), collection, key_column
            )
        )
    return statements
