"""Every backend of the package passes the public contract, PostgreSQL in each way it is used."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from holdfast.backends.base import Backend
from holdfast.backends.memory import MemoryBackend
from holdfast.backends.postgres import PostgresBackend
from holdfast.backends.sqlite import SqliteBackend
from holdfast.settings import parse_url
from holdfast.testing.contract import BackendContract, make_lane, make_op


class TestMemory(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend()

    def fence(self, backend: Backend, lane: str) -> None:
        assert isinstance(backend, MemoryBackend)
        backend.fence(lane)


class TestSqlite(BackendContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        self.path = tmp_path / "data" / "fallback.db"
        backend = SqliteBackend(self.path)
        yield backend
        backend.close()

    def fence(self, backend: Backend, lane: str) -> None:
        # In another process: two SQLite libraries in one process break each other's locks.
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
            "c.execute(\"UPDATE _holdfast_lanes SET state = 'fenced' WHERE lane = ?\","
            " sys.argv[2:]); c.commit()"
        )
        subprocess.run([sys.executable, "-c", code, self.path, lane], check=True)


class TestPostgres(BackendContract):
    @pytest.fixture
    def backend(self, pg_database: str) -> Iterator[Backend]:
        self.url = pg_database
        backend = PostgresBackend(parse_url(pg_database))
        yield backend
        backend.close()

    def fence(self, backend: Backend, lane: str) -> None:
        with psycopg.connect(self.url) as conn:
            conn.execute("UPDATE holdfast.lanes SET state = 'fenced' WHERE lane = %s", (lane,))


class TestPostgresBehindAPooler(TestPostgres):
    """Without prepared statements and session state, as PgBouncer needs it."""

    @pytest.fixture
    def backend(self, pg_database: str) -> Iterator[Backend]:
        self.url = pg_database
        backend = PostgresBackend(replace(parse_url(pg_database), pooler=True))
        yield backend
        backend.close()
