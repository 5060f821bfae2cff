"""A run, step by step: plan, backup, load, verify, clean up; and how a killed one is finished.

The order makes every step safe to be killed in: originals stay in place until the database has
given every value back, the load is one transaction that holds the run's record, and the state on
disk is replaced atomically after each step.  A run that was killed before its load was committed
has changed nothing and is thrown away; one that was killed later is finished first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from standfast.backends.base import Backend, Change, Load
from standfast.document.names import collection_name
from standfast.errors import ConfigError, MigrationError, StandfastError
from standfast.migrate.against import compare_with_database
from standfast.migrate.compare import CollectionPlan
from standfast.migrate.find_files import Found
from standfast.migrate.locking import (
    migration_lock,
    moved_files,
    require_same_target,
    runs_that_moved,
    server_of,
    surely_refused,
    was_loaded,
)
from standfast.migrate.originals import parked_place, take_away
from standfast.migrate.plan import Options, Plan, scan
from standfast.migrate.rundir import (
    UNFINISHED,
    CollectionChanges,
    RunDir,
    RunState,
    SourceRecord,
    Updated,
    all_runs,
    new_run_id,
    now_text,
    remove_stateless,
    runs_folder,
    stored_names,
)
from standfast.migrate.steps import QUIETLY, Counted, Steps, disk_errors
from standfast.migrate.verify import Verdict, verify_run
from standfast.ops.types import Span
from standfast.system.failpoints import failpoint
from standfast.system.files import move_back

_KEEP_HINT = (
    "everything is stored; correct the rights and run the same command again, or finish the run"
    " with --keep-files, which leaves the originals where they are"
)


@dataclass(slots=True)
class Result:
    """What a migration did.

    `run` is None when there was nothing to do; `resumed` are earlier runs that were finished
    first; `changed_files` are originals that changed under the run and stayed in place, or that
    were written again while they were taken.
    """

    plan: Plan
    run: str | None = None
    verdict: Verdict | None = None
    resumed: list[str] = field(default_factory=list[str])
    changed_files: list[str] = field(default_factory=list[str])
    moved: int = 0

    @property
    def green(self) -> bool:
        """Whether everything that was asked for is done."""
        verified = self.verdict is None or self.verdict.green
        return verified and not self.changed_files and not self.plan.open_conflicts


class Runner:
    """Migrations of one data directory into one database."""

    def __init__(self, backend: Backend, data_dir: Path, *, steps: Steps = QUIETLY) -> None:
        self._backend = backend
        self._data_dir = data_dir
        self._announce, self._progress = steps

    # ---- plan

    def plan(self, paths: Sequence[Path], options: Options) -> Plan:
        """What a run would do now.  Writes nothing anywhere.

        Paths whose files an earlier run has already moved away are notes of the plan and not
        errors: running the same command twice changes nothing.
        """
        self._announce("scan", f"reading {', '.join(map(str, paths))}")
        plan = self._scan(paths, options)
        self._announce(
            "plan", f"comparing {len(plan.sources)} file(s) with {self._backend.display}"
        )
        compare_with_database(plan, self._backend, options, data_dir=self._data_dir)
        return plan

    def _scan(self, paths: Sequence[Path], options: Options) -> Plan:
        rows = [str(path) for path in paths if self._is_split_without_file(path, options)]
        if not rows:
            return self._scan_files(paths, options)
        files = [path for path in paths if str(path) not in rows]
        plan = Plan(Found((), (), False))
        if files or options.each:
            plan = self._scan_files(files, options)
        plan.rows = rows
        return plan

    def _is_split_without_file(self, path: Path, options: Options) -> bool:
        """Whether a collection's row is to be split of which there is no file any more."""
        if not options.read.split_default or path.exists() or path.name != str(path):
            return False
        try:
            return bool(self._backend.scan(collection_name(str(path)), Span(limit=1)))
        except ConfigError:
            return False

    def _scan_files(self, paths: Sequence[Path], options: Options) -> Plan:
        try:
            return scan(paths, options, data_dir=self._data_dir)
        except ConfigError as error:
            if error.code not in ("no_such_file", "no_json"):
                raise
            moved = moved_files(self._data_dir, self._backend.identity())
            plan = Plan(Found((), (), False))
            left: list[Path] = []
            for path in paths:
                runs = runs_that_moved(path, moved)
                if runs:
                    plan.notes.append(f"{path}: already migrated by run {', '.join(runs)}")
                else:
                    left.append(path)
            if not plan.notes:
                raise
            if left:
                rest = scan(left, options, data_dir=self._data_dir)
                rest.notes.extend(plan.notes)
                return rest
            return plan

    # ---- run

    def run(
        self,
        paths: Sequence[Path],
        options: Options,
        *,
        confirm: Callable[[Plan], None] = lambda _: None,
    ) -> Result:
        """Do it.  `confirm` sees the plan before anything is written and may raise to stop."""
        with migration_lock(self._data_dir), disk_errors("migrating"):
            resumed, unfinished = self._finish_earlier_runs(paths, keep_files=options.keep_files)
            if unfinished is not None:
                return unfinished
            plan = self.plan(paths, options)
            result = Result(plan, resumed=resumed)
            if (plan.problems and not options.skip_bad) or plan.open_conflicts:
                return result
            if not plan.collections or not (plan.writes or plan.sources):
                return result
            confirm(plan)
            if not plan.writes and options.keep_files:
                return result
            self._execute(plan, options, result)
            return result

    def _execute(self, plan: Plan, options: Options, result: Result) -> None:
        run_dir = RunDir(runs_folder(self._data_dir) / new_run_id())
        names = stored_names([source.path for source in plan.sources])
        records = [
            source.record(name) for source, name in zip(plan.sources, names, strict=True)
        ] + [SourceRecord.of_rows(name) for name in plan.rows]
        state = RunState(
            run=run_dir.run,
            state="started",
            started_at=now_text(),
            target=self._backend.display,
            identity=self._backend.identity(),
            server=server_of(self._backend),
            data_dir=str(self._data_dir.resolve()),
            sources=records,
            on_conflict=options.on_conflict,
            keep_files=options.keep_files,
            counts=_counts(plan),
        )
        with disk_errors("backing up"):
            run_dir.create()
            failpoint("run-dir")
            try:
                changes = self._back_up(plan, run_dir, state)
            except BaseException:
                _discard(run_dir)
                raise
        self._load(plan, run_dir, state, changes)
        result.run = run_dir.run
        self._finish(run_dir, state, changes, plan.documents(), result)

    def _back_up(
        self, plan: Plan, run_dir: RunDir, state: RunState
    ) -> dict[str, CollectionChanges]:
        """Keep the files' bytes and all that is stored of the rows that will change."""
        self._announce("backup", f"keeping {len(state.files)} file(s) in {run_dir.path}")
        run_dir.save_state(state)
        failpoint("state-started")
        contents = {str(source.path): source.data for source in plan.sources}
        for record in state.files:
            run_dir.save_original(record.stored, contents[record.path], record.mtime_ns)
            failpoint("original-kept")
        run_dir.save_checksums(state.files)
        failpoint("checksums")
        changes = {each.collection: self._changes(each) for each in plan.collections}
        state.changes_sha256 = run_dir.save_changes(changes)
        failpoint("changes-kept")
        state.state = "backed-up"
        run_dir.save_state(state)
        failpoint("state-backed-up")
        for collection, count in state.counts.items():
            run_dir.log(f"plan: {collection}: {count}")
        return changes

    def _changes(self, plan: CollectionPlan) -> CollectionChanges:
        after: dict[str, str | None] = {**dict(plan.updates), **dict.fromkeys(plan.removed)}
        images = self._backend.images(plan.collection, list(after)) if after else {}
        for key, version in plan.expected.items():
            if key not in images or images[key].version != version:
                raise MigrationError(
                    f"collection `{plan.collection}`: the row of key {key!r} changed since the"
                    " plan was made; nothing was written",
                    code="plan_stale",
                    hint="run the same command again: it makes a new plan",
                )
        return CollectionChanges(
            inserted=[key for key, _ in plan.inserts],
            updated=[Updated(images[key], text) for key, text in after.items()],
            kept=plan.kept,
            texts=plan.not_from_file,
            form=self._backend.form(plan.collection),
        )

    def _load(
        self,
        plan: Plan,
        run_dir: RunDir,
        state: RunState,
        changes: Mapping[str, CollectionChanges],
    ) -> None:
        self._announce("load", f"writing {plan.writes} row(s) in one transaction")
        loads = [
            Load(
                each.collection,
                each.form,
                Counted(each.inserts, "load", self._progress),
                [
                    Change(u.before.key, u.before.version, u.after)
                    for u in changes[each.collection].updated
                ],
                each.source,
                remake=each.remake,
            )
            for each in plan.collections
        ]
        failpoint("load-begins")
        try:
            self._backend.load(run_dir.run, "loaded", loads)
        except StandfastError as error:
            # After an error that leaves it open the next run asks what became of the load.
            if surely_refused(error):
                _discard(run_dir)
            raise
        failpoint("load-committed")
        self._set_loaded(run_dir, state)

    def _set_loaded(self, run_dir: RunDir, state: RunState) -> None:
        state.state = "loaded"
        state.identity = self._backend.identity()
        run_dir.save_state(state)
        run_dir.log("loaded: committed")
        failpoint("state-loaded")

    # ---- verify and clean up

    def _finish(
        self,
        run_dir: RunDir,
        state: RunState,
        changes: Mapping[str, CollectionChanges],
        documents: Mapping[str, list[tuple[str, str]]] | None,
        result: Result,
    ) -> None:
        """The part of a run after its load: verify, then move the originals away."""
        # Once originals are being moved the verification was green; the application may write.
        if not state.cleaning and not self._verify(run_dir, state, changes, documents, result):
            return
        if not state.keep_files:
            self._clean_up(run_dir, state, result)
        run_dir.sweep(state)
        state.state = "done"
        run_dir.save_state(state)
        run_dir.log("done")
        failpoint("state-done")

    def _verify(
        self,
        run_dir: RunDir,
        state: RunState,
        changes: Mapping[str, CollectionChanges],
        documents: Mapping[str, list[tuple[str, str]]] | None,
        result: Result,
    ) -> bool:
        self._announce(
            "verify", f"reading back {sum(s.documents for s in state.sources)} document(s)"
        )
        result.verdict = verify_run(
            self._backend, run_dir, state, changes, documents, progress=self._progress
        )
        failpoint("verified")
        if result.verdict.green:
            run_dir.log(f"verified: {result.verdict.compared} values compared, all equal")
            return True
        state.state = "verify-failed"
        run_dir.save_state(state)
        failpoint("state-verify-failed")
        for line in result.verdict.lines():
            run_dir.log(f"verify: {line}")
        return False

    def _clean_up(self, run_dir: RunDir, state: RunState, result: Result) -> None:
        """Take the originals away; those that have changed since the scan stay, and are listed."""
        self._announce("clean up", f"moving {len(state.files)} original(s) to {run_dir.path}")
        state.cleaning = True
        run_dir.save_state(state)
        failpoint("state-cleaning")
        for source in state.files:
            with disk_errors(f"moving {source.path}", hint=_KEEP_HINT):
                outcome = take_away(source, run_dir)
            if outcome == "taken":
                result.moved += 1
                run_dir.log(f"moved: {source.path}")
            else:
                result.changed_files.append(source.path)
                run_dir.log(f"{outcome}: {source.path}")
            if outcome == "changed":
                state.left.append(source.path)
            failpoint("original-moved")

    # ---- runs that were killed

    def _finish_earlier_runs(
        self, paths: Sequence[Path], *, keep_files: bool
    ) -> tuple[list[str], Result | None]:
        """Bring every unfinished run of this data directory to its end.

        `keep_files` ends a run whose originals cannot be moved: they stay where they are.  Without
        it such a run stays unfinished, and stops this one only if it is about one of `paths`.
        Returns the runs that were finished, and the result to give at once when one cannot be.
        """
        finished: list[str] = []
        remove_stateless(self._data_dir)
        for run_dir in list(all_runs(self._data_dir)):
            state = run_dir.load_state()
            if state.state not in UNFINISHED:
                continue
            if state.state == "rolling-back":
                raise MigrationError(
                    f"the rollback of run {state.run} was interrupted",
                    code="rolling_back",
                    hint=f"finish it first: standfast rollback {state.run}",
                )
            if not was_loaded(self._backend, state):
                run_dir.remove()
                continue
            require_same_target(self._backend, state)
            if state.state == "backed-up":
                self._set_loaded(run_dir, state)
            if keep_files:
                _leave_originals(run_dir, state)
            self._announce("resume", f"finishing run {state.run}")
            result = Result(Plan(Found((), (), False)), state.run)
            try:
                self._finish(run_dir, state, run_dir.load_changes(), None, result)
            except ConfigError as error:
                # Its originals stay where they are; other files need not wait for that.
                if error.code != "disk" or _concerns(state, paths):
                    raise
                self._announce("resume", f"run {state.run} is not finished: {error.message}")
                continue
            if not result.green:
                return finished, result
            finished.append(state.run)
        return finished, None


def _concerns(state: RunState, paths: Sequence[Path]) -> bool:
    """Whether any of these paths is a file of the run, or a folder above one."""
    files = {Path(source.path) for source in state.files}
    above = {folder for file in files for folder in file.parents}
    return any(path.resolve() in files | above for path in paths)


def _leave_originals(run_dir: RunDir, state: RunState) -> None:
    """End the run without taking any more originals away; one that was on its way goes back."""
    for source in state.files if state.cleaning else ():
        path = Path(source.path)
        parked = parked_place(path, state.run)
        if os.path.lexists(parked) and not move_back(parked, path):
            continue
        if os.path.lexists(path) and source.path not in state.left:
            state.left.append(source.path)
    state.keep_files = True
    run_dir.save_state(state)


def _discard(run_dir: RunDir) -> None:
    """Remove a run that has changed nothing; where that fails too, the next run does it."""
    with contextlib.suppress(OSError):
        run_dir.remove()


def _counts(plan: Plan) -> dict[str, int]:
    counts = {"new": 0, "changed": 0, "equal": 0, "only in the database": 0}
    for each in plan.collections:
        counts["new"] += len(each.inserts)
        counts["changed"] += len(each.updates)
        counts["equal"] += len(each.equal)
        counts["only in the database"] += each.only_database
    return counts
