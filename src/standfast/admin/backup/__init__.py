"""Backups from Python: what `standfast backup` does, for the database of an app's settings.

`url` and `data_dir` are those of `standfast.open`, with the same defaults.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.config.settings import Settings, load_settings

if TYPE_CHECKING:
    from standfast.admin.backup.creating import Created
    from standfast.admin.backup.folder import Backup, Verified
    from standfast.admin.backup.pruning import Pruned, Retention
    from standfast.admin.backup.restoring import Drilled, Restored
    from standfast.admin.backup.transfer import OnConflict

__all__ = ["backups", "create", "drill", "prune", "restore", "verify"]

_Path = str | os.PathLike[str]


def create(
    url: str | None = None,
    *,
    data_dir: _Path | None = None,
    output: _Path | None = None,
    only: Sequence[str] = (),
) -> Created:
    """Make a backup of all collections, or of `only` these, while others write.

    Raises what `standfast.admin.backup.creating.create` does.
    """
    from standfast.admin.backup.creating import create as work
    from standfast.api.opening import opened_backend

    settings = _settings(url, data_dir)
    path = Path(output) if output is not None else None
    with opened_backend(settings) as backend:
        return work(backend, settings.data_dir, output=path, only=only)


def backups(data_dir: _Path | None = None) -> list[Backup]:
    """The backups of a data directory, oldest first."""
    from standfast.admin.backup.folder import backups as work

    return work(_directory(data_dir))


def verify(path: _Path) -> Verified:
    """Check every checksum of a backup; CorruptData when one is wrong."""
    from standfast.admin.backup.folder import verify as work

    return work(Path(path))


def restore(
    path: _Path,
    url: str | None = None,
    *,
    data_dir: _Path | None = None,
    on_conflict: OnConflict = "fail",
    only: Sequence[str] = (),
    key: str | None = None,
    exact: bool = False,
) -> Restored:
    """Bring a backup's documents into the database, in one transaction.

    With `on_conflict="fail"` nothing is changed where a document differs: look at `green` of the
    result.  `exact` removes documents that are only in the database.  What is overwritten is in the
    result's `safety` backup.  Raises what `standfast.admin.backup.restoring.restore` does.
    """
    from standfast.admin.backup.restoring import restore as work
    from standfast.admin.backup.transfer import Choice
    from standfast.api.opening import opened_backend

    settings = _settings(url, data_dir)
    choice = Choice(on_conflict, tuple(only), key, exact)
    with opened_backend(settings) as backend:
        return work(backend, settings.data_dir, Path(path), choice)


def drill(path: _Path, *, data_dir: _Path | None = None) -> Drilled:
    """Restore a backup into a scratch store and compare every value."""
    from standfast.admin.backup.restoring import drill as work

    return work(_directory(data_dir), Path(path))


def prune(retention: Retention, *, data_dir: _Path | None = None, dry_run: bool = False) -> Pruned:
    """Remove the backups that no rule keeps; never the last good one."""
    from standfast.admin.backup.pruning import prune as work

    return work(_directory(data_dir), retention, dry_run=dry_run)


def _settings(url: str | None, data_dir: _Path | None) -> Settings:
    """The settings, refused where they are not those of the app of this directory."""
    from standfast.api.opening import refuse_other

    settings = load_settings(url, data_dir=data_dir)
    refuse_other(settings)
    return settings


def _directory(data_dir: _Path | None) -> Path:
    return load_settings(None, data_dir=data_dir).data_dir
