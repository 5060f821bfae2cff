"""`promote`: everything from the embedded SQLite database to PostgreSQL, and back.

One transaction on the side that gets the documents, compared before it is committed, while the side
that gives them is closed to writers.  Only then the files that would be in the way are moved aside,
where they are kept.  Killed anywhere, the same command again comes to the same end: what was copied
is found equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from standfast.admin.backup.databases import closed_to_others
from standfast.admin.backup.restoring import keep_first
from standfast.admin.backup.transfer import Choice, Plan, execute, parts_of, plan
from standfast.admin.data_dir import look
from standfast.api.opening import backend_for, embedded_path
from standfast.backends.base import Backend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import Settings
from standfast.engine import journal, mirror, snapshot
from standfast.errors import ConfigError, MigrationError, Unavailable
from standfast.migrate.locking import migration_lock
from standfast.migrate.rundir import new_run_id
from standfast.migrate.steps import QUIETLY, Steps, disk_errors
from standfast.system.failpoints import failpoint
from standfast.system.files import fsync_directory, make_directory

FOLDER = "promoted"


@dataclass(slots=True)
class Promoted:
    """What was moved.

    `run` is None when every document was there already; `safety` is the backup that was made
    before anything was overwritten; `kept` are the files that were moved aside.
    """

    source: str
    target: str
    plan: Plan
    run: str | None = None
    safety: Path | None = None
    kept: list[Path] = field(default_factory=list[Path])

    @property
    def green(self) -> bool:
        """Whether everything that was asked for is done."""
        return not self.plan.count("conflict")


def promote(
    settings: Settings,
    choice: Choice,
    *,
    back: bool = False,
    dry_run: bool = False,
    confirm: Callable[[Promoted], None] = lambda _: None,
    steps: Steps = QUIETLY,
) -> Promoted:
    """Move every document of the data directory's embedded database to the PostgreSQL database of
    these settings; with `back`, the other way round.

    Value, version, times, expiry and order come along.  The side that gives is closed to writers
    meanwhile, and refused while the app of this directory runs.  Afterwards its files are moved to
    `promoted/` in the data directory, so that the app opens the other side: set DATABASE_URL then,
    or unset it.  Documents stay in PostgreSQL when it gives.

    Raises ConfigError("no_primary"), Unavailable("locked") while the app runs,
    MigrationError("pending_writes", "plan_stale", "not_equal", "referenced").
    """
    if settings.target.kind != "postgresql":
        raise ConfigError(
            "promote moves documents between SQLite and PostgreSQL, and no URL names a PostgreSQL",
            code="no_primary",
            hint="give --to postgresql://..., or set DATABASE_URL",
        )
    _require_at_rest(settings.data_dir)
    embedded = SqliteBackend(embedded_path(settings))
    primary = backend_for(settings.target)
    source, target = (primary, embedded) if back else (embedded, primary)
    try:
        with migration_lock(settings.data_dir), disk_errors("promoting"):
            primary.check()
            result = _move(
                *(source, target, settings.data_dir, choice),
                dry_run=dry_run,
                confirm=confirm,
                steps=steps,
            )
            if back and result.green and not dry_run:
                names = (mirror.FILE, journal.FILE, snapshot.FOLDER)
                _move_aside(settings.data_dir, names, result)
        return result
    finally:
        embedded.close()
        primary.close()


def _require_at_rest(data_dir: Path) -> None:
    """Raise while the app of this directory runs, or has acknowledged what PostgreSQL has not."""
    local = look(data_dir)
    if local.alive:
        raise Unavailable(
            f"the app that uses {data_dir} is running",
            code="locked",
            hint="stop it first; nothing was changed",
        )
    if local.ops:
        raise MigrationError(
            f"{local.ops} write(s) in {data_dir} wait for PostgreSQL; nothing was changed",
            code="pending_writes",
            hint="send them first: standfast journal drain",
        )


def _move(
    source: Backend,
    target: Backend,
    data_dir: Path,
    choice: Choice,
    *,
    dry_run: bool,
    confirm: Callable[[Promoted], None],
    steps: Steps,
) -> Promoted:
    steps.announce("plan", f"comparing {source.display} with {target.display}")
    with closed_to_others(source) as here:
        failpoint("promote-closed")
        planned = plan(target, lambda: parts_of(here, choice), choice)
        result = Promoted(source.display, target.display, planned)
        if dry_run or not result.green:
            return result
        confirm(result)
        if planned.writes:
            reason = f"before everything came from {source.kind}"
            result.safety = keep_first(target, data_dir, planned, reason, steps)
            steps.announce("promote", f"writing {planned.writes} document(s) in one transaction")
            result.run = new_run_id()
            execute(target, lambda: parts_of(here, choice), choice, planned, run=result.run)
        failpoint("promote-copied")
        if isinstance(source, SqliteBackend) and here.collections():
            # Still closed: whoever waits to write finds the file gone, and acknowledges nothing.
            _move_aside(data_dir, (source.path.name,), result)
    return result


def _move_aside(data_dir: Path, names: Sequence[str], result: Promoted) -> None:
    """Move files of the data directory to where they are kept, with what belongs to them."""
    every = [f"{name}{ending}" for name in names for ending in ("", "-wal", "-shm", "-journal")]
    there = [data_dir / name for name in every if (data_dir / name).exists()]
    if not there:
        return
    place = data_dir / FOLDER / (result.run or new_run_id())
    make_directory(place)
    for path in there:
        os.rename(path, place / path.name)
        result.kept.append(place / path.name)
        failpoint("promote-moved")
    fsync_directory(place)
    fsync_directory(data_dir)
