"""Every backend of the package passes the public contract, PostgreSQL in each way it is used.

By default each test of the contract runs on PostgreSQL as the owner, as a role with the least
rights, and in tables of an older program; the first two over one of three kinds of connections,
which take turns (`TURNS`).  `make chaos` runs the rest: all of it over every kind of connection.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import psycopg
import pytest

from contract.suite.backend import BackendContract, make_lane, make_op
from contract.turns import TURNS, has_turn
from standfast.backends.base import Backend, Load
from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import parse_url
from standfast.errors import DataError
from standfast.ops.types import Applied, Observed, Op, Span
from support.roles import AppRole


class TestMemory(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend()


class TestSqlite(BackendContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        backend = SqliteBackend(tmp_path / "data" / "fallback.db")
        yield backend
        backend.close()


class TestPostgres(BackendContract):
    @pytest.fixture
    def backend(self, pg_installed: str) -> Iterator[Backend]:
        backend = PostgresBackend(parse_url(pg_installed))
        yield backend
        backend.close()


class TestPostgresEmpty(TestPostgres):
    """In a database without the bookkeeping: whatever is called first makes it, or does without."""

    @pytest.fixture
    def backend(self, pg_database: str) -> Iterator[Backend]:
        backend = PostgresBackend(parse_url(pg_database))
        yield backend
        backend.close()


class TestPostgresBehindAPooler(TestPostgres):
    """Without prepared statements and session state, as PgBouncer needs it."""

    @pytest.fixture
    def backend(self, pg_installed: str) -> Iterator[Backend]:
        backend = PostgresBackend(replace(parse_url(pg_installed), pooler=True))
        yield backend
        backend.close()


class _Writer:
    """Batches go over a line, one at a time, and tell what they observed, as those of an engine do:
    so plain puts go the short way.  Everything else goes over a pool beside it.

    Where the caller did not ask what was observed, the answer is taken out again.
    """

    def __init__(self, pool: PostgresBackend) -> None:
        self._pool = pool
        self._line = pool.new_handle()
        self._line.connect(time.monotonic() + 60)
        self._directories: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def apply(self, ops: Sequence[Op], *, directory: str | None = None, **how: Any) -> Applied:
        lane = ops[0].lane
        self._directories[lane] = directory or self._directories.get(lane) or make_lane()
        if not self._line.connected:  # the failure of an earlier batch has ended it
            self._line.connect(time.monotonic() + 60)
        applied = self._line.apply(ops, directory=self._directories[lane], **how)
        return applied if directory else msgspec.structs.replace(applied, observed=Observed([]))

    def close(self) -> None:
        self._line.close()
        self._pool.close()


class TestPostgresLine(TestPostgres):
    """Over one connection that was made beforehand, as the engine's threads use it."""

    @pytest.fixture
    def backend(self, pg_installed: str) -> Iterator[Backend]:
        backend = _Writer(PostgresBackend(parse_url(pg_installed)))
        yield cast(Backend, backend)
        backend.close()


class TestPostgresApp(TestPostgres):
    """As a role with the least rights, in a bookkeeping that a role without login owns, in sessions
    that begin with odd settings and look every name up among traps first."""

    may_create = False

    @pytest.fixture
    def backend(self, odd_app: AppRole) -> Iterator[Backend]:
        backend = odd_app.backend()
        yield backend
        backend.close()


class TestPostgresAppBehindAPooler(TestPostgres):
    """The same where no setting of a session outlives its transaction."""

    may_create = False

    @pytest.fixture
    def backend(self, odd_app: AppRole) -> Iterator[Backend]:
        backend = odd_app.backend(pooler=True)
        yield backend
        backend.close()


class TestPostgresAppDedicated(TestPostgres):
    """The same over one connection, as the engine's threads use it."""

    may_create = False

    @pytest.fixture
    def backend(self, odd_app: AppRole) -> Iterator[Backend]:
        backend = _Writer(odd_app.backend())
        yield cast(Backend, backend)
        backend.close()


def test_the_least_rights_do_for_all_of_it() -> None:
    """The whole contract is run under the role that `schema sql --role` makes: nothing of it is
    replaced, skipped or expected to fail there."""
    whole = {name for name in dir(BackendContract) if name.startswith("test_")}
    assert len(whole) > 100
    for lesser in (TestPostgresApp, TestPostgresAppBehindAPooler, TestPostgresAppDedicated):
        for name in whole:
            assert getattr(lesser, name) is getattr(BackendContract, name)
        assert not hasattr(lesser, "pytestmark")


def test_each_test_of_the_contract_has_its_turn_by_default() -> None:
    """Of the classes that differ in their connections one runs it, and every class runs some."""
    whole = sorted(name for name in dir(BackendContract) if name.startswith("test_"))
    assert {each for kinds in TURNS for each in kinds} < globals().keys()
    for kinds in TURNS:
        turns = Counter(kind for name in whole for kind in kinds if has_turn(kind, name))
        assert sum(turns.values()) == len(whole)
        assert min(turns[kind] for kind in kinds) > len(whole) // 5
    assert sum(has_turn("TestPostgresEmpty", name) for name in whole) > len(whole) // 10
    assert all(has_turn(kind, name) for kind in ("TestPostgresAdopted", "Other") for name in whole)


class TestPostgresAdopted(TestPostgres):
    """In tables that an older program made: their key is a bigint under a name of its own."""

    odd_keys = (
        *("0", "-1", "9", "10", "-10", "99", "100", "4294967296"),
        *("9223372036854775807", "-9223372036854775808", "81384788765712384"),
    )

    @pytest.fixture
    def backend(self, pg_installed: str) -> Iterator[Backend]:
        with psycopg.connect(pg_installed) as conn:
            for name in (self.collection, self.other):
                conn.execute(
                    f"CREATE TABLE {name} (guild_id bigint PRIMARY KEY, data jsonb NOT NULL,"
                    " created_at timestamptz NOT NULL DEFAULT now(),"
                    " updated_at timestamptz NOT NULL DEFAULT now())"
                )
        backend = PostgresBackend(parse_url(pg_installed))
        yield backend
        backend.close()

    def test_a_key_that_is_no_bigint_is_refused_alone(self, backend: Backend) -> None:
        """I6: a key that the table cannot hold exactly is refused; its neighbours are written."""
        lane = make_lane()
        keys = ["1", "abc", "", "01", "+1", "1.0", "9223372036854775808", "-0", "2"]
        applied = backend.apply(
            [make_op(lane, seq, "put", key, "1") for seq, key in enumerate(keys, 1)]
        )
        assert [outcome.code for outcome in applied.outcomes] == ["", *["bad_key"] * 7, ""]
        assert self.contents(backend) == {"1": "1", "2": "1"}
        assert backend.read(self.collection, keys).keys() == {"1", "2"}
        assert [row.key for row in backend.scan(self.collection, Span(after="abc"))] == []
        assert backend.images(self.collection, ["abc", "2"]).keys() == {"2"}

    def test_a_load_with_a_key_that_is_no_bigint_writes_nothing(self, backend: Backend) -> None:
        """A run is written whole or not at all, also when one key does not fit the table."""
        load = Load(self.collection, None, [("1", "1"), ("abc", "2")])
        with pytest.raises(DataError) as caught:
            backend.load("run-1", "loaded", [load])
        assert caught.value.code == "bad_key"
        assert self.contents(backend) == {}
        assert backend.run_record("run-1") is None


@pytest.mark.process
def test_only_the_contract_needs_pytest() -> None:
    """All of the package but its plugin for pytest can be imported where pytest is missing."""
    code = (
        "import importlib, pkgutil, sys; sys.modules['pytest'] = None; import standfast\n"
        "for found in pkgutil.walk_packages(standfast.__path__, 'standfast.'):\n"
        "    if found.name.rpartition('.')[2] not in ('__main__', 'pytest_plugin'):\n"
        "        importlib.import_module(found.name); print(found.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"standfast.testing", "standfast.api.sync"} <= set(done.stdout.split())
