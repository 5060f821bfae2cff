"""`backup prune`: which backups stay.  A pure rule, and its execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from standfast.admin.backup import folder as folders
from standfast.admin.backup.folder import Backup, verify
from standfast.errors import CorruptData
from standfast.limits import SAFETY_BACKUPS_KEPT_S
from standfast.migrate.steps import disk_errors
from standfast.system.failpoints import failpoint
from standfast.system.files import fsync_directory


class Retention(NamedTuple):
    """How many backups stay: the last ones, and the newest of so many days, weeks and months.

    Days, weeks (from Monday on) and months are those of UTC that have a backup.
    """

    last: int = 7
    daily: int = 7
    weekly: int = 5
    monthly: int = 12


@dataclass(slots=True)
class Pruned:
    """What a prune did, or would do: what stays with the reasons for it, and what goes."""

    kept: list[tuple[Backup, str]] = field(default_factory=list[tuple[Backup, str]])
    removed: list[Backup] = field(default_factory=list[Backup])

    @property
    def freed(self) -> int:
        """The bytes of what goes."""
        return sum(each.size for each in self.removed)


def choose(found: Sequence[Backup], retention: Retention, now: datetime) -> Pruned:
    """What stays of these backups, which are in the order of their age, oldest first.

    Backups of the same collections of the same database are counted together.  One that was made
    before something was overwritten stays for a week and is not counted.  What is damaged, or of a
    newer version, is not counted and never removed: a person looks at that.
    """
    result = Pruned()
    groups: dict[object, list[Backup]] = {}
    for each in found:
        if each.head is None or each.problem:
            result.kept.append((each, "not a good one: look at it"))
        elif each.head.reason.startswith("before "):
            if now - each.made_at < timedelta(seconds=SAFETY_BACKUPS_KEPT_S):
                result.kept.append((each, each.head.reason))
            else:
                result.removed.append(each)
        else:
            group = (each.head.source.identity, tuple(each.head.only or ()))
            groups.setdefault(group, []).append(each)
    for group in groups.values():
        reasons = _reasons(group, retention)
        for each in group:
            if each.path in reasons:
                result.kept.append((each, ", ".join(reasons[each.path])))
            else:
                result.removed.append(each)
    result.kept.sort(key=lambda pair: pair[0].path.name)
    result.removed.sort(key=lambda each: each.path.name)
    return result


def _reasons(group: Sequence[Backup], retention: Retention) -> dict[Path, list[str]]:
    """Why each of these stays."""
    reasons: dict[Path, list[str]] = {}
    newest_first = sorted(group, key=lambda each: (each.made_at, each.path.name), reverse=True)
    for each in newest_first[: max(1, retention.last)]:  # the newest stays, whatever is asked for
        reasons.setdefault(each.path, []).append("last")
    periods: tuple[tuple[str, int, Callable[[datetime], object]], ...] = (
        ("daily", retention.daily, lambda at: at.date()),
        ("weekly", retention.weekly, lambda at: at.isocalendar()[:2]),
        ("monthly", retention.monthly, lambda at: (at.year, at.month)),
    )
    for name, count, period in periods:
        seen: dict[object, Backup] = {}
        for each in newest_first:
            seen.setdefault(period(each.made_at.astimezone(UTC)), each)
        for each in list(seen.values())[:count]:
            reasons.setdefault(each.path, []).append(name)
    return reasons


def prune(data_dir: Path, retention: Retention, *, dry_run: bool = False) -> Pruned:
    """Remove the backups that need not stay; with `dry_run`, only say which.

    The last good one is never removed: before anything goes, every checksum of one that stays is
    looked at, the newest first; where none of a database's is good, the newest good one that would
    have gone stays.
    """
    with folders.locked(data_dir), disk_errors("removing backups"):
        found = folders.backups(data_dir)
        result = choose(found, retention, datetime.now(UTC))
        _keep_a_good_one(result)
        if dry_run:
            return result
        for each in result.removed:
            each.path.unlink()
            failpoint("backup-removed")
        if result.removed:
            fsync_directory(folders.folder(data_dir))
    return result


def _keep_a_good_one(result: Pruned) -> None:
    """Make sure of one good backup for each database, and set of collections, that loses some."""
    for group in {_group(each) for each in result.removed}:
        kept = [each for each, _ in result.kept if _group(each) == group]
        if any(map(_is_good, reversed(kept))):
            continue
        for each in reversed([one for one in result.removed if _group(one) == group]):
            if _is_good(each):
                result.removed.remove(each)
                result.kept.append((each, "the last good one"))
                break


def _group(each: Backup) -> object:
    if each.head is None:
        return None
    return (each.head.source.identity, tuple(each.head.only or ()))


def _is_good(each: Backup) -> bool:
    try:
        verify(each.path)
    except CorruptData:
        return False
    return True
