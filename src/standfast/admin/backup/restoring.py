"""`backup restore` and `backup drill`: a backup's documents back in a database, by plan."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from standfast.admin.backup import folder as folders
from standfast.admin.backup.creating import create
from standfast.admin.backup.format import Counts, Head, Item, Opened, opened
from standfast.admin.backup.transfer import (
    Choice,
    Part,
    Plan,
    execute,
    is_empty,
    plan,
    plan_of_all,
    require_collections,
)
from standfast.backends.base import Backend
from standfast.backends.copying import Stored
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.errors import ConfigError, CorruptData, MigrationError
from standfast.migrate.rundir import new_run_id, now_text
from standfast.migrate.steps import QUIETLY, Progress, Steps, disk_errors, silent
from standfast.system.files import make_directory

_SCRATCH = ".drill"


@dataclass(slots=True)
class RestorePlan:
    """What a restore would do, after every checksum of the backup was found right."""

    path: Path
    head: Head
    counts: Counts
    plan: Plan

    @property
    def has_conflicts(self) -> bool:
        """Whether documents differ, and no side was said to win."""
        return self.plan.count("conflict") > 0


@dataclass(slots=True)
class Restored:
    """What a restore did.

    `run` is None when nothing was written; `safety` is the backup that was made before anything
    was overwritten: restoring that one with `--exact --on-conflict file` takes this back.
    """

    planned: RestorePlan
    run: str | None = None
    safety: Path | None = None

    @property
    def green(self) -> bool:
        """Whether everything that was asked for is done."""
        return not self.planned.has_conflicts


def plan_restore(
    backend: Backend, path: Path, choice: Choice, *, progress: Progress = silent
) -> RestorePlan:
    """Check every checksum of a backup and compare it with a database; nothing is written there.

    Raises CorruptData("damaged_backup", "backup_newer"), and ConfigError when the backup has no
    such collection or document.
    """
    with disk_errors("reading a backup"):
        source = _File(path, progress)
        try:
            if choice.key is None and is_empty(backend, choice.only):
                planned = source.skim(choice)
            else:
                planned = plan(backend, lambda: source.parts(choice, "compare"), choice)
        except CorruptData as error:
            if error.code == "damaged_backup":
                folders.note(path, problem=error.message)
            raise
        folders.note(path, counts=source.counts, verified_at=now_text(), problem="")
    assert source.head is not None, "read with the parts"
    assert source.counts is not None, "read with the parts"
    require_collections(source.counts.collections, choice.only)
    if choice.key is not None and not planned.count(
        *("new", "equal", "replace", "keep", "conflict", "expired")
    ):
        raise ConfigError(
            f"the backup {path} has no document of key {choice.key!r} in"
            f" {', '.join(f'`{name}`' for name in choice.only) or 'any collection'}",
            code="no_such_document",
            hint="look for it: gzip -dc FILE | grep KEY",
        )
    return RestorePlan(path, source.head, source.counts, planned)


def restore(
    backend: Backend,
    data_dir: Path,
    path: Path,
    choice: Choice,
    *,
    confirm: Callable[[RestorePlan], None] = lambda _: None,
    steps: Steps = QUIETLY,
) -> Restored:
    """Bring a backup's documents into a database.

    Value, version, times, expiry and so the order of a document come back as they were; a version
    is higher where this database has already given that one.  All of it is one transaction, which
    is read back and compared before it is committed.  What it overwrites is in a safety backup
    first.  `confirm` sees the plan before anything is written, and may raise to stop.

    Killed anywhere it has done nothing or everything, and run again comes to the same end.  Raises
    what `plan_restore` does, and MigrationError("plan_stale", "not_equal"): nothing was changed.
    """
    steps.announce("plan", f"comparing {path} with {backend.display}")
    planned = plan_restore(backend, path, choice, progress=steps.progress)
    result = Restored(planned)
    if planned.has_conflicts or not planned.plan.writes:
        return result
    confirm(planned)
    reason = f"before the restore of {planned.head.id}"
    result.safety = keep_first(backend, data_dir, planned.plan, reason, steps)
    steps.announce("restore", f"writing {planned.plan.writes} document(s) in one transaction")
    result.run = new_run_id()
    parts = partial(_File(path, steps.progress).parts, choice, "restore", by_line=False)
    with disk_errors("reading a backup"):
        planned.plan = execute(backend, parts, choice, planned.plan, run=result.run)
    return result


def keep_first(
    backend: Backend, data_dir: Path, planned: Plan, reason: str, steps: Steps
) -> Path | None:
    """A backup of the collections in which a plan overwrites something; None where it does not."""
    if not planned.overwritten:
        return None
    made = create(backend, data_dir, only=planned.overwritten, reason=reason, steps=steps)
    return made.path


class _File:
    """A backup as what is brought; `head` and `counts` are known once it was read to its end."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.head: Head | None = None
        self.counts: Counts | None = None
        self._path = path
        self._progress = progress
        self._next: Item | None = None

    def parts(self, choice: Choice, step: str, *, by_line: bool = True) -> Iterator[Part]:
        """Its collections; at the end, every checksum of the file was right.

        Without `by_line` that is known of the whole, at the end: enough where it was read before.
        """
        with opened(self._path, partial(self._progress, step)) as reader:
            self.head = reader.head
            items = reader.items(by_line=by_line)
            self._next = next(items, None)
            while (item := self._next) is not None:
                pages = self._pages(items, choice.key)
                if isinstance(item, Opened) and (not choice.only or item.name in choice.only):
                    yield Part(item.name, item.form, pages)
                for _ in pages:  # what was not asked for is checked too
                    pass
            self.counts = reader.counts

    def skim(self, choice: Choice) -> Plan:
        """The plan where there is nothing to compare with; the whole file is checked."""
        with opened(self._path, partial(self._progress, "verify")) as reader:
            self.head = reader.head
            found = reader.skim()
            self.counts = reader.counts
        assert self.counts is not None, "set at the end"
        counts = self.counts.collections
        return plan_of_all(
            (name, form, counts.get(name, 0))
            for name, form in found
            if not choice.only or name in choice.only
        )

    def _pages(self, items: Iterator[Item], key: str | None) -> Iterator[list[Stored]]:
        for item in items:
            if not isinstance(item, list):
                self._next = item
                return
            yield item if key is None else [row for row in item if row.key == key]
        self._next = None


@dataclass(slots=True)
class Drilled:
    """A backup that was restored into a scratch store, in which every value was compared."""

    path: Path
    compared: int
    expired: int


def drill(data_dir: Path, path: Path, *, steps: Steps = QUIETLY) -> Drilled:
    """Restore a backup into a scratch store and compare every value, expiry and count.

    The scratch store is a SQLite file in the folder of the backups, gone afterwards.  Raises
    CorruptData("damaged_backup") where the backup cannot be restored.
    """
    choice = Choice()
    with folders.locked(data_dir) as place, disk_errors("trying a backup"):
        scratch = place / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        make_directory(scratch)
        backend = SqliteBackend(scratch / "scratch.db")
        try:
            steps.announce("drill", f"restoring {path} into a scratch store")
            planned = plan_restore(backend, path, choice, progress=steps.progress)
            source = _File(path, steps.progress)
            if planned.plan.writes:
                parts = partial(source.parts, choice, "restore", by_line=False)
                execute(backend, parts, choice, planned.plan, run=new_run_id())
            again = plan(backend, lambda: source.parts(choice, "compare"), choice)
        finally:
            backend.close()
            shutil.rmtree(scratch, ignore_errors=True)
    equal, expired = again.count("equal"), again.count("expired")
    if equal + expired != planned.counts.documents or again.writes:
        raise MigrationError(
            f"{path}: {planned.counts.documents - equal - expired} document(s) did not come back"
            " as they are in the backup",
            code="not_equal",
            hint="keep that file, make a new backup, and report it",
        )
    folders.note(path, drilled_at=now_text())
    return Drilled(path, equal, expired)
