"""Random moves against a model that knows each document's source.

No document is replaced or dropped unless the policy or the report says so: random files (shared
stems, forms that change), deletions on either side, restores, two databases, two data directories,
rollbacks, runs that are given up, and processes that are killed anywhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import psycopg
import pytest

from standfast.api.opening import backend_for
from standfast.config.settings import parse_url
from support.databases import temporary_database
from support.move_model import Database, Moves

#: In parts that workers can share; the default run has a tenth of them.
SEQUENCES, PARTS = 2000, 10
SEVERAL = [pytest.param(0), *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, PARTS))]
STEPS = 10
#: Files in memory: what a power cut does to them is the subject of other tests.
FAST = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def run_sequences(first: int, count: int) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for seed in range(first, first + count):
        root = Path(tempfile.mkdtemp(prefix="standfast-moves-", dir=FAST))
        urls = [f"sqlite:///{root}/db{number}.db" for number in (0, 1)]
        moves = Moves(root, urls, lambda url: backend_for(parse_url(url)), Random(seed))
        try:
            moves.run(STEPS)
        except BaseException as error:
            error.add_note(f"seed {seed}: {moves.log}")
            raise
        finally:
            shutil.rmtree(root)
        kinds.update(moves.kinds)
    return kinds


def assert_varied(kinds: Counter[str], sequences: int) -> None:
    """A test of random sequences proves nothing if what it is about does not happen in them."""
    for kind in ("migrated", "rolled back", "rollback refused", "restore", "lose", "give up"):
        assert kinds[kind] > sequences // 100, (kind, kinds)


@pytest.mark.process  # it takes seconds
@pytest.mark.parametrize("part", SEVERAL)
def test_no_document_is_replaced_or_dropped_unasked(
    monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """On SQLite: 2,000 random sequences of 10 steps, 200 of them in the default run."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    each = SEQUENCES // PARTS
    assert_varied(run_sequences(part * each, each), each)


class PostgresMoves(Moves):
    """The same on PostgreSQL, where a copy of the database is not made."""

    def lose_rows(self, database: Database) -> None:
        with psycopg.connect(database.url, autocommit=True) as conn:
            if conn.execute("SELECT to_regclass('public.s')").fetchone() != (None,):
                conn.execute("SET session_replication_role = replica")
                conn.execute("DELETE FROM public.s")
                conn.execute("DELETE FROM standfast.tombstones")

    def save(self) -> None:
        """Nothing."""

    restore = save


def test_a_sample_on_postgresql(
    pg_admin_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same guarantee on PostgreSQL."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with temporary_database(pg_admin_url) as one, temporary_database(pg_admin_url) as two:
        for seed in range(6):
            for url in (one, two):
                with psycopg.connect(url, autocommit=True) as conn:
                    conn.execute("DROP TABLE IF EXISTS public.s")
                    conn.execute("DROP SCHEMA IF EXISTS standfast CASCADE")
            root = tmp_path / str(seed)
            root.mkdir()
            moves = PostgresMoves(
                root, [one, two], lambda url: backend_for(parse_url(url)), Random(seed)
            )
            try:
                moves.run(STEPS)
            except BaseException as error:
                error.add_note(f"seed {seed}: {moves.log}")
                raise
