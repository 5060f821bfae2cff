"""Scan and plan: read the files, look at the database, and say what a run would do.

Nothing is written here, neither to the disk nor to the database.
"""

from __future__ import annotations

import contextlib
import shlex
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from standfast.document.names import ENDING, collection_name, derived_name, key_problem, marked_name
from standfast.errors import ConfigError, CorruptData, DataError, StandfastError
from standfast.migrate.compare import CollectionPlan, OnConflict
from standfast.migrate.find_files import Found, LeftOut, find_files
from standfast.migrate.read_file import Contents, ReadOptions, read_contents
from standfast.migrate.recognise import is_database
from standfast.migrate.rundir import RunDir, SourceRecord, all_runs
from standfast.system.failpoints import failpoint
from standfast.system.files import cannot_be_moved, read_regular, sha256

_SIBLINGS = (".bak", ".backup", ".old", ".orig", ".tmp", "~", ".save")
_READ_FIELDS = ReadOptions.__slots__
_LOOKS_LOST = ("empty", "nul_filled", "truncated")


@dataclass(frozen=True, slots=True)
class Options:
    """What a migration was asked to do; the flags of `standfast migrate`.

    `names` are collections by file: its path as it was given, or its name; `exclude` are patterns
    of names or paths that are left out, `lines` such as are JSON Lines.  `each` are folders whose
    files become documents of one collection.  `split` are JSON pointers by file, as in `names`; one
    under the empty name is for the only file.  `replace_form` lets a file that has changed its form
    replace what it brought in the old one.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    collection: str | None = None
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    exclude: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    each: tuple[Path, ...] = ()
    split: Mapping[str, str] = field(default_factory=dict[str, str])
    replace_form: bool = False
    recursive: bool = False
    on_conflict: OnConflict = "fail"
    keep_files: bool = False
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """What one collection gets from one file: its bytes, its state then, and the documents.

    `group` is the folder whose files make up the collection together.
    """

    path: Path
    data: bytes
    sha256: str
    mode: int
    mtime_ns: int
    owner: tuple[int, int]
    folder: tuple[int, int, int]
    collection: str
    contents: Contents
    read: ReadOptions
    group: Path | None = None

    def record(self, stored: str) -> SourceRecord:
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
            folder=self.folder,
            collection=self.collection,
            form=self.contents.form,
            documents=len(self.contents.documents),
            **{name: getattr(self.read, name) for name in _READ_FIELDS},
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that cannot be taken, and why."""

    path: Path
    error: StandfastError


@dataclass(slots=True)
class Plan:
    """What a run would do, file by file; `rows` are collections to split without a file."""

    found: Found
    sources: list[Source] = field(default_factory=list[Source])
    problems: list[Problem] = field(default_factory=list[Problem])
    collections: list[CollectionPlan] = field(default_factory=list[CollectionPlan])
    notes: list[str] = field(default_factory=list[str])
    rows: list[str] = field(default_factory=list[str])

    def documents(self) -> dict[str, list[tuple[str, str]]]:
        """The documents of all files, by collection."""
        found: dict[str, list[tuple[str, str]]] = {name: [] for name in self.rows}
        for source in self.sources:
            found.setdefault(source.collection, []).extend(source.contents.documents)
        return found

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
    found = find_files(
        [*paths, *options.each], recursive=options.recursive, data_dir=data_dir, each=options.each
    )
    found = _without_excluded(found, options.exclude)
    _require_one_file(found, options)
    plan = Plan(found, notes=list(found.notes))
    taken: dict[str, Path] = {}
    keys: dict[tuple[Path, str], Path] = {}
    names = _names(found, options, data_dir)
    for path in found.files:
        try:
            sources = read_sources(path, options, names[path], group=found.groups.get(path))
            # All of a file, or nothing: what is set aside stays where it is, as a whole.
            _require_free(sources, taken, keys)
            taken |= {source.collection.lower(): source.group or path for source in sources}
            plan.sources += sources
        except StandfastError as error:
            plan.problems.append(Problem(path, error))
            continue
    failpoint("scanned")
    return plan


def _require_one_file(found: Found, options: Options) -> None:
    """Refuse what is said of one file where there are several."""
    for flag, given in (("--collection", options.collection), ("--split", options.split.get(""))):
        if given is not None and len(found.files) != 1:
            raise ConfigError(
                f"{flag} is about one file, but {len(found.files)} were found",
                code="usage",
                hint="name one file"
                + (", or say which: --split FILE=POINTER" if flag == "--split" else ""),
            )


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
    return replace(found, files=left, left_out=left_out)


def _names(found: Found, options: Options, data_dir: Path) -> dict[Path, str]:
    """The collection of each file: as asked, as recorded by an earlier run, or derived.

    Where several would get the same derived name, each gets its folder's in front, or two folders',
    or else a checksum of its path behind.  The files of a group have one name, the folder's.
    """
    asked = {**{Path(name).resolve(): to for name, to in options.names.items()}}
    recorded: dict[Path, str] = {}
    for run_dir in all_runs(data_dir):
        with contextlib.suppress(CorruptData):
            for record in run_dir.load_state().sources:
                if record.table is None and record.path and not record.rest:
                    place = Path(record.path)
                    recorded[place if record.key is None else place.parent] = record.collection
    places = dict.fromkeys(found.groups.get(path, path) for path in found.files)
    given = {path: asked.get(path) or options.names.get(path.name) for path in places}
    derived = {path: derived_name(path.name) for path in places if not given[path]}
    derived |= {path: recorded[path] for path in derived if path in recorded}
    for path in _colliding(derived, recorded):
        derived[path] = derived_name(f"{path.parent.name}_{path.name}")
    deeper = {
        path: derived_name("_".join(path.parts[-3:])) for path in _colliding(derived, recorded)
    }
    same = _colliding(deeper)
    for path, name in deeper.items():
        derived[path] = (
            marked_name(derived[path], "/".join(path.parts[-3:])) if path in same else name
        )
    names = {path: given[path] or derived[path] for path in places}
    return {path: names[found.groups.get(path, path)] for path in found.files}


def _colliding(names: Mapping[Path, str], but: Collection[Path] = ()) -> list[Path]:
    """The files whose name another one has too, in letters of any case."""
    taken = Counter(name.lower() for name in names.values())
    return [path for path, name in names.items() if taken[name.lower()] > 1 and path not in but]


def read_sources(
    path: Path, options: Options, name: str | None = None, *, group: Path | None = None
) -> list[Source]:
    """What one file brings to each collection: mostly one, of a SQLite file one for each table.

    It is read once: the bytes that are parsed are the bytes that are backed up.
    """
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
    above = path.parent.stat()
    sources: list[Source] = []
    parts, notes = _parts(path, data, options, collection, group)
    for to, read in parts:
        try:
            contents = read_contents(data, str(path), read)
        except DataError as error:
            if error.code in _LOOKS_LOST:
                error.hint = _sibling_hint(path) or error.hint
            raise
        if read.rest and not contents.documents:
            continue
        sources.append(
            Source(
                path=path,
                data=data,
                sha256=sha256(data),
                mode=stat.S_IMODE(state.st_mode),
                mtime_ns=state.st_mtime_ns,
                owner=(state.st_uid, state.st_gid),
                folder=(stat.S_IMODE(above.st_mode), above.st_uid, above.st_gid),
                collection=to,
                contents=replace(contents, notes=(*notes, *contents.notes)),
                read=read,
                group=group,
            )
        )
        notes = ()
    return sources


def _parts(
    path: Path, data: bytes, options: Options, collection: str, group: Path | None
) -> tuple[list[tuple[str, ReadOptions]], tuple[str, ...]]:
    """The collections that a file becomes, how each is read from it, and notes."""
    read = options.read
    if is_database(data):
        _require_no_log(path)
        from standfast.migrate.tables import table_names  # SQLite's driver: not for --help

        tables, notes = table_names(data, str(path))
        if len(tables) == 1 and (options.collection or options.names):
            return [(collection, replace(read, table=tables[0]))], tuple(notes)
        collections = _table_collections(tables)
        named = [(collections[table], replace(read, table=table)) for table in tables]
        return named, (f"a SQLite file with {len(tables)} table(s) of documents", *notes)
    if group is not None:
        key = ENDING.sub("", path.name)
        if problem := key_problem(key):
            raise DataError(f"{path}: {problem}", code="bad_key", hint="rename the file")
        return [(collection, replace(read, whole=True, key=key))], ()
    if any(fnmatchcase(path.name, each) or path.match(each) for each in options.lines):
        read = replace(read, lines=True)
    pointer = _pointer_of(path, options.split)
    if pointer is None:
        return [(collection, read)], ()
    split = replace(read, split=pointer)
    rest = collection_name(f"{collection}_rest")
    note = f"the object at {pointer} is taken apart; what is outside of it becomes `{rest}`"
    return [(collection, split), (rest, replace(split, rest=True))], (note,)


def _table_collections(tables: Sequence[str]) -> dict[str, str]:
    """The collections that tables become: of the same names where these can be some."""
    named: dict[str, str] = {}
    for table in tables:
        try:
            named[table] = collection_name(table)
        except ConfigError:
            named[table] = derived_name(table)
    taken = Counter(name.lower() for name in named.values())
    return {
        table: marked_name(name, table) if taken[name.lower()] > 1 and name != table else name
        for table, name in named.items()
    }


def _pointer_of(path: Path, split: Mapping[str, str]) -> str | None:
    for name, pointer in split.items():
        if name in ("", path.name) or Path(name).resolve() == path:
            return pointer
    return None


def _require_no_log(path: Path) -> None:
    """Refuse a SQLite file whose latest writes stand in the log beside it."""
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise ConfigError(
            f"{path}: a program has it open, or was killed: its latest writes are in {log.name}",
            code="file",
            hint="stop the program, then run: python -c 'import sqlite3, sys;"
            ' sqlite3.connect(sys.argv[1]).execute("PRAGMA wal_checkpoint(TRUNCATE)")\' '
            f"{shlex.quote(str(path))}",
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


def _require_free(
    sources: Sequence[Source], taken: Mapping[str, Path], keys: dict[tuple[Path, str], Path]
) -> None:
    """Refuse a file whose collection, or whose key in its folder's, another one has already."""
    own: set[str] = set()
    for source in sources:
        name = source.collection.lower()
        other = source.path if name in own else taken.get(name)
        own.add(name)
        if other is not None and (source.group is None or other != source.group):
            raise ConfigError(
                f"{source.path}: its collection `{source.collection}` is that of {other} already",
                code="same_collection",
                hint="give one of them another with --name FILE=COLLECTION",
            )
        if source.group is None:
            continue
        place = (source.group, str(source.read.key))
        other = keys.setdefault(place, source.path)
        if other != source.path:
            raise DataError(
                f"{source.path}: its key in `{source.collection}`, {source.read.key!r}, is that of"
                f" {other} already",
                code="bad_key",
                hint="rename one of them, or leave it out with --exclude",
            )


def documents_of(run_dir: RunDir, records: Sequence[SourceRecord]) -> list[tuple[str, str]]:
    """The documents of files that a run kept, read as they were read then."""
    documents: list[tuple[str, str]] = []
    for record in records:
        if record.path:
            options = ReadOptions(**{name: getattr(record, name) for name in _READ_FIELDS})
            data, name = run_dir.original(record), Path(record.path).name
            documents += read_contents(data, name, options).documents
    return documents
