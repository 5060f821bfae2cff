"""Taking a run back: rows as they were before it, files byte for byte where they were.

One transaction for the rows, then the files one by one; the state on disk tells where a killed
rollback goes on.  Versions of rows never go down, so a restored row has a higher one than before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from holdfast.backends.base import Backend, Change, Image, Load, LoadReport
from holdfast.errors import CorruptData, MigrationError
from holdfast.failpoints import failpoint
from holdfast.files import make_directory, read_regular, sha256, write_atomic
from holdfast.migrate.counting import Tell, silent
from holdfast.migrate.guard import disk_errors, migration_lock, require_same_target
from holdfast.migrate.rundir import CollectionChanges, RunDir, RunState, SourceRecord, find_run

#: Rows and files that a refusal names; beyond them it counts.
MAX_NAMED = 20


@dataclass(slots=True)
class RollbackResult:
    """What a rollback did; `archived` are the files that hold what was discarded."""

    run: str
    rows: int = 0
    files: int = 0
    archived: list[str] = field(default_factory=list[str])
    already: bool = False


def rollback(
    backend: Backend,
    data_dir: Path,
    run: str,
    *,
    discard_newer: bool = False,
    tell: Tell = silent,
) -> RollbackResult:
    """Take a run back; resumable, and a no-op for a run that was taken back already.

    Rows that moved since the run, and files that are there again with another content, are refused
    with MigrationError("moved") before anything is changed; `discard_newer` archives them in the
    run's directory and goes on.
    """
    with migration_lock(data_dir):
        run_dir = find_run(data_dir, run)
        state = run_dir.load_state()
        result = RollbackResult(state.run)
        if state.state == "rolled-back":
            result.already = True
            return result
        require_same_target(backend, state)
        if state.state in ("started", "backed-up") and (
            state.state == "started" or backend.run_record(state.run) is None
        ):
            # Its load was never committed: there are only copies, and the originals are in place.
            run_dir.remove()
            return result
        if state.state == "rolling-back":
            discard_newer = state.discard_newer
        tell("roll back", f"run {state.run} in {backend.display}")
        _refuse_or_archive_files(run_dir, state, discard_newer, result)
        _restore_rows(backend, run_dir, state, discard_newer, result)
        _restore_files(run_dir, state, result)
        state.state = "rolled-back"
        run_dir.save_state(state)
        run_dir.log(f"rolled back: {result.rows} rows, {result.files} files")
        failpoint("state-rolled-back")
        return result


# ---- rows


def _restore_rows(
    backend: Backend, run_dir: RunDir, state: RunState, discard_newer: bool, result: RollbackResult
) -> None:
    record_name = f"{state.run}:rollback"
    if backend.run_record(record_name) is not None:
        return
    record = backend.run_record(state.run)
    if record is None:
        raise CorruptData(
            f"the database knows nothing of run {state.run}, though it was loaded",
            code="went_back",
            hint="was it restored from an older backup? nothing was changed",
        )
    changes = run_dir.load_changes()
    loads: list[Load] = []
    moved: list[tuple[str, str]] = []
    newer: dict[str, list[Image]] = {}
    for collection, each in changes.items():
        keys = each.inserted + [updated.before.key for updated in each.updated]
        present = backend.images(collection, keys)
        found = _moved(present, each, record.loads[collection])
        moved.extend((collection, key) for key in found)
        newer[collection] = [present[key] for key in found if key in present]
        loads.append(Load(collection, None, (), _undo(present, each)))
    if moved and not discard_newer:
        raise _refusal(state.run, [f"`{name}` key {key!r}" for name, key in moved], "row")
    if moved and state.state != "rolling-back":
        kept = run_dir.archive("discarded-rows.json", msgspec.json.encode(newer))
        result.archived.append(str(kept))
    _set_rolling_back(run_dir, state, discard_newer)
    backend.load(record_name, "rolled-back", loads)
    failpoint("rollback-committed")
    result.rows = sum(len(load.changes) for load in loads)


def _moved(
    present: Mapping[str, Image], changes: CollectionChanges, report: LoadReport
) -> list[str]:
    """The rows that are not any more what the run left, deleted ones included."""
    moved = [
        key
        for key in changes.inserted
        if key not in present or present[key].version != report.version_of(key)
    ]
    for updated in changes.updated:
        key = updated.before.key
        if updated.after is None:
            if key in present:
                moved.append(key)
        elif key not in present or present[key].version != report.version_of(key):
            moved.append(key)
    return moved


def _undo(present: Mapping[str, Image], changes: CollectionChanges) -> list[Change]:
    deletes = [Change(key, present[key].version) for key in changes.inserted if key in present]
    restores = [
        Change(
            updated.before.key,
            present[updated.before.key].version if updated.before.key in present else 0,
            image=updated.before,
        )
        for updated in changes.updated
    ]
    return deletes + restores


def _set_rolling_back(run_dir: RunDir, state: RunState, discard_newer: bool) -> None:
    if state.state != "rolling-back":
        state.state = "rolling-back"
        state.discard_newer = discard_newer
        run_dir.save_state(state)
        failpoint("state-rolling-back")


def _refusal(run: str, named: list[str], what: str) -> MigrationError:
    shown = ", ".join(named[:MAX_NAMED]) + (
        f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    )
    return MigrationError(
        f"run {run} was not rolled back: {len(named)} {what}(s) moved since: {shown}",
        code="moved",
        hint="--discard-newer archives what is newer in the run's directory, then rolls back",
    )


# ---- files


def _refuse_or_archive_files(
    run_dir: RunDir, state: RunState, discard_newer: bool, result: RollbackResult
) -> None:
    """Check every copy and every place before anything is changed."""
    newer: list[tuple[SourceRecord, bytes]] = []
    for source in state.sources:
        run_dir.original(source)
        data = _content(Path(source.path))
        if data is not None and sha256(data) != source.sha256:
            newer.append((source, data))
    if newer and not discard_newer:
        raise _refusal(state.run, [source.path for source, _ in newer], "file")
    for source, data in newer:
        with disk_errors("archiving"):
            kept = run_dir.archive(f"discarded-{source.stored}", data)
        result.archived.append(str(kept))


def _content(path: Path) -> bytes | None:
    with disk_errors(f"reading {path}"):
        return read_regular(path)[0] if path.exists() else None


def _restore_files(run_dir: RunDir, state: RunState, result: RollbackResult) -> None:
    for source in state.sources:
        path = Path(source.path)
        with disk_errors(f"restoring {path}"):
            data = _content(path)
            if data is None or sha256(data) != source.sha256:
                if not path.parent.is_dir():
                    make_directory(path.parent)
                write_atomic(
                    path, run_dir.original(source), mode=source.mode, mtime_ns=source.mtime_ns
                )
                result.files += 1
                run_dir.log(f"restored: {path}")
            path.with_name(f".{path.name}.{run_dir.run}.moving").unlink(missing_ok=True)
        failpoint("original-restored")
