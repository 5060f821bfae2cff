"""Databases of one test each, and one that tests use in turn."""

from __future__ import annotations

import atexit
import os
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url

#: The name of the settings that every database of a run of tests has, as an environment variable.
ODD_SERVER = "TEST_ODD_SERVER"
#: Settings of a database that change what statements mean or return, in groups.
ODD_SERVERS: dict[str, dict[str, str]] = {
    "plain": {},
    "strings": {
        "standard_conforming_strings": "off",
        "backslash_quote": "on",
        "escape_string_warning": "off",
        "array_nulls": "off",
        "quote_all_identifiers": "on",
        "transform_null_equals": "on",
    },
    "isolation": {"default_transaction_isolation": "serializable", "row_security": "off"},
    "formats": {
        "bytea_output": "escape",
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "sql_standard",
        "TimeZone": "Asia/Kathmandu",
        "extra_float_digits": "-15",
        "lc_messages": "de_DE.UTF-8",
        "client_min_messages": "error",
    },
    "names": {"search_path": "nowhere, public", "plan_cache_mode": "force_generic_plan"},
    "replica": {"session_replication_role": "replica"},
}

#: The tables of the bookkeeping that are empty where nothing was written.
_EMPTIED = """
SELECT array_agg(c.relname::text)
  FROM pg_class c
 WHERE c.relnamespace = 'standfast'::regnamespace AND c.relkind = 'r'
   AND c.relname NOT IN ('schema_version', 'identity')
"""
_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""
#: A copy would be taken for the database that it is a copy of.
_NEW_HISTORY = sql.SQL(
    "UPDATE standfast.identity SET identity = gen_random_uuid(), created_at = now()"
)
#: All that a test could leave: who the database is, and every object that is not the server's.
_STATE = """
SELECT (SELECT array_agg(i::text) FROM standfast.identity i),
       (SELECT array_agg(v.version) FROM standfast.schema_version v),
       (SELECT array_agg(n.nspname || coalesce(n.nspacl::text, '') ORDER BY n.oid)
          FROM pg_namespace n WHERE n.nspname !~ '^pg_(toast_)?temp'),
       (SELECT sum(c.oid::bigint) FROM pg_class c WHERE c.oid > 16383
           AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_')),
       (SELECT sum(p.oid::bigint) FROM pg_proc p WHERE p.oid > 16383),
       (SELECT sum(t.oid::bigint) FROM pg_trigger t WHERE t.oid > 16383),
       (SELECT array_agg(s.setconfig::text) FROM pg_db_role_setting s JOIN pg_database d
            ON d.oid = s.setdatabase WHERE d.datname = current_database())
"""


#: Where a test is about triggers or foreign keys, which do not act in such sessions.
needs_triggers = pytest.mark.skipif(
    os.environ.get(ODD_SERVER) == "replica", reason="no trigger acts in a session of role replica"
)


def make_odd(admin_url: str, database: str, settings: Mapping[str, str]) -> None:
    """Let every session of a database begin with these settings."""
    for name, value in settings.items():
        # A list of names is not one name in quotes.
        text = sql.SQL(value) if name == "search_path" else sql.Literal(value)  # type: ignore[arg-type]
        alter = sql.SQL("ALTER DATABASE {} SET {} = {}")
        try:
            _execute(admin_url, alter.format(sql.Identifier(database), sql.Identifier(name), text))
        except psycopg.errors.InvalidParameterValue:
            if name != "lc_messages":  # this server speaks English alone
                raise


@contextmanager
def temporary_database(admin_url: str, *, template: str = "template1") -> Generator[str]:
    """The URL of a fresh database, dropped at the end of the block."""
    name = f"standfast_test_{secrets.token_hex(6)}"
    _administer(admin_url, lambda connection: create_database(connection, name, template))
    make_odd(admin_url, name, ODD_SERVERS[os.environ.get(ODD_SERVER, "plain")])
    try:
        yield urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))
    finally:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        _administer(admin_url, lambda connection: connection.execute(drop))


#: The connection of a process to each server that makes and drops databases: kept, since making it
#: costs the server as much as a database.
_KEPT: dict[tuple[int, str], psycopg.Connection[Any]] = {}


def _administer(admin_url: str, work: Callable[[psycopg.Connection[Any]], object]) -> None:
    """Do it over the connection that is kept; over a new one where the server was stopped since."""
    kept = _KEPT.get((os.getpid(), admin_url))
    if kept is not None:
        try:
            work(kept)
            return
        except psycopg.OperationalError:
            if not kept.closed:
                raise
        kept.close()
    fresh = psycopg.connect(admin_url, autocommit=True)
    if not _KEPT:
        atexit.register(_close_kept)
    _KEPT[os.getpid(), admin_url] = fresh
    work(fresh)


def _close_kept() -> None:
    for (pid, _), connection in _KEPT.items():
        if pid == os.getpid():
            connection.close()


def create_database(
    connection: psycopg.Connection[Any], name: str, template: str = "template1"
) -> None:
    """Make a database from a template that nobody is connected to.

    Without fsync the files are copied, which costs the server 7 ms instead of 20 for writing every
    page to its log; with fsync the two checkpoints of a copy cost more than they save.
    """
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    if connection.info.server_version >= 150_000:  # before, there was no other strategy
        shown = connection.execute("SHOW fsync").fetchone()
        if shown == ("off",):
            create += sql.SQL(" STRATEGY file_copy")
    connection.execute(create)


def install_bookkeeping(url: str) -> None:
    """Make what the first open of a store makes in a database, and no table of a collection."""
    backend = PostgresBackend(parse_url(url))
    try:
        backend.install(())
    finally:
        backend.close()


@contextmanager
def prepared_database(admin_url: str, template: str) -> Generator[str]:
    """The URL of a copy of a database with the bookkeeping; its history is its own."""
    with temporary_database(admin_url, template=template) as url:
        _execute(url, _NEW_HISTORY)
        yield url


class Reused:
    """One database for tests that take turns, brought back to what it was in between.

    For tests that reach it by a backend alone: what these leave are tables of collections and rows
    of the bookkeeping. `reset` removes them, and is an AssertionError when anything else remains.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin = psycopg.connect(url, autocommit=True, options="-c lock_timeout=20s")
        (*_, names), *_ = self._admin.execute(_EMPTIED).fetchall()
        self._empty = sql.SQL(";").join(
            sql.SQL("DELETE FROM standfast.{}").format(sql.Identifier(name)) for name in names
        )
        self._clear()
        self._before = self._found()

    def reset(self) -> None:
        """Remove what a test has left; the backends that it used are closed."""
        self._clear()
        found = self._found()
        assert found == self._before, f"a test has left something: {found} and not {self._before}"

    def close(self) -> None:
        self._admin.close()

    def _clear(self) -> None:
        tables = [
            sql.Identifier("public", name) for (name,) in self._admin.execute(_TABLES).fetchall()
        ]
        if tables:
            drop = sql.SQL("DROP TABLE {} CASCADE").format(sql.SQL(", ").join(tables))
            self._admin.execute(drop)
        self._admin.execute(self._empty)
        # What is left of collections that were dropped.
        self._admin.execute("UPDATE standfast.identity SET version_floor = 0")

    def _found(self) -> list[object]:
        return self._admin.execute(_STATE).fetchall()


def _execute(url: str, statement: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
