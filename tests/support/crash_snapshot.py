"""Everything that a migration may touch, as values that can be compared."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from standfast.migrate.export import export_lines
from support.crash_files import COLLECTIONS
from support.crash_world import World

_RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]+")
#: What tells when or where, and so differs between two runs that did the same.
_VOLATILE = ("run", "started_at", "updated_at", "target", "identity", "server", "checksum")


class Kept(NamedTuple):
    """What is stored of a row but for its version and its times."""

    data: str
    raw: str | None
    expires_us: int | None


class File(NamedTuple):
    """A file's content, mode and time of modification."""

    data: bytes
    mode: int
    mtime_ns: int


@dataclass(frozen=True)
class Snapshot:
    """A world at one moment.

    Rows are the live ones, by collection and key; `tombstones` by the same, with their version;
    `tree` is the path of every file and directory, with RUN for the runs' ids; `states` what the
    runs say of themselves.
    """

    rows: dict[tuple[str, str], Kept]
    versions: dict[tuple[str, str], int]
    times: dict[tuple[str, str], tuple[int, int]]
    tombstones: dict[tuple[str, str], int]
    exports: dict[str, str]
    files: dict[str, File]
    tree: list[str]
    states: list[dict[str, Any]]
    backups: dict[str, File]

    def litter(self) -> list[str]:
        """What no command may leave behind."""
        return [name for name in self.tree if name.endswith((".tmp", ".moving", ".restoring"))]

    def outcome(self, *, written: set[tuple[str, str]]) -> dict[str, Any]:
        """All that must be equal after two ways to the same end; `written` rows have new times."""
        return {
            "rows": self.rows,
            "versions": self.versions,
            "times": {place: t for place, t in self.times.items() if place not in written},
            "tombstones": self.tombstones,
            "exports": self.exports,
            "files": self.files,
            "tree": self.tree,
            "states": self.states,
            "backups": self.backups,
        }


def look(world: World) -> Snapshot:
    """Take a snapshot; no value and no password is where it must not be, and all is private."""
    world.quiet()
    rows: dict[tuple[str, str], Kept] = {}
    versions: dict[tuple[str, str], int] = {}
    times: dict[tuple[str, str], tuple[int, int]] = {}
    exports: dict[str, str] = {}
    with world.backend() as backend:
        for name in COLLECTIONS:
            exports[name] = "".join(export_lines(backend, name))
            keys = [row.key for row in backend.dump(name)]
            for key, image in backend.images(name, keys).items():
                rows[name, key] = Kept(image.data, image.raw, image.expires_us)
                versions[name, key] = image.version
                times[name, key] = image.created_us, image.updated_us
        graves = _tombstones(world, backend)
    world.quiet()
    assert_private(world)
    return Snapshot(
        rows,
        versions,
        times,
        graves,
        exports,
        files_of(world.app),
        sorted(_RUN.sub("RUN", str(p.relative_to(world.root))) for p in world.root.rglob("*")),
        [_state(path) for path in _run_folders(world)],
        {
            _RUN.sub("RUN", str(path.relative_to(world.runs))): _file(path)
            for folder in _run_folders(world)
            for path in sorted(folder.iterdir())
            if path.name not in ("run.json", "run.log", "changes.json")
        },
    )


def files_of(folder: Path) -> dict[str, File]:
    """Every file of a folder by its name."""
    return {path.name: _file(path) for path in sorted(folder.iterdir())}


def _file(path: Path) -> File:
    found = path.stat()
    # The time at which the checksums were written is nobody's promise.
    mtime_ns = 0 if path.name == "SHA256SUMS" else found.st_mtime_ns
    return File(path.read_bytes(), stat.S_IMODE(found.st_mode), mtime_ns)


def _run_folders(world: World) -> list[Path]:
    return sorted(world.runs.iterdir()) if world.runs.is_dir() else []


def _state(folder: Path) -> dict[str, Any]:
    state = folder / "run.json"
    if not state.exists():
        return {}
    found: dict[str, Any] = msgspec.json.decode(state.read_bytes())
    changes: Any = None
    if (folder / "changes.json").exists():
        changes = msgspec.json.decode((folder / "changes.json").read_bytes())
    kept = {name: value for name, value in found.items() if name not in _VOLATILE}
    return kept | {"changes": changes}


def _tombstones(world: World, backend: Any) -> dict[tuple[str, str], int]:
    if world.url is None:
        with backend.using("looking at tombstones") as conn:
            found = conn.execute("SELECT collection, key, version FROM _standfast_tombstones")
            return {(name, key): version for name, key, version in found}
    with psycopg.connect(world.url) as conn:
        found = conn.execute(sql.SQL("SELECT collection, key, version FROM standfast.tombstones"))
        return {(name, key): version for name, key, version in found}


def assert_private(world: World, folder: Path | None = None) -> None:
    """A data directory holds directories of mode 0700 and files of mode 0600, nothing else; what
    is no backup in it shows no value and no password."""
    folder = folder or world.storage
    if not folder.exists():
        return
    for path in [folder, *folder.rglob("*")]:
        mode = path.lstat().st_mode
        wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
        assert stat.S_IMODE(mode) == wanted, f"{path.name}: {stat.S_IMODE(mode):o}"
        assert stat.S_ISDIR(mode) or stat.S_ISREG(mode), path.name
        if path.name in ("run.json", "run.log", "SHA256SUMS", "migrate.lock"):
            world.assert_discreet(path.read_text(encoding="utf-8"), path.name)


def exact(world: World) -> dict[str, Any]:
    """Every byte of the files and every live row, without making sense of any of it.

    For a world whose records are damaged; the database's own files are left out.
    """
    world.quiet()
    files = {
        str(path.relative_to(world.root)): _file(path)
        for path in sorted(world.root.rglob("*"))
        if path.is_file() and not path.name.startswith("fallback.db")
    }
    rows: dict[str, Any] = {}
    with world.backend() as backend:
        for name in COLLECTIONS:
            keys = [row.key for row in backend.dump(name)]
            rows[name] = {key: repr_all(image) for key, image in backend.images(name, keys).items()}
    world.quiet()
    return {"files": files, "rows": rows}


def repr_all(image: Any) -> bytes:
    """All of a row as bytes: its own repr leaves the content out."""
    return msgspec.json.encode(image)
