"""Giving a run up without its database: the originals come back, what it stored stays there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from standfast.errors import ConfigError
from standfast.migrate.locking import migration_lock
from standfast.migrate.originals import Originals
from standfast.migrate.rundir import find_run
from standfast.migrate.steps import disk_errors


@dataclass(slots=True)
class Abandoned:
    """What became of a run that was given up: its originals, and those that were left alone."""

    run: str
    files: int = 0
    kept: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    already: bool = False


def abandon(data_dir: Path, run: str) -> Abandoned:
    """Give a run up: for one that cannot be ended otherwise, because its database is gone.

    No database is asked or changed: what the run stored stays stored, wherever that is.  Originals
    that the run has taken come back where nothing stands in their place; what stands there stays.
    The run's directory keeps its copies.  Resumable; a no-op for a run that was given up already.
    """
    with migration_lock(data_dir), disk_errors("giving the run up"):
        run_dir = find_run(data_dir, run)
        state = run_dir.load_state()
        result = Abandoned(state.run)
        if state.state == "abandoned":
            result.already = True
            return result
        if state.state == "rolled-back":
            raise ConfigError(
                f"run {state.run} was rolled back: there is nothing to give up",
                code="state",
                hint="`standfast runs` shows the state of each run",
            )
        if state.state == "started":
            run_dir.remove()
            return result
        originals = Originals(run_dir, state)
        for source in state.taken:
            run_dir.require_original(source)
        for source in state.taken:
            if not originals.put_back(source, discard_newer=False):
                result.kept.append(source.path)
        result.files = originals.restored.files
        result.notes = originals.restored.notes
        run_dir.sweep(state)
        state.state = "abandoned"
        run_dir.save_state(state)
        run_dir.log(f"abandoned: {result.files} files restored, {len(result.kept)} left alone")
        return result
