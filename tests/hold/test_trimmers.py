"""Everything that is kept has somebody who trims it, or a reason why it cannot grow (row C2)."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from unittest import mock

import apsw

import standfast
from standfast import limits
from standfast.backends.base import Backend
from standfast.engine import trimming
from standfast.engine.state_machine import Mode
from standfast.system.supervision import Supervisor
from support.hold import wait_direct
from support.pg import Sql

#: Every table, by place.  What trims it and up to which limits; or, in words, why nothing has to.
KEPT: dict[str, dict[str, tuple[str, ...] | str]] = {
    "postgres": {
        "schema_version": "one row for each version of the schema",
        "identity": "one row",
        "collections": "one row for each table",
        "lanes": (
            *("backends.postgres.trim:trim_bookkeeping", "FENCES_KEPT_S", "LAST_LANES_KEPT_S"),
            *("LAST_LANES", "MAX_TRIMMED_ROWS"),
        ),
        "changes": ("backends.postgres.trim:trim_bookkeeping", "CHANGES_KEPT_S", "MAX_CHANGES"),
        "tombstones": ("backends.postgres.trim:trim_bookkeeping", "TOMBSTONES_KEPT_S"),
        "conflicts": "never dropped: a person decides by them",
        "runs": "never dropped: a rollback needs them",
        "(documents)": ("backends.postgres.trim:trim_expired", "EXPIRED_KEPT_S"),
    },
    "fallback.db": {
        "_standfast_identity": "one row",
        "_standfast_use": "one row",
        "_standfast_collections": "one row for each table",
        "_standfast_lanes": ("backends.sqlite.trim:trim_bookkeeping", "FENCES_KEPT_S"),
        "_standfast_changes": ("backends.sqlite.trim:trim_bookkeeping", "CHANGES_KEPT_S"),
        "_standfast_tombstones": ("backends.sqlite.trim:trim_bookkeeping", "TOMBSTONES_KEPT_S"),
        "_standfast_conflicts": "never dropped: a person decides by them",
        "_standfast_runs": "never dropped: a rollback needs them",
        "c": ("backends.sqlite.trim:trim_expired", "EXPIRED_KEPT_S"),
    },
    "journal.db": {
        "meta": "a handful of names",
        "lanes": ("engine.journal:Journal.close_lane",),
        "ops": ("engine.journal:Journal.remove", "MAX_JOURNAL_OPS", "MAX_JOURNAL_BYTES"),
        "totals": "one row",
        "head_totals": "one row",
        "heads": ("engine.journal:Journal.remove", "MAX_JOURNAL_OPS"),
        "losses": "one row for each time that the disk has damaged the file",
    },
    "mirror.db": {
        "meta": "a handful of names",
        "rows": ("engine.mirror_rows:shrink", "MAX_MIRROR_ROWS"),
        "lanes": ("engine.mirror_rows:forget_lane",),
        "retained": ("engine.mirror:Mirror._trim", "RETENTION_S", "MAX_RETAINED_BYTES"),
        "whole": "one row for each collection",
    },
}


def test_every_table_has_a_trimmer(pg_database: str, tmp_path: Path) -> None:
    """C2: whoever adds a table has to say here what keeps it from growing for ever."""
    data = tmp_path / "data"
    with standfast.open(pg_database, data_dir=data) as store:
        wait_direct(store)
        store["c"].put("1", 1)
        with Sql(pg_database) as admin:
            found = admin(
                "SELECT relname FROM pg_class WHERE relkind = 'r'"
                " AND relnamespace = 'standfast'::regnamespace"
            )
        assert {name for (name,) in found} | {"(documents)"} == set(KEPT["postgres"])
    with standfast.open(data_dir=tmp_path / "embedded") as store:
        store["c"].put("1", 1)
    for path in (data / "journal.db", data / "mirror.db", tmp_path / "embedded" / "fallback.db"):
        assert tables(path) == set(KEPT[path.name]), path.name


def tables(path: Path) -> set[str]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
    finally:
        connection.close()
    return {str(name) for (name,) in found}


def test_trimmers_and_limits_exist() -> None:
    """C2: what is named there is there, and each limit is a number."""
    for kept in [kept for place in KEPT.values() for kept in place.values()]:
        if isinstance(kept, str):
            continue
        place, *names = kept
        module, _, name = place.partition(":")
        trims = importlib.import_module(f"standfast.{module}")
        for part in name.split("."):
            trims = getattr(trims, part)
        assert callable(trims), place
        assert all(getattr(limits, name) > 0 for name in names), names


def test_the_trimmer_comes_earlier_where_much_is_written() -> None:
    """C2: what each batch of writes leaves behind is bounded by their number, not by the time."""
    backend = mock.create_autospec(Backend, instance=True)
    backend.trim.return_value = False
    trimmer = trimming.Trimming(backend, lambda: Mode.DIRECT, Supervisor())
    trimmer._schedule(None, time.monotonic() + 600.0)
    with mock.patch.object(trimming, "TRIM_BATCHES", 3):
        for _ in range(2):
            trimmer.wrote([])
        trimmer._piece()
        backend.trim.assert_not_called()
        trimmer.wrote([])
        trimmer._piece()
    backend.trim.assert_called_once()


def test_the_trimmer_lets_the_replay_go_first() -> None:
    """R20: the connection that both need is left to a round of the replay, which has a deadline;
    but not for ever."""
    backend = mock.create_autospec(Backend, instance=True)
    under_way = mock.Mock(return_value=True)
    trimmer = trimming.Trimming(backend, lambda: Mode.DIRECT, Supervisor(), replaying=under_way)
    trimmer._schedule(None, time.monotonic())
    trimmer._piece()
    backend.trim.assert_not_called()
    under_way.return_value = False
    trimmer._piece()
    backend.trim.assert_called_once()
    under_way.return_value = True
    trimmer._rested_at = 0.0
    trimmer._schedule(None, time.monotonic() - trimming._PATIENCE_S)
    trimmer._piece()
    assert backend.trim.call_count == 2
