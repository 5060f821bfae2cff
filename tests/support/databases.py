"""Databases of one test each."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

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
    with psycopg.connect(admin_url, autocommit=True) as connection:
        create_database(connection, name, template)
    make_odd(admin_url, name, ODD_SERVERS[os.environ.get(ODD_SERVER, "plain")])
    try:
        yield urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))
    finally:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(drop.format(sql.Identifier(name)))


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


def _execute(url: str, statement: sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
