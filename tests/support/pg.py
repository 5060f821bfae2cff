"""Stores on a PostgreSQL of the tests, and looks behind them by plain SQL."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from standfast import ConfigError
from standfast.api.sync import Store
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from standfast.engine.embedded import EmbeddedEngine
from support.passwords import quick_verifier


@contextmanager
def opened(url: str, *, check: bool = True, **options: float) -> Generator[Store]:
    """A store of its own: other connections and another lane than any other one.

    `options` are those of `PostgresBackend`; `check` looks at the database first, as opening does.
    """
    backend = PostgresBackend(parse_url(url), **options)
    with Store(EmbeddedEngine(backend)) as store:
        if check:
            backend.check()
        yield store


def refused(action: Callable[[], Any], code: str = "not_adoptable") -> ConfigError:
    """The ConfigError of an action: it must have this code, and a hint."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


class Sql:
    """One connection that writes and looks as any other program would."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)

    def __enter__(self) -> Sql:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def __call__(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, or none."""
        cursor = self.connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *values: Any) -> Any:
        """The one value of the one row."""
        ((value,),) = self(statement, *values)
        return value

    def changes(self) -> list[tuple[str, list[str] | None]]:
        """The change log, keys in order, and an empty log afterwards."""
        found = self("DELETE FROM standfast.changes RETURNING id, collection, keys")
        return [(name, keys and sorted(keys)) for _, name, keys in sorted(found)]

    def catalog(self) -> list[tuple[Any, ...]]:
        """Everything that DDL of ours could change, with the files that the tables are in."""
        return self(_CATALOG)


_CATALOG = """
WITH mine AS (SELECT oid FROM pg_namespace
               WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
SELECT 'schema', nspname::text, nspacl::text, '', ''
  FROM pg_namespace WHERE oid IN (SELECT * FROM mine)
UNION ALL
SELECT 'class', relname, relkind::text || relhastriggers, relacl::text, relfilenode::text
  FROM pg_class WHERE relnamespace IN (SELECT * FROM mine)
UNION ALL
SELECT 'column', attrelid::regclass::text, attname, atttypid::regtype || ' ' || attnotnull,
       pg_get_expr(adbin, adrelid)
  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE relnamespace IN (SELECT * FROM mine) AND attnum > 0
UNION ALL
SELECT 'trigger', tgname, pg_get_triggerdef(t.oid), '', ''
  FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace IN (SELECT * FROM mine)
UNION ALL
SELECT 'function', proname, prosrc, '', '' FROM pg_proc WHERE pronamespace IN (SELECT * FROM mine)
ORDER BY 1, 2, 3, 4, 5
"""


@contextmanager
def new_role(admin_url: str) -> Generator[str]:
    """The name of a fresh role that may log in (its password is its name) and nothing else.

    A database in which it owns or may do anything must be gone when the block ends.
    """
    name = f"standfast_role_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
        sql.Identifier(name), quick_verifier(name)
    )
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(create)
    try:
        yield name
    finally:  # over another connection: the server may have been restarted meanwhile
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def url_as(url: str, role: str, password: str | None = None) -> str:
    """The same database, as another role."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    who = f"{quote(role, safe='')}:{quote(password or role, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{who}@{host}"))
