"""Which backups stay: by rule, and never without a good one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from standfast.admin.backup.creating import create
from standfast.admin.backup.folder import Backup, backups
from standfast.admin.backup.format import Head, Source
from standfast.admin.backup.pruning import Retention, choose, prune
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.engine.embedded import EmbeddedEngine

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def backup(age_h: float, *, reason: str = "asked for", only: list[str] | None = None) -> Backup:
    made = NOW - timedelta(hours=age_h)
    head = Head(
        standfast_backup=1,
        id=f"{made:%Y%m%d-%H%M%S}",
        created_at=made.isoformat(),
        made_by="standfast",
        source=Source("sqlite", "sqlite:///x", "one"),
        snapshot_us=0,
        reason=reason,
        only=only,
    )
    return Backup(path=Path(f"{head.id}.jsonl.gz"), size=1, head=head, known=None)


def kept(found: list[Backup], retention: Retention) -> list[float]:
    """The ages in hours of what stays, youngest first."""
    result = choose(sorted(found, key=lambda each: each.path.name), retention, NOW)
    assert len(result.kept) + len(result.removed) == len(found)
    return sorted((NOW - each.made_at) / timedelta(hours=1) for each, _ in result.kept)


def test_last_daily_weekly_and_monthly() -> None:
    """Hourly backups of 100 days: 3 last ones, 3 days, 2 weeks and 4 months are left."""
    found = [backup(age) for age in range(100 * 24)]
    assert kept(found, Retention(3, 0, 0, 0)) == [0, 1, 2]
    assert kept(found, Retention(1, 3, 0, 0)) == [0, 13, 37]
    assert kept(found, Retention(1, 0, 2, 0)) == [0, 3 * 24 + 13]  # 26 November is a Thursday
    assert kept(found, Retention(1, 0, 0, 4)) == [0, 25 * 24 + 13, 56 * 24 + 13, 86 * 24 + 13]
    assert kept(found, Retention(0, 0, 0, 0)) == [0]


def test_others_are_counted_apart() -> None:
    """A backup of one collection does not take the place of a whole one, and one that was made
    before something was overwritten stays for a week."""
    found = [backup(1, only=["c"]), backup(2), backup(3)]
    found += [backup(4, reason="before the restore of x"), backup(8 * 24, reason="before it")]
    assert kept(found, Retention(1, 0, 0, 0)) == [1, 2, 4]


@pytest.fixture
def three(scratch: Backend, data_dir: Path) -> list[Path]:
    store = Store(EmbeddedEngine(scratch))
    store["c"].put("a", 1)
    return [create(scratch, data_dir).path for _ in range(3)]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-15] ^= 1
    path.write_bytes(data)


def test_a_prune_removes_what_no_rule_keeps(three: list[Path], data_dir: Path) -> None:
    """A dry run removes nothing and says the same."""
    planned = prune(data_dir, Retention(1, 0, 0, 0), dry_run=True)
    assert [each.path for each in planned.removed] == three[:2]
    assert all(path.exists() for path in three)
    done = prune(data_dir, Retention(1, 0, 0, 0))
    assert [each.path for each in done.removed] == three[:2]
    assert [each.path for each in backups(data_dir)] == three[2:]


def test_the_last_good_one_is_never_removed(three: list[Path], data_dir: Path) -> None:
    """If what the rules keep turns out to be damaged, a good one stays beside it."""
    damage(three[2])
    done = prune(data_dir, Retention(1, 0, 0, 0))
    assert [each.path for each in done.removed] == three[:1]
    assert three[1].exists()
    done = prune(data_dir, Retention(1, 0, 0, 0))  # known to be damaged by now: not counted
    assert done.removed == []
    assert {path for path in three if path.exists()} == set(three[1:])
