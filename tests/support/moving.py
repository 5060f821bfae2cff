"""A folder of JSON files, a data directory and a database: what a migration works on."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from standfast.api.opening import backend_for
from standfast.backends.base import Backend
from standfast.config.settings import parse_url
from standfast.document.codec import decode
from standfast.migrate.export import export_lines
from standfast.migrate.plan import Options, Plan
from standfast.migrate.read_file import ReadOptions
from standfast.migrate.runner import Result, Runner

_READ_OPTIONS = ("whole", "key_field", "split_default")


class Place:
    """One folder with its own data directory and database."""

    def __init__(self, root: Path, url: str | None) -> None:
        self.root = root
        self.data_dir = root / "storage"
        self.postgres_url = url
        self.url = url or f"sqlite:///{self.data_dir / 'fallback.db'}"
        self.backend: Backend = backend_for(parse_url(self.url))

    def close(self) -> None:
        """Release the database."""
        self.backend.close()

    @property
    def env(self) -> dict[str, str]:
        """The environment of a command that is run here."""
        return {"DATABASE_URL": self.url, "STANDFAST_DATA_DIR": str(self.data_dir)}

    # ---- files

    def write(self, name: str, content: Any) -> Path:
        """A file of this folder: bytes and text as they are, anything else as JSON."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str | bytes):
            content = json.dumps(content, indent=2, ensure_ascii=False)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def json_files(self) -> list[str]:
        """The names of the files that lie in the folder itself."""
        return sorted(path.name for path in self.root.iterdir() if path.is_file())

    # ---- migration

    def runner(self) -> Runner:
        """A fresh runner, as every command has its own."""
        return Runner(self.backend, self.data_dir)

    def plan(self, *paths: Path, **options: Any) -> Plan:
        """What a run would do."""
        return self.runner().plan(list(paths), options_of(**options))

    def migrate(self, *paths: Path, **options: Any) -> Result:
        """Do it; a result that is not green shows why."""
        return self.runner().run(list(paths), options_of(**options))

    def moved(self, *paths: Path, **options: Any) -> Result:
        """Do it, and insist on success."""
        result = self.migrate(*paths, **options)
        assert [problem.error for problem in result.plan.problems] == []
        assert result.green
        assert result.run is not None
        return result

    # ---- the database

    def exported(self, collection: str) -> str:
        """The text that `standfast export` prints."""
        return "".join(export_lines(self.backend, collection))

    def documents(self, collection: str) -> dict[str, Any]:
        """Every document of a collection, in the order of their creation."""
        rows = self.backend.dump(collection, in_order=True)
        return {row.key: decode(row.text) for row in rows}

    def versions(self, collection: str) -> dict[str, int]:
        """The version of every document of a collection."""
        return {row.key: row.version for row in self.backend.dump(collection)}

    def snapshot(self) -> object:
        """Everything that a command must not change when it fails: files, tables and rows.

        Not in it: the lock file, and an empty data directory to hold it.
        """
        return tree(self.root), self.stored()

    def stored(self) -> object:
        """Every table and row of the database."""
        if self.postgres_url:
            return catalog(self.postgres_url)
        rows = {name: list(self.backend.dump(name)) for name in self.backend.collections()}
        return self.backend.identity(), rows


def options_of(**values: Any) -> Options:
    """The options of a migration from plain keywords."""
    read = {name: values.pop(name) for name in _READ_OPTIONS if name in values}
    return Options(read=ReadOptions(**read), **values)


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder: mode, time of modification, content.  The lock is left out."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            state = path.lstat()
            regular = stat.S_ISREG(state.st_mode)
            if name == "migrate.lock" or name.endswith(("-wal", "-shm")):
                continue
            content = path.read_bytes() if regular else b""
            found[str(path.relative_to(root))] = (state.st_mode, state.st_mtime_ns, content)
    return found


_RELATIONS = """
SELECT n.nspname, c.relname, c.relkind::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 1, 2
"""
_SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1"


def catalog(url: str) -> tuple[Sequence[object], Sequence[object], dict[str, Sequence[object]]]:
    """The schemas, relations and rows of a PostgreSQL database."""
    with psycopg.connect(url) as conn:
        schemas = conn.execute(_SCHEMAS).fetchall()
        relations = conn.execute(_RELATIONS).fetchall()
        rows: dict[str, Sequence[object]] = {}
        for schema, name, kind in relations:
            if kind == "r":
                table = psycopg.sql.Identifier(schema, name)
                query = psycopg.sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(table)
                rows[f"{schema}.{name}"] = conn.execute(query).fetchall()
        return schemas, relations, rows
