"""Scan and plan: read the files, look at the database, and say what a run would do.

Nothing is written here, neither to the disk nor to the database.
"""

from __future__ import annotations

import contextlib
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from standfast.backends.base import Backend, referenced
from standfast.document.names import collection_name, derived_name
from standfast.errors import ConfigError, CorruptData, DataError, StandfastError
from standfast.migrate.compare import CollectionPlan, OnConflict, Policy, compare
from standfast.migrate.find_files import Found, LeftOut, find_files
from standfast.migrate.read_file import Contents, ReadOptions, read_contents
from standfast.migrate.rundir import RunDir, SourceRecord, all_runs
from standfast.system.failpoints import failpoint
from standfast.system.files import cannot_be_moved, read_regular, sha256

_SIBLINGS = (".bak", ".backup", ".old", ".orig", ".tmp", "~", ".save")
_LOOKS_LOST = ("empty", "nul_filled", "truncated")


@dataclass(frozen=True, slots=True)
class Options:
    """What a migration was asked to do; the flags of `standfast migrate`.

    `names` are collections by file: its path as it was given, or its name; `exclude` are patterns
    of names or paths that are left out.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    collection: str | None = None
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    exclude: tuple[str, ...] = ()
    recursive: bool = False
    on_conflict: OnConflict = "fail"
    keep_files: bool = False
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One file as it was read: its bytes, its state then, and the documents in it."""

    path: Path
    data: bytes
    sha256: str
    mode: int
    mtime_ns: int
    owner: tuple[int, int]
    collection: str
    contents: Contents

    def record(self, stored: str, read: ReadOptions) -> SourceRecord:
        """What a run keeps about this file."""
        return SourceRecord(
            path=str(self.path),
            stored=stored,
            sha256=self.sha256,
            size=len(self.data),
            mode=self.mode,
            mtime_ns=self.mtime_ns,
            uid=self.owner[0],
            gid=self.owner[1],
            collection=self.collection,
            form=self.contents.form,
            documents=len(self.contents.documents),
            whole=read.whole,
            key_field=read.key_field,
            split_default=read.split_default,
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that cannot be taken, and why."""

    path: Path
    error: StandfastError


@dataclass(slots=True)
class Plan:
    """What a run would do, file by file."""

    found: Found
    sources: list[Source] = field(default_factory=list[Source])
    problems: list[Problem] = field(default_factory=list[Problem])
    collections: list[CollectionPlan] = field(default_factory=list[CollectionPlan])
    notes: list[str] = field(default_factory=list[str])

    @property
    def writes(self) -> int:
        """Rows that would change."""
        return sum(plan.writes for plan in self.collections)

    @property
    def open_conflicts(self) -> int:
        """Documents whose conflict is not decided."""
        return sum(len(plan.open_conflicts) for plan in self.collections)


def scan(paths: Sequence[Path], options: Options, *, data_dir: Path) -> Plan:
    """Read every file; what is wrong with one is a problem of the plan, not an exception.

    Raises ConfigError for paths that lead to no file at all.
    """
    found = find_files(list(paths), recursive=options.recursive, data_dir=data_dir)
    found = _without_excluded(found, options.exclude)
    if options.collection is not None and len(found.files) != 1:
        raise ConfigError(
            f"--collection names one collection, but {len(found.files)} files were found",
            code="usage",
            hint="name one file",
        )
    plan = Plan(found)
    taken: dict[str, Path] = {}
    names = _names(found.files, options, data_dir)
    for path in found.files:
        try:
            source = read_source(path, options, names[path])
            _require_free(source, taken)
        except StandfastError as error:
            plan.problems.append(Problem(path, error))
            continue
        taken[source.collection.lower()] = path
        plan.sources.append(source)
    failpoint("scanned")
    return plan


def _without_excluded(found: Found, patterns: Sequence[str]) -> Found:
    """The files that no pattern leaves out, by their name or by the end of their path."""
    if not patterns:
        return found
    out = [
        path
        for path in found.files
        if any(fnmatchcase(path.name, each) or path.match(each) for each in patterns)
    ]
    left = tuple(path for path in found.files if path not in out)
    left_out = (*found.left_out, *(LeftOut(path, "excluded by --exclude") for path in out))
    return Found(left, left_out, found.from_directory)


def _names(files: Sequence[Path], options: Options, data_dir: Path) -> dict[Path, str]:
    """The collection of each file: as asked, as recorded by an earlier run, or derived.

    Where several would get the same derived name, each gets its folder's in front.
    """
    asked = {**{Path(name).resolve(): to for name, to in options.names.items()}}
    recorded: dict[Path, str] = {}
    for run_dir in all_runs(data_dir):
        with contextlib.suppress(CorruptData):
            for record in run_dir.load_state().sources:
                recorded[Path(record.path)] = record.collection
    given = {path: asked.get(path) or options.names.get(path.name) for path in files}
    derived = {path: derived_name(path.name) for path in files if not given[path]}
    derived |= {path: recorded[path] for path in derived if path in recorded}
    taken = Counter(name.lower() for name in derived.values())
    for path, name in list(derived.items()):
        if taken[name.lower()] > 1 and path not in recorded:
            derived[path] = derived_name(f"{path.parent.name}_{path.name}")
    return {path: given[path] or derived[path] for path in files}


def read_source(path: Path, options: Options, name: str | None = None) -> Source:
    """One file, read once: the bytes that are parsed are the bytes that are backed up."""
    collection = _collection_of(path, options, name)
    try:
        data, state = read_regular(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}",
            code="unreadable",
            hint="correct its mode or owner, or leave it out",
        ) from None
    _require_movable(path, options)
    try:
        contents = read_contents(data, str(path), options.read)
    except DataError as error:
        if error.code in _LOOKS_LOST:
            error.hint = _sibling_hint(path) or error.hint
        raise
    return Source(
        path=path,
        data=data,
        sha256=sha256(data),
        mode=stat.S_IMODE(state.st_mode),
        mtime_ns=state.st_mtime_ns,
        owner=(state.st_uid, state.st_gid),
        collection=collection,
        contents=contents,
    )


def _require_movable(path: Path, options: Options) -> None:
    """Refuse a file that could not be moved away after its documents are stored."""
    why = "" if options.keep_files else cannot_be_moved(path)
    if why:
        raise ConfigError(
            f"{path}: it could not be moved away after the migration: {why}",
            code="disk",
            hint="--keep-files leaves the originals where they are; or correct that first",
        )


def _collection_of(path: Path, options: Options, name: str | None) -> str:
    """The collection that a file becomes; ConfigError when a name that was given cannot be one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path.parent}: the name of the file {path.name!a} is not UTF-8",
            code="bad_name",
            hint="rename the file",
        ) from None
    if options.collection is not None:
        return collection_name(options.collection)
    return collection_name(name or derived_name(path.name))


def _sibling_hint(path: Path) -> str:
    """A file beside a damaged one that may be its last good copy."""
    stems = [path.name, path.stem]
    for candidate in (path.with_name(s + suffix) for s in stems for suffix in _SIBLINGS):
        if candidate.is_file() and candidate.stat().st_size:
            return f"{candidate.name} beside it may be its last good copy: look there first"
    return ""


def _require_free(source: Source, taken: Mapping[str, Path]) -> None:
    other = taken.get(source.collection.lower())
    if other is not None:
        raise ConfigError(
            f"{source.path}: its collection `{source.collection}` is that of {other} already",
            code="same_collection",
            hint="give one of them another with --name FILE=COLLECTION",
        )


def compare_with_database(
    plan: Plan, backend: Backend, options: Options, *, data_dir: Path
) -> None:
    """Compare every document of the plan with the database, and fill in the outcome."""
    for source in plan.sources:
        collection_plan = CollectionPlan(
            source.collection,
            str(source.path),
            source.contents.form,
            notes=list(source.contents.notes),
        )
        obstacle = backend.adoptable(source.collection)
        if obstacle:
            raise ConfigError(
                obstacle,
                code="not_adoptable",
                hint="correct the table, or give the file another collection with --collection",
            )
        policy = Policy(
            on_conflict=options.on_conflict,
            file_time_us=source.mtime_ns // 1000,
            split_default=options.read.split_default,
        )
        base = _LazyBase(data_dir, source, backend)
        compare(
            collection_plan,
            source.contents.documents,
            backend.dump(source.collection),
            base,
            policy,
            lambda name=source.collection: backend.buried(name),
        )
        _note_other_source(collection_plan, source, backend)
        if collection_plan.removed:
            found = backend.references(source.collection, collection_plan.removed)
            if found:
                raise referenced(source.collection, found)
        plan.collections.append(collection_plan)
    failpoint("planned")


def _note_other_source(plan: CollectionPlan, source: Source, backend: Backend) -> None:
    """Say whose data a collection holds, when it is another file's."""
    for run, path in backend.sources(source.collection):
        if path and path != str(source.path):
            plan.notes.append(
                f"this collection was filled from {path} by run {run}: if these are not the same"
                " data, give this file another with --collection NAME"
            )
            return
        if path:
            return


class _LazyBase(Mapping[str, str]):
    """What the last finished run of the same file brought; read only when it is needed."""

    def __init__(self, data_dir: Path, source: Source, backend: Backend) -> None:
        self._where = (data_dir, source, backend)

    @cached_property
    def _texts(self) -> dict[str, str]:
        return _last_brought(*self._where)

    def __getitem__(self, key: str) -> str:
        return self._texts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _last_brought(data_dir: Path, source: Source, backend: Backend) -> dict[str, str]:
    """What this very file held at its last run that this database still knows.

    Another file of the same name has no base here, nor has a run that a restored or remade
    database has never seen: then there is no common ground, and the policy decides.
    """
    identity = backend.identity()
    known = {run for run, _ in backend.sources(source.collection)}
    for run_dir in reversed(list(all_runs(data_dir))):
        try:
            state = run_dir.load_state()
        except CorruptData:
            continue  # another run's damaged state does not stop this plan
        if state.state != "done" or identity is None or state.identity != identity:
            continue
        for record in state.sources:
            here = record.collection == source.collection and record.path == str(source.path)
            if here and state.run in known:
                return dict(documents_of(run_dir, record))
    return {}


def documents_of(run_dir: RunDir, record: SourceRecord) -> list[tuple[str, str]]:
    """The documents of a file that a run kept, read as they were read then."""
    options = ReadOptions(record.whole, record.key_field, record.split_default)
    name = Path(record.path).name
    return read_contents(run_dir.original(record), name, options).documents
