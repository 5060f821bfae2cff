"""Which files a migration takes: the paths that were named, and what of a directory is state."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from standfast.document.names import ENDING
from standfast.errors import ConfigError
from standfast.migrate.recognise import is_database, is_ours
from standfast.migrate.rundir import runs_folder

#: Endings of the files that are taken from a directory.
_PLAIN = (".json", ".jsonl", ".ndjson")
SUFFIXES = (*_PLAIN, *(f"{suffix}.gz" for suffix in _PLAIN))
#: Endings under which databases stand beside them.
_DATABASES = (".db", ".sqlite", ".sqlite3", ".db3")

#: A name that is an id: of Discord, or another large number.
_ID = re.compile(r"[0-9]{5,25}")
#: What was left out, as far as an error names it; beyond that it counts.
_MAX_NAMED = 5

_LEFT_OUT_FOLDERS = frozenset(
    "node_modules __pycache__ venv env site-packages dist build target vendor".split()
)
_CONFIGURATION = frozenset(
    """
    package.json package-lock.json npm-shrinkwrap.json tsconfig.json jsconfig.json config.json
    composer.json bower.json lerna.json turbo.json nx.json angular.json nest-cli.json nodemon.json
    deno.json firebase.json vercel.json netlify.json app.json manifest.json renovate.json
    biome.json pyrightconfig.json launch.json tasks.json devcontainer.json babel.config.json
    jest.config.json eslint.config.json appsettings.json
    """.split()
)
_CONFIGURATION_PATTERN = re.compile(r"tsconfig\..*\.json|.*\.config\.json|.*\.schema\.json")
_CREDENTIALS = re.compile(
    r"(^|[^a-z])(credentials?|secrets?|tokens?|passwords?|passwd|api[-_]?keys?|auth|oauth"
    r"|private[-_]?keys?|service[-_]?accounts?|client[-_]secrets?)([^a-z]|$)"
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that was not taken, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The files of one command, in order, what was left out, and whether a folder was searched.

    `groups` are files that become documents of one collection, each with its folder; `notes` are
    proposals.
    """

    files: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    from_directory: bool
    groups: Mapping[Path, Path] = field(default_factory=dict[Path, Path])
    notes: tuple[str, ...] = ()


def find_files(
    paths: list[Path], *, recursive: bool, data_dir: Path, each: Sequence[Path] = ()
) -> Found:
    """The files that `paths` name: a file as it is, a directory by its JSON files.

    The files that stand in a folder of `each` become documents of one collection.

    A directory is taken flat unless `recursive`.  Left out, and listed: the data directory, the
    backups of earlier runs, dot-folders, folders of dependencies, links to directories, well-known
    configuration files and files whose name looks like credentials; naming such a file itself takes
    it.  A link to a file stands for that file.
    Raises ConfigError for a path that does not exist and for directories without any JSON file.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    searched = False
    for path in paths:
        if path.is_dir():
            searched = True
            reason = _backup_reason(path, data_dir)
            if reason:
                left_out.append(LeftOut(path, reason))
            else:
                _search(path, recursive, data_dir, files, left_out)
        elif path.exists():
            files.append(path)
        else:
            link = f" (a link to {os.readlink(path)})" if path.is_symlink() else ""
            raise ConfigError(
                f"no such file or directory: {path}{link}",
                code="no_such_file",
                hint="check the path; relative ones start at the current directory",
            )
    unique = list(dict.fromkeys(file.resolve() for file in files))
    if not unique:
        raise ConfigError(
            f"no JSON files in {', '.join(str(path) for path in paths)}{_named(left_out)}",
            code="no_json",
            hint="name the files themselves, or descend with --recursive",
        )
    folders = {folder.resolve() for folder in each}
    groups = {file: file.parent for file in unique if file.parent in folders}
    notes = tuple(_proposals(unique, groups))
    return Found(tuple(unique), tuple(left_out), searched, groups, notes)


def _proposals(files: Sequence[Path], groups: Mapping[Path, Path]) -> Iterator[str]:
    """Folders whose files are named by ids, as one for each guild: they could be one collection."""
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    for folder, found in folders.items():
        named = [file for file in found if _ID.fullmatch(ENDING.sub("", file.name))]
        if folder not in groups.values() and len(named) > 1 and len(named) == len(found):
            yield (
                f"the {len(found)} files of {folder} are named by ids: --each {folder} makes one"
                " collection of them, with a document for each"
            )


def _named(left_out: list[LeftOut]) -> str:
    """What was left out, for an error in whose place no plan is shown."""
    if not left_out:
        return ""
    named = [f"{each.path} ({each.reason})" for each in left_out[:_MAX_NAMED]]
    more = len(left_out) - _MAX_NAMED
    return "; left out: " + ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _search(
    folder: Path, recursive: bool, data_dir: Path, files: list[Path], left_out: list[LeftOut]
) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(
            f"cannot read directory {folder}: {error.strerror}",
            code="unreadable",
            hint="correct its mode or owner",
        ) from None
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            reason = _folder_reason(path, data_dir)
            if reason:
                left_out.append(LeftOut(path, reason))
            elif recursive:
                _search(path, recursive, data_dir, files, left_out)
            elif count := len(_json_files(path)):
                what = f"{count} JSON file(s) in it: --recursive takes them, --each {path} makes"
                left_out.append(LeftOut(path, f"a folder; {what} one collection of them"))
        elif path.is_dir():  # not the entry's, which raises for a link to itself
            if recursive:
                left_out.append(LeftOut(path, "a link to a directory"))
        elif entry.name.lower().endswith(SUFFIXES):
            reason = file_reason(entry.name)
            if not reason and entry.is_symlink() and not path.exists():
                reason = "a link to a file that does not exist"
            if reason:
                left_out.append(LeftOut(path, reason))
            else:
                files.append(path)
        elif entry.name.lower().endswith(_DATABASES) and (what := _database(path)):
            left_out.append(LeftOut(path, what))


def _json_files(folder: Path) -> list[str]:
    """The names of the JSON files that stand in a folder, and are not left out."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return []
    return [name for name in names if name.lower().endswith(SUFFIXES) and not file_reason(name)]


def _database(path: Path) -> str:
    """What to say of a SQLite file, by its content; nothing of one of standfast's own."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return ""
    if not is_database(head) or is_ours(head):
        return ""
    return f"a SQLite database; if a bot keeps its state in it: standfast migrate {path}"


def _folder_reason(path: Path, data_dir: Path) -> str:
    if path.resolve() == data_dir.resolve():
        return "the data directory" + _foreign_content(path)
    if path.name.startswith("."):
        return "a dot-folder"
    if path.name in _LEFT_OUT_FOLDERS:
        return "a folder of dependencies or builds"
    return _backup_reason(path, data_dir)


def _foreign_content(data_dir: Path) -> str:
    """What of the data directory is not ours: an application may use the same folder."""
    found = [str(data_dir / name) for name in sorted(_json_files(data_dir))]
    found += [str(path) for path in sorted(data_dir.glob("*.db")) if _database(path)]
    if not found:
        return ""
    named = ", ".join(found[:_MAX_NAMED])
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return f"; in it is what standfast did not write: name it to move it: {named}{more}"


def _backup_reason(path: Path, data_dir: Path) -> str:
    """Whether a folder belongs to earlier runs: what they keep must not be migrated again."""
    backups = runs_folder(data_dir).resolve()
    place = path.resolve()
    return "the backups of earlier runs" if place == backups or backups in place.parents else ""


def file_reason(name: str) -> str:
    """Why a file of a directory is not taken; empty when it is."""
    lower = name.lower()
    if name.startswith("."):
        return "a dot-file"
    if lower in _CONFIGURATION or _CONFIGURATION_PATTERN.fullmatch(lower):
        return "a well-known configuration file"
    if _CREDENTIALS.search(lower.rsplit(".", 1)[0]):
        return "its name looks like credentials"
    return ""
