"""A plan against the database: documents, their base, a change of form, who refers to rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from standfast.backends.base import Backend, Form, referenced
from standfast.errors import ConfigError, CorruptData, DataError
from standfast.migrate.compare import CollectionPlan, Policy, compare
from standfast.migrate.plan import Options, Plan, Problem, Source, documents_of
from standfast.migrate.rundir import RunDir, RunState, SourceRecord, all_runs
from standfast.migrate.splitting import WHOLE_KEY
from standfast.system.failpoints import failpoint


def compare_with_database(
    plan: Plan, backend: Backend, options: Options, *, data_dir: Path
) -> None:
    """Compare every document of the plan with the database, and fill in the outcome."""
    for source in plan.sources:
        if source.read.table is not None and backend.display == f"sqlite:///{source.path}":
            raise ConfigError(
                f"{source.path} is the database itself: there is nothing to move",
                code="usage",
                hint="an embedded store reads what it holds already; to move it to PostgreSQL, set"
                " DATABASE_URL and run `standfast promote`",
            )
    earlier = _Earlier(data_dir, backend)
    plan.sources = [_as_before(source, backend) for source in plan.sources]
    collections: dict[str, list[Source]] = {name: [] for name in plan.rows}
    for source in plan.sources:
        collections.setdefault(source.collection, []).append(source)
    for name, sources in collections.items():
        if obstacle := backend.adoptable(name):
            raise ConfigError(
                obstacle,
                code="not_adoptable",
                hint="correct the table, or give the file another collection with --collection",
            )
        lost = backend.lost_table(name)
        if not lost and (problem := _misfit(name, sources, backend)) is not None:
            plan.problems.append(problem)
            plan.sources = [source for source in plan.sources if source.collection != name]
            continue
        compared = _compared(name, sources, backend, options, earlier, lost=lost)
        if (problem := _mixed(compared, sources, backend, options, earlier)) is not None:
            plan.problems.append(problem)
            plan.sources = [source for source in plan.sources if source.collection != name]
            continue
        plan.collections.append(compared)
    failpoint("planned")


def _misfit(name: str, sources: Sequence[Source], backend: Backend) -> Problem | None:
    """A file with a key that the table's key column cannot hold."""
    for source in sources:
        keys = [key for key, _ in source.contents.documents]
        if found := backend.misfits(name, keys):
            error = DataError(
                f"{source.path}: {len(found)} key(s) do not fit into the key column of the table"
                f" `{name}`, as {found[0]!r}",
                code="bad_key",
                hint="give the file another collection with --collection",
            )
            return Problem(source.path, error)
    return None


def _mixed(
    plan: CollectionPlan,
    sources: Sequence[Source],
    backend: Backend,
    options: Options,
    earlier: _Earlier,
) -> Problem | None:
    """A file whose documents would go beside another file's, only since the two are called alike.

    No key need be in both: nothing else would ask.  A name or a policy that was given says that it
    is meant, as does an earlier run of this very file; where keys are in both the conflict asks.
    """
    other = _other_source(plan, backend)
    is_meant = options.on_conflict != "fail" or any(_is_named(each, options) for each in sources)
    if other is None or is_meant or plan.open_conflicts or not plan.writes:
        return None
    if any((name, path) == (plan.collection, plan.source) for _, name, path in backend.moved()):
        return None
    if any(earlier.last_of(source) is not None for source in sources):
        return None  # from where the application was then
    run, path = other
    error = ConfigError(
        f"{plan.source}: collection `{plan.collection}` was filled from another file, {path}, by"
        f" run {run}",
        code="other_file",
        hint="give this file a collection of its own with --name FILE=COLLECTION; if the two are"
        f" the same data, name `{plan.collection}`, or say with --on-conflict which one counts",
    )
    return Problem(sources[0].path, error)


def _is_named(source: Source, options: Options) -> bool:
    """Whether the command itself names the collection of a file, or of its folder."""
    place = source.group or source.path
    named = (name == place.name or Path(name).resolve() == place for name in options.names)
    return options.collection is not None or any(named)


def _compared(
    name: str,
    sources: Sequence[Source],
    backend: Backend,
    options: Options,
    earlier: _Earlier,
    *,
    lost: bool,
) -> CollectionPlan:
    first = sources[0] if sources else None
    plan = CollectionPlan(
        name,
        str(first.group or first.path) if first else "",
        first.contents.form if first else Form(),
        notes=[note for source in sources for note in source.contents.notes],
        remake=lost,
    )
    if lost:
        plan.notes.append(
            "its table is missing, it was dropped: it is made anew, and holds what this file brings"
        )
    policy = Policy(
        on_conflict=options.on_conflict,
        times_us={key: s.mtime_ns // 1000 for s in sources for key, _ in s.contents.documents},
        split_default=options.read.split_default,
        replace_form=options.replace_form,
    )
    base = _Base(earlier, sources)
    documents = [document for source in sources for document in source.contents.documents]
    compare(
        *(plan, documents, () if lost else backend.dump(name), base, policy),
        buried=lambda: backend.buried(name),
        old_form=base.old_form,
        made_by_split=lambda: earlier.left_member(name),
    )
    _note_other_source(plan, backend)
    if not sources and not plan.removed and not plan.updates:
        plan.notes.append(f"there is no row `{WHOLE_KEY}` in it that could be split")
    if plan.removed and (found := backend.references(name, plan.removed)):
        raise referenced(name, found)
    return plan


def _as_before(source: Source, backend: Backend) -> Source:
    """An empty list in a collection of records has no record, whatever field names them."""
    if not source.contents.empty_list or source.read.whole:
        return source
    form = backend.form(source.collection)
    if form.shape not in ("array", "lines") or form.key_field is None:
        return source
    note = f"an empty list: no record of those that `{form.key_field}` names"
    contents = replace(
        source.contents, documents=[], form=Form("array", form.key_field), notes=(note,)
    )
    return replace(source, contents=contents, read=replace(source.read, key_field=form.key_field))


def _note_other_source(plan: CollectionPlan, backend: Backend) -> None:
    """Say whose data a collection holds, when it is another file's."""
    if (other := _other_source(plan, backend)) is not None:
        run, path = other
        plan.notes.append(
            f"this collection was filled from {path} by run {run}: if these are not the same"
            " data, give this file another with --collection NAME"
        )


def _other_source(plan: CollectionPlan, backend: Backend) -> tuple[str, str] | None:
    """The run and the file that filled the collection last, when that is another file."""
    found = backend.moved() if plan.source else ()
    into = ((run, path) for run, name, path in found if name == plan.collection and path)
    last = next(into, None)
    return None if last is None or last[1] == plan.source else last


class _Earlier:
    """The finished runs of this data directory into this database, latest first."""

    def __init__(self, data_dir: Path, backend: Backend) -> None:
        self._data_dir = data_dir
        self._backend = backend
        self._known: dict[str, set[str]] = {}

    @cached_property
    def _runs(self) -> list[tuple[RunDir, RunState]]:
        identity = self._backend.identity()
        found: list[tuple[RunDir, RunState]] = []
        for run_dir in reversed(list(all_runs(self._data_dir))):
            try:
                state = run_dir.load_state()
            except CorruptData:
                continue  # another run's damaged state does not stop this plan
            if state.state == "done" and identity is not None and state.identity == identity:
                found.append((run_dir, state))
        return found

    def last_of(self, source: Source) -> tuple[RunDir, SourceRecord] | None:
        """The last run of this very file into this collection that this database still knows.

        Another file of the same name has none, nor has a run counted that a restored or remade
        database has never seen: then there is no common ground, and the policy decides.
        """
        name = source.collection
        for run_dir, state in self._known_runs(name):
            for record in state.sources:
                if (record.collection, record.path) == (name, str(source.path)):
                    return run_dir, record
        return None

    def left_member(self, name: str) -> bool:
        """Whether a split has made the collection's row `default` out of a member of that name."""
        for run_dir, state in self._known_runs(name):
            splits = any(each.collection == name and each.split_default for each in state.sources)
            changes = run_dir.load_changes().get(name) if splits else None
            if changes is None:
                continue
            written = [each.before.key for each in changes.updated if each.after is not None]
            if WHOLE_KEY in (*changes.inserted, *written):
                return True
        return False

    def _known_runs(self, name: str) -> Iterator[tuple[RunDir, RunState]]:
        if name not in self._known:
            self._known[name] = {run for run, into, _ in self._backend.moved() if into == name}
        return ((run_dir, state) for run_dir, state in self._runs if state.run in self._known[name])


class _Base(Mapping[str, str]):
    """What the last run of the same files brought; read only when it is needed."""

    def __init__(self, earlier: _Earlier, sources: Sequence[Source]) -> None:
        self._earlier = earlier
        self._sources = sources

    @cached_property
    def _last(self) -> list[tuple[Source, RunDir, SourceRecord]]:
        found = [(source, self._earlier.last_of(source)) for source in self._sources]
        return [(source, *last) for source, last in found if last is not None]

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {
            key: text
            for source, run_dir, record in self._last
            if _same_form(source, record)
            for key, text in documents_of(run_dir, [record])
        }

    def old_form(self) -> dict[str, str]:
        """The documents that the same files brought in another form, by key."""
        return {
            key: text
            for source, run_dir, record in self._last
            if not _same_form(source, record)
            for key, text in documents_of(run_dir, [record])
        }

    def __getitem__(self, key: str) -> str:
        return self._texts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _same_form(source: Source, record: SourceRecord) -> bool:
    """Whether a file's documents are named as they were: by members, by a field, or not at all."""
    now, then = source.contents.form, record.form
    parts = (source.read.split, source.read.rest) == (record.split, record.rest)
    return parts and _names(now) == _names(then)


def _names(form: Form) -> object:
    whole = form.shape == "document" or (form.shape == "lines" and form.key_field is None)
    return whole or (form.key_field,)
