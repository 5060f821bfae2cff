"""An app with the least rights: a DBA runs the printed script, a role without login owns the rest.

with app_role(pg_admin_url, pg_database) as app:
    backend = app.backend()         # a PostgresBackend whose missing tables the DBA makes
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, LiteralString, cast

import psycopg
from psycopg import Connection, sql

from standfast.backends.base import Load, LoadReport
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.connection import DeadlineConnection
from standfast.backends.postgres.script import ScriptOptions, script
from standfast.config.settings import Target, parse_url
from support.pg import new_role, url_as

_ONE_DBA = Lock()
#: What a role or a database may have set, and our statements must not depend on.
ODD_SETTINGS: dict[LiteralString, LiteralString] = {
    "search_path": "traps, pg_catalog, public",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kathmandu'",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "quote_all_identifiers": "on",
    "plan_cache_mode": "force_custom_plan",
    "enable_indexscan": "off",
    "client_min_messages": "error",
    "xmloption": "document",
}


@dataclass
class AppRole:
    """A role that may work on one database, and the superuser who runs the scripts for it."""

    name: str
    dba_url: str
    owner: str

    @property
    def url(self) -> str:
        return url_as(self.dba_url, self.name)

    def run_script(
        self, collections: Sequence[str] = (), schema: str = "public", **options: Any
    ) -> None:
        """What a DBA does with the output of `standfast schema sql --role`."""
        made = ScriptOptions(role=self.name, owner=self.owner, **options)
        # One DBA at a time: a script says what was missing when it was printed.
        with _ONE_DBA, psycopg.connect(self.dba_url, autocommit=True) as dba:
            printed = script(dba, schema, collections, made)
            dba.execute("SET search_path = traps, pg_catalog")
            dba.execute(cast(LiteralString, printed))

    def backend(self, *, pooler: bool = False, **options: Any) -> PostgresBackend:
        target = replace(parse_url(f"{self.url}?schema=public"), pooler=pooler)
        return _AppBackend(self, target, **options)

    def make_odd(self) -> None:
        """Let every session of the role begin with odd settings, the traps first in its path."""
        with psycopg.connect(self.dba_url, autocommit=True) as dba:
            for name, value in ODD_SETTINGS.items():
                dba.execute(
                    sql.SQL("ALTER ROLE {} SET {} = {}").format(
                        sql.Identifier(self.name), sql.SQL(name), sql.SQL(value)
                    )
                )


class _AppBackend(PostgresBackend):
    """Calls the DBA for every collection that has no table yet: the app may not make one."""

    def __init__(self, app: AppRole, target: Target, **options: Any) -> None:
        super().__init__(target, **options)
        self._app = app

    def writable(self, conn: Connection[Any], collections: Sequence[str]) -> None:
        self._ask_for(collections)
        super().writable(conn, collections)

    def load(self, run: str, state: str, loads: Sequence[Load]) -> Mapping[str, LoadReport]:
        self._ask_for([load.collection for load in loads])
        return super().load(run, state, loads)

    def _ask_for(self, collections: Sequence[str]) -> None:
        if missing := [name for name in collections if name not in self._tables]:
            self._app.run_script(missing)

    def create_index(self, collection: str, *, deadline: float | None = None) -> None:
        self._app.run_script([collection], indexes=True)
        super().create_index(collection, deadline=deadline)

    def install(self, collections: Sequence[str]) -> None:
        self._app.run_script(collections)
        super().install(collections)

    def _make_handle(self, dedicated: DeadlineConnection) -> PostgresBackend:
        return _AppBackend(
            self._app, self.target, connections=self.connections, dedicated=dedicated
        )


@contextmanager
def app_role(admin_url: str, database_url: str) -> Generator[AppRole]:
    """A fresh app role and a fresh owner; the database is left without either when the block ends.

    Roles are the cluster's: whatever they own in the database has to go before they can.
    """
    with new_role(admin_url) as name:
        owner = f"{name}_owner"
        app = AppRole(name, database_url, owner)
        app.run_script()
        try:
            yield app
        finally:
            with psycopg.connect(database_url, autocommit=True) as dba:
                dba.execute("DROP SCHEMA IF EXISTS standfast CASCADE")
                for role in (name, owner):
                    dba.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
                dba.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(owner)))
