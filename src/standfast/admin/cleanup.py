"""`cleanup`: what is no longer needed goes, by rules with numbers; documents only by a filter.

What the database keeps of the past for its own sake (expired documents, tombstones, closed lanes,
the log of changes) is trimmed by its writers, and here by the same rules; what a person may still
want to look at stays for longer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from standfast.admin.backup.creating import create
from standfast.admin.backup.databases import filling, snapshot
from standfast.admin.backup.pruning import Retention, prune
from standfast.admin.backup.transfer import limited_to
from standfast.admin.promote import FOLDER as PROMOTED
from standfast.backends.base import Backend
from standfast.backends.copying import PAGE_ROWS, Stored, Writing
from standfast.backends.sqlite import conflicts as sqlite_conflicts
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.engine.journal import DISCARDED
from standfast.limits import CONFLICTS_KEPT_S, KEPT_FILES_S, RUNS_KEPT_S
from standfast.migrate.locking import migration_lock
from standfast.migrate.rundir import UNFINISHED, all_runs, new_run_id
from standfast.migrate.steps import disk_errors
from standfast.system.failpoints import failpoint

#: Files of the data directory that are kept for a person: writes that were given up, damaged files.
_KEPT_FILES = (DISCARDED, "*.damaged-*")


class Removed(msgspec.Struct, frozen=True):
    """What a rule removes: a file, a directory, or rows; `size` in bytes or rows.

    `left_to`: the role of the database that may remove it; it was left, since ours may not.
    """

    rule: str
    what: str
    size: int
    left_to: str | None = None


class DocumentFilter(msgspec.Struct, frozen=True):
    """Documents of one collection that were not changed for so many days."""

    collection: str
    older_than_days: float
    prefix: str = ""

    def matches(self, row: Stored, now_us: int) -> bool:
        """Whether a document is meant; one without a time of its last change is not."""
        if row.updated_us is None or not row.key.startswith(self.prefix):
            return False
        return row.updated_us < now_us - int(self.older_than_days * 86_400e6)


def cleanup(
    backend: Backend,
    data_dir: Path,
    *,
    documents: DocumentFilter | None = None,
    retention: Retention | None = None,
    dry_run: bool = False,
) -> list[Removed]:
    """Remove what the rules say; with `dry_run`, only say what that is.

    - runs of `migrate` that ended, or were rolled back, 180 days ago: their kept originals;
    - writes that were given up, damaged files that were set aside, and files that `promote` moved
      aside, after 90 days;
    - conflicts that were resolved 90 days ago; on PostgreSQL only their owner may;
    - backups that `prune` would remove;
    - what the writers of the database trim as well: see `Backend.trim`;
    - documents, by this filter alone: after a backup of their collection was made.

    Killed anywhere, the same call again removes the rest.
    """
    removed: list[Removed] = []
    with migration_lock(data_dir), disk_errors("cleaning up"):
        for rule, path, remove in [*_old_runs(data_dir), *_old_files(data_dir)]:
            removed.append(Removed(rule, str(path.relative_to(data_dir)), _size(path)))
            if not dry_run:
                remove()
                failpoint("cleanup-removed")
        pruned = prune(data_dir, retention or Retention(), dry_run=dry_run)
        removed += [Removed("backups", each.path.name, each.size) for each in pruned.removed]
        count, left_to = _forget_conflicts(backend, dry_run=dry_run)
        if count:
            removed.append(Removed("conflicts", "resolved conflicts", count, left_to))
        if not dry_run:
            _trim(backend)
        if documents is not None:
            count = _remove_documents(backend, data_dir, documents, dry_run=dry_run)
            what = f"documents of `{documents.collection}`"
            removed += [Removed("documents", what, count)] if count else []
    return removed


_Removal = tuple[str, Path, Callable[[], object]]


def _old_runs(data_dir: Path) -> Iterator[_Removal]:
    for run_dir in list(all_runs(data_dir)):
        state = run_dir.load_state()
        ended = datetime.fromisoformat(state.updated_at or state.started_at).timestamp()
        if state.state not in UNFINISHED and time.time() - ended > RUNS_KEPT_S:
            yield "runs", run_dir.path, run_dir.remove


def _old_files(data_dir: Path) -> Iterator[_Removal]:
    found = [path for pattern in _KEPT_FILES for path in data_dir.glob(pattern)]
    found += (data_dir / PROMOTED).glob("*")
    for path in sorted(found):
        if path.is_symlink() or time.time() - path.stat().st_mtime <= KEPT_FILES_S:
            continue
        if path.is_dir():
            yield "files", path, lambda path=path: shutil.rmtree(path)
        else:
            yield "files", path, path.unlink


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def _trim(backend: Backend) -> None:
    """What writers trim in the background, all of it now, a bounded number of rows at a time."""
    for name in (None, *backend.collections()):
        if name is not None:
            backend.read(name, [""])  # only tables that were looked at here are trimmed
        while backend.trim(name):
            pass


def _forget_conflicts(backend: Backend, *, dry_run: bool) -> tuple[int, str | None]:
    """Conflicts that were resolved so long ago: how many, and whose they are if not ours."""
    if isinstance(backend, SqliteBackend):
        if backend.identity() is None:
            return 0, None
        before_us = time.time_ns() // 1000 - int(CONFLICTS_KEPT_S * 1e6)
        with backend.writing("removing resolved conflicts") as conn:
            return sqlite_conflicts.forget(conn, before_us, dry_run=dry_run), None
    from standfast.backends.postgres import conflicts as postgres_conflicts
    from standfast.backends.postgres.backend import PostgresBackend

    if not isinstance(backend, PostgresBackend) or backend.identity() is None:
        return 0, None
    with backend.connection("removing resolved conflicts") as conn:
        owner = postgres_conflicts.owner(conn)
        look = dry_run or owner is not None
        return postgres_conflicts.forget(conn, CONFLICTS_KEPT_S, dry_run=look), owner


def _remove_documents(
    backend: Backend, data_dir: Path, chosen: DocumentFilter, *, dry_run: bool
) -> int:
    """Remove documents in one transaction; what was changed since the backup is not meant."""
    name = chosen.collection
    with snapshot(backend) as there:
        limited_to(there.collections(), [name])
        count = sum(chosen.matches(row, there.taken_us) for row in there.rows(name))
    if dry_run or not count:
        return count
    create(backend, data_dir, only=[name], reason=f"before a cleanup of {name}")
    count = 0
    with filling(backend, new_run_id(), "cleaned-up", [name]) as work:
        doomed: list[Writing] = []
        for row in work.before(name):
            if chosen.matches(row, work.now_us):
                doomed.append(Writing(row.key, None, row.version))
            if len(doomed) == PAGE_ROWS:
                work.write(name, doomed)
                count, doomed = count + len(doomed), []
        if doomed:
            work.write(name, doomed)
    return count + len(doomed)
