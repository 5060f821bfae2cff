"""Taking a run back: rows as they were before it, files byte for byte where they were; and giving
one up without its database: only the files come back.

One transaction for the rows, then the files one by one; the state on disk says where to
continue a killed rollback.  Versions of rows never go down, so a restored row has a higher one.
Whatever was written since the run is refused or archived, never silently overwritten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from standfast.backends.base import (
    Backend,
    Change,
    Form,
    Image,
    Load,
    LoadReport,
    Reference,
    referenced,
)
from standfast.document.codec import decode
from standfast.document.merge import same_value
from standfast.errors import ConfigError, CorruptData, MigrationError, StandfastError
from standfast.migrate.locking import (
    migration_lock,
    require_same_target,
    surely_refused,
    was_loaded,
)
from standfast.migrate.originals import Originals
from standfast.migrate.plan import documents_of
from standfast.migrate.rundir import (
    CollectionChanges,
    RunDir,
    RunState,
    SourceRecord,
    State,
    all_runs,
    find_run,
    remove_stateless,
)
from standfast.migrate.steps import QUIETLY, Counted, Progress, Steps, counted, disk_errors
from standfast.migrate.verify import Expected
from standfast.system.failpoints import failpoint

#: Rows and files that a refusal names; beyond them it counts.
MAX_NAMED = 20


@dataclass(slots=True)
class RollbackResult:
    """What a rollback did.

    `archived` are the files that hold what was discarded, `notes` what is not as it was.
    """

    run: str
    rows: int = 0
    files: int = 0
    archived: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    already: bool = False


def rollback(
    backend: Backend,
    data_dir: Path,
    run: str,
    *,
    discard_newer: bool = False,
    steps: Steps = QUIETLY,
) -> RollbackResult:
    """Take a run back; resumable, and a no-op for a run that was taken back already.

    Rows that moved since the run, and files that are there again with another content, are refused
    with MigrationError("moved") before anything is changed; `discard_newer` archives them in the
    run's directory and goes on.  Files that the run never took are left as they are.
    """
    with migration_lock(data_dir), disk_errors("rolling back"):
        remove_stateless(data_dir)
        run_dir = find_run(data_dir, run)
        state = run_dir.load_state()
        result = RollbackResult(state.run)
        if state.state == "rolled-back":
            result.already = True
            return result
        require_same_target(backend, state)
        if not was_loaded(backend, state):
            # There are only copies, and the originals are in place.
            run_dir.remove()
            return result
        steps.announce("roll back", f"run {state.run} in {backend.display}")
        undone = [each for each in all_runs(data_dir) if each.run > state.run]
        _Rollback(backend, run_dir, state, discard_newer, result, undone, steps.progress).do()
        return result


class _Rollback:
    """One rollback, of a run whose load was committed."""

    def __init__(
        self,
        backend: Backend,
        run_dir: RunDir,
        state: RunState,
        discard_newer: bool,
        result: RollbackResult,
        later: Sequence[RunDir],
        progress: Progress,
    ) -> None:
        self._backend = backend
        self._run_dir = run_dir
        self._state = state
        self._discard_newer = discard_newer or state.discard_newer
        self._result = result
        self._progress = progress
        self._record_name = f"{state.run}:rollback"
        self._later = [(each, each.load_state()) for each in later]
        self._undone = [each for _, each in self._later if each.state == "rolled-back"]
        self._originals = Originals(run_dir, state, self._undone)
        self._references: dict[str, list[Reference]] = {}

    def do(self) -> None:
        """Check everything, archive what is given up, then the rows, then the files."""
        state, run_dir, result = self._state, self._run_dir, self._result
        for source in state.files:
            run_dir.original(source)
        files = self._originals.newer()
        loads, rows = self._plan_rows()
        if not self._discard_newer:
            self._refuse_shared(loads or ())
        self._refuse_or_archive(files, rows)
        before = state.state
        if state.state != "rolling-back":
            state.state = "rolling-back"
            state.discard_newer = self._discard_newer
            run_dir.save_state(state)
            failpoint("state-rolling-back")
        if loads is not None:
            self._load(loads, before)
            failpoint("rollback-committed")
            result.rows = sum(len(load.changes) for load in loads)
        for source in counted(state.taken, "put files back", len(state.taken), self._progress):
            with disk_errors(f"restoring {source.path}"):
                if not self._originals.put_back(source, discard_newer=self._discard_newer):
                    # It came while the rollback was under way.
                    raise _refusal(state.run, [source.path])
        restored = self._originals.restored
        result.files, result.archived, result.notes = (
            *(restored.files, restored.archived),
            restored.notes,
        )
        run_dir.sweep(state)
        state.state = "rolled-back"
        run_dir.save_state(state)
        run_dir.log(f"rolled back: {result.rows} rows, {result.files} files")
        failpoint("state-rolled-back")

    def _load(self, loads: list[Load], before: State) -> None:
        """Put the rows back; a load that is surely refused leaves the run as it was."""
        try:
            self._backend.load(self._record_name, "rolled-back", loads)
        except StandfastError as error:
            if surely_refused(error):
                self._state.state = before
                self._run_dir.save_state(self._state)
            raise

    def _refuse_or_archive(
        self, files: list[tuple[SourceRecord, bytes]], rows: dict[str, dict[str, Image | None]]
    ) -> None:
        moved = [source.path for source, _ in files]
        moved += [f"`{name}` key {key!r}" for name, each in rows.items() for key in each]
        if moved and not self._discard_newer:
            raise _refusal(self._state.run, moved)
        self._refuse_references()
        for source, data in files:
            self._originals.archive(f"newer-{source.stored}", data)
        if self._references:
            self._originals.archive("referring-rows.json", msgspec.json.encode(self._references))
        newer = {
            name: [image for image in each.values() if image is not None]
            for name, each in rows.items()
        }
        if any(newer.values()):
            self._originals.archive("newer-rows.json", msgspec.json.encode(newer))
        failpoint("newer-archived")

    def _refuse_shared(self, loads: Sequence[Load]) -> None:
        """A document that a later run found equal, in another file, is that file's too."""
        own = {source.path for source in self._state.files}
        for load in loads:
            keys = {change.key for change in load.changes}
            for run_dir, state in self._later:
                if state.state != "done" or state.identity != self._state.identity:
                    continue
                records = [
                    record
                    for record in state.collections.get(load.collection, ())
                    if record.path and record.path not in own
                ]
                with contextlib.suppress(CorruptData):  # the other run's is not this one's matter
                    shared = sorted(keys.intersection(dict(documents_of(run_dir, records))))
                    if shared:
                        raise _shared_refusal(self._state.run, state.run, records[0].path, shared)

    def _refuse_references(self) -> None:
        """Rows of other tables that would go along, or stand in the way, stop the rollback."""
        for name, found in self._references.items():
            if not self._discard_newer:
                hint = (
                    "--discard-newer archives those rows in the run's directory first, then lets"
                    " the foreign key act; or move them yourself"
                )
                raise referenced(name, found, hint)
            blocking = [each for each in found if each.action in ("NO ACTION", "RESTRICT")]
            if blocking:
                raise referenced(name, blocking)

    # ---- rows

    def _plan_rows(self) -> tuple[list[Load] | None, dict[str, dict[str, Image | None]]]:
        """What to load, and the rows that moved since the run; no load when it is done already."""
        backend, run_dir = self._backend, self._run_dir
        if backend.run_record(self._record_name) is not None:
            return None, {}
        record = backend.run_record(self._state.run)
        if record is None:
            if self._discard_newer:
                return None, {}
            raise CorruptData(
                f"the database has no record of run {self._state.run}, though it was loaded",
                code="went_back",
                hint="was it restored from an older backup? nothing was changed;"
                " --discard-newer leaves its rows as they are and puts the files back",
            )
        loads: list[Load] = []
        moved: dict[str, dict[str, Image | None]] = {}
        changes = run_dir.load_changes()
        for name, records in self._state.collections.items():
            if backend.lost_table(name):
                if self._discard_newer:
                    continue
                raise ConfigError(
                    f"the table of collection `{name}` is missing: its rows cannot be taken back",
                    code="no_table",
                    hint="restore it; or put the files back without its rows, with --discard-newer",
                )
            each = changes[name]
            keys = each.inserted + [updated.before.key for updated in each.updated]
            present = backend.images(name, keys)
            expected = Expected(documents_of(run_dir, records), each).texts
            odd = set(backend.inconsistent(name))
            found = _moved(present, each, record.loads[name], expected, self._put_back(name))
            found += [key for key in present if key in odd and key not in found]
            if found:
                moved[name] = {key: present.get(key) for key in found}
            changes_back = Counted(_undo(present, each), f"roll back {name}", self._progress)
            undo = Load(name, self._form(records[0], each), (), changes_back)
            references = backend.references(name, undo.doomed)
            if references:
                self._references[name] = references
                count = sum(len(reference.rows) for reference in references)
                undo = msgspec.structs.replace(undo, referenced=count)
            loads.append(undo)
        return loads, moved

    def _put_back(self, name: str) -> list[LoadReport]:
        """The versions that rollbacks of later runs gave to rows: they are not news."""
        records = [self._backend.run_record(f"{each.run}:rollback") for each in self._undone]
        return [each.loads[name] for each in records if each is not None and name in each.loads]

    def _form(self, source: SourceRecord, changes: CollectionChanges) -> Form | None:
        """The form before the run, unless a later run has given the collection another."""
        return changes.form if self._backend.form(source.collection) == source.form else None


def _moved(
    present: Mapping[str, Image],
    changes: CollectionChanges,
    report: LoadReport,
    expected: Mapping[str, str],
    put_back: Sequence[LoadReport] = (),
) -> list[str]:
    """The rows that are no longer what the run left, deleted ones included.

    Version and content are both looked at: a replication or a session without triggers changes
    rows and leaves their versions.  `put_back` are the versions that rollbacks of later runs gave
    to rows when they restored them to what this run left.
    """
    removed = {each.before.key for each in changes.updated if each.after is None}
    written = changes.inserted + [
        each.before.key for each in changes.updated if each.after is not None
    ]
    moved = [key for key in removed if key in present]
    for key in written:
        image = present.get(key)
        as_left = (
            image is not None
            and image.version
            in (report.version_of(key), *(each.versions.get(key) for each in put_back))
            and _holds(image, expected[key])
        )
        if not as_left:
            moved.append(key)
    return moved


def _holds(image: Image, wanted: str) -> bool:
    found = image.data if image.raw is None else image.raw
    if found == wanted:
        return True
    try:
        return same_value(decode(found), decode(wanted))
    except StandfastError:
        return False


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


def _shared_refusal(run: str, later: str, path: str, keys: list[str]) -> MigrationError:
    return MigrationError(
        f"run {run} was not rolled back: run {later} brought {len(keys)} of its documents too, from"
        f" {path}, such as the one of key {keys[0]!r}",
        code="moved",
        hint=f"roll back run {later} first; or --discard-newer takes them all the same",
    )


def _refusal(run: str, named: list[str]) -> MigrationError:
    shown = ", ".join(named[:MAX_NAMED]) + (
        f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    )
    return MigrationError(
        f"run {run} was not rolled back: {len(named)} row(s) or file(s) changed since: {shown}",
        code="moved",
        hint="--discard-newer archives what is newer in the run's directory, then rolls back",
    )


# ---- giving up


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
