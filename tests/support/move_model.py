"""Random moves of files between folders, data directories and databases, against a model.

The model knows of each document which file brought it, and with it says which outcomes of a
migration are allowed without a policy or a report that says so.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.document.codec import decode
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import MigrationError
from standfast.migrate.rollback import abandon, rollback
from standfast.migrate.rundir import all_runs
from standfast.migrate.runner import Result, Runner
from standfast.system import failpoints
from support.moving import options_of

Documents = dict[str, Any]
COLLECTION = "s"
PATHS = ("a/s.json", "b/s.json", "a/s.jsonl")
KEYS = ("1", "2", "3", "4")
#: As how many steps `repeat` counts, which takes several.
_REPEAT_STEPS = 5
#: How every run stands after a command that was not killed.
ENDED = ("done", "rolled-back", "abandoned")
#: Where a migration is killed: before its load, in it, after it, and while it moves the file.
FAILPOINTS = (
    *("scanned", "state-started", "state-backed-up", "load-begins", "record-written"),
    *("load-committed", "state-loaded", "verified", "state-cleaning", "original-parked"),
    *("original-unlinked", "original-moved", "state-done"),
)


@dataclass
class Base:
    """What the model remembers of a run: what the file held, and in which form."""

    run: str
    documents: Documents
    form: str


@dataclass
class Database:
    """One database, as the model knows it: its runs, and the deletions that are on record."""

    url: str
    known: set[str] = field(default_factory=set[str])
    buried: set[str] = field(default_factory=set[str])


@dataclass
class Run:
    """A run that can be rolled back: where, and what stood in the collection before it."""

    run: str
    database: int
    directory: int
    before: Documents
    after: Documents
    touched: set[str]


@dataclass
class Move:
    """One migration: of which file, where, and what stood in the collection before and after."""

    path: Path
    place: tuple[int, int]
    content: bytes
    before: Documents
    after: Documents
    options: dict[str, Any]


class Moves:
    """A sequence of random steps; `step` raises AssertionError where a guarantee does not hold."""

    def __init__(self, root: Path, urls: list[str], open_backend: Any, rng: Random) -> None:
        self.root = root
        self.rng = rng
        self.databases = [Database(url) for url in urls]
        self.directories = [root / "storage1", root / "storage2"]
        self.bases: dict[tuple[int, int, str], list[Base]] = {}
        self.runs: list[Run] = []
        self.saved: dict[int, tuple[Any, Database]] = {}
        self.log: list[str] = []
        self._open = open_backend
        self._opened: dict[int, Backend] = {}
        self.kinds: dict[str, int] = {}

    # ---- the world

    def backend(self, database: int) -> Backend:
        """The database, opened once for many steps: what each process finds out by itself is the
        subject of the tests of commands."""
        backend = self._opened.get(database)
        if backend is None:
            backend = self._opened[database] = self._open(self.databases[database].url)
        return backend

    def close(self) -> None:
        """Let nothing be open: what comes next are other processes, or other files."""
        for backend in self._opened.values():
            backend.close()
        self._opened.clear()

    @staticmethod
    def documents(backend: Backend) -> Documents:
        return {row.key: decode(row.text) for row in backend.dump(COLLECTION)}

    def note(self, kind: str, what: str = "") -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.log.append(f"{kind} {what}")

    def run(self, steps: int) -> None:
        """So many steps, chosen by weight."""
        choices = (
            *([self.write] * 4 + [self.migrate] * 8 + [self.app_put] * 2 + [self.app_delete] * 2),
            *(self.roll_back, self.roll_back),  # many of them find no run, and few are refused
            *(self.lose, self.save, self.restore, self.give_up, self.repeat),
        )
        try:
            while steps > 0:
                step = self.rng.choice(choices)
                step()
                steps -= _REPEAT_STEPS if step == self.repeat else 1
        finally:
            self.close()

    # ---- steps

    def repeat(self) -> None:
        """One file twice in one place: as it was, changed, or in another form.

        In between, the application has written, or the database is what it was before.
        """
        path, keys = self.root / self.rng.choice(PATHS), self.rng.sample(KEYS, 2)
        between = self.rng.choice((self.restore, self.app_put, self.app_delete, self.lose))
        self.write(path, keys)
        if between == self.restore:
            self.save()
        self.migrate(path, (0, 0), on_conflict="file", replace_form=True)
        between()
        self.write(path, keys)
        self.migrate(path, (0, 0))
        self.note("repeat")

    def write(self, path: Path | None = None, keys: Sequence[str] | None = None) -> None:
        """A file, new or changed; which, and with which keys, by chance if not given."""
        path = path or self.root / self.rng.choice(PATHS)
        path.parent.mkdir(exist_ok=True)
        keys = keys or self.rng.sample(KEYS, self.rng.randint(0, 3))
        values = {key: {"id": key, "x": self.rng.randint(0, 2)} for key in keys}
        if path.suffix == ".jsonl":
            text = "".join(json.dumps(value) + "\n" for value in values.values())
        elif self.rng.random() < 0.3:
            text = json.dumps(list(values.values()))
        else:
            text = json.dumps(values)
        path.write_text(text)
        self.note("write", f"{path.relative_to(self.root)} {text}")

    def app_put(self) -> None:
        backend = self.backend(0)
        key = self.rng.choice(KEYS)
        value = {"id": key, "x": self.rng.randint(0, 2), "y": 1}
        Store(EmbeddedEngine(backend))[COLLECTION].put(key, value)
        self.databases[0].buried.discard(key)
        self.note("put", f"{key} {value}")

    def app_delete(self) -> None:
        backend = self.backend(0)
        held = self.documents(backend)
        if held:
            key = self.rng.choice(sorted(held))
            Store(EmbeddedEngine(backend))[COLLECTION].delete(key)
            self.databases[0].buried.add(key)
            self.note("delete", key)

    def lose(self) -> None:
        """Rows vanish without a record, as by TRUNCATE in a session without triggers."""
        self.close()
        self.lose_rows(self.databases[0])
        self.databases[0].buried.clear()
        self.note("lose")

    def lose_rows(self, database: Database) -> None:
        import apsw

        path = Path(database.url.removeprefix("sqlite:///"))
        if path.exists():
            with apsw.Connection(str(path)) as conn:
                if conn.table_exists(None, COLLECTION):
                    conn.execute(f"DELETE FROM {COLLECTION}")
                    conn.execute("DELETE FROM _standfast_tombstones")

    def save(self) -> None:
        """Keep a copy of the database."""
        self.close()
        path = Path(self.databases[0].url.removeprefix("sqlite:///"))
        content = path.read_bytes() if path.exists() else None
        self.saved[0] = (content, copy.deepcopy(self.databases[0]))
        self.note("save")

    def restore(self) -> None:
        """The database as it was at an earlier time."""
        if 0 not in self.saved or self.saved[0][0] is None:
            return
        self.close()
        content, model = self.saved[0]
        path = Path(self.databases[0].url.removeprefix("sqlite:///"))
        path.write_bytes(content)
        self.databases[0] = copy.deepcopy(model)
        self.runs = [run for run in self.runs if run.run in model.known or run.database]
        self.note("restore")

    def give_up(self) -> None:
        """Any run is given up: its originals come back, nothing is overwritten."""
        if not self.runs or self.rng.random() < 0.5:
            return
        run = self.rng.choice(self.runs)
        before = {path: path.read_bytes() for path in self.files()}
        abandon(self.directories[run.directory], run.run)
        for path, content in before.items():
            assert path.read_bytes() == content
        for bases in self.bases.values():
            bases[:] = [base for base in bases if base.run != run.run]
        self.runs.remove(run)
        self.note("give up", run.run)

    def files(self) -> list[Path]:
        return [path for name in PATHS if (path := self.root / name).exists()]

    def roll_back(self) -> None:
        """A run is taken back: exactly, or not at all."""
        if not self.runs:
            return
        run = self.rng.choice(self.runs[-3:])
        backend = self.backend(run.database)
        before = self.documents(backend)
        discard = self.rng.random() < 0.2
        try:
            rollback(backend, self.directories[run.directory], run.run, discard_newer=discard)
        except MigrationError as error:
            if error.code != "moved" or discard:
                raise
            assert self.documents(backend) == before
            self.note("rollback refused", run.run)
            return
        after = self.documents(backend)
        for key in {*before, *after}:
            wanted = run.before if key in run.touched else before
            assert after.get(key) == wanted.get(key), f"rollback of {run.run}: key {key}"
        model = self.databases[run.database]
        model.known.discard(run.run)
        for key in run.touched:
            (model.buried.discard if key in after else model.buried.add)(key)
        for bases in self.bases.values():
            bases[:] = [base for base in bases if base.run != run.run]
        self.runs.remove(run)
        self.note("rolled back", run.run)

    # ---- migrations

    def migrate(
        self, path: Path | None = None, place: tuple[int, int] | None = None, **wanted: Any
    ) -> None:
        """One file into one database from one data directory; perhaps killed, then repeated.

        What is not given is chosen by chance.
        """
        files = self.files()
        if not files:
            return
        path = path or self.rng.choice(files)
        database, directory = place or (self.rng.choice((0, 0, 0, 1)) for _ in range(2))
        options: dict[str, Any] = {
            "on_conflict": self.rng.choice(("fail", "fail", "file", "database", "newest")),
            "whole": self.rng.random() < 0.15,
            "replace_form": self.rng.random() < 0.3,
            "keep_files": self.rng.random() < 0.2,
            **wanted,
        }
        content = path.read_bytes()
        before = self.documents(self.backend(database))
        done = {run.run for run in all_runs(self.directories[directory])}
        killed_at = self.rng.choice(FAILPOINTS) if self.rng.random() < 0.1 else ""
        what = f"{path.relative_to(self.root)} db{database} dir{directory} {options} {killed_at}"
        self.note("migrate", what)
        if killed_at:
            self._killed(killed_at, path, database, directory, options)
        backend = self.backend(database)
        runner = Runner(backend, self.directories[directory])
        result = runner.run([path], options_of(**options))
        after = self.documents(backend)
        move = Move(path, (database, directory), content, before, after, options)
        states = [run.load_state() for run in all_runs(self.directories[directory])]
        assert all(state.state in ENDED for state in states)
        self._judge(result, move, [each.run for each in states if each.run not in done])

    def _killed(self, at: str, path: Path, database: int, directory: int, options: Any) -> None:
        """The migration in a process of its own, which is killed at this place."""
        self.close()
        child = os.fork()
        if not child:
            try:
                failpoints._wanted, failpoints._left = at, 1  # pyright: ignore[reportPrivateUsage]
                backend = self.backend(database)
                runner = Runner(backend, self.directories[directory])
                runner.run([path], options_of(**options))
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    def _judge(self, result: Result, move: Move, runs: list[str]) -> None:
        path, before, after = move.path, move.before, move.after
        file = documents_in(move.content, path.suffix, whole=move.options["whole"])
        plan = result.plan.collections[0] if result.plan.collections else None
        if file == {"default": []} and plan is not None and plan.form.key_field:
            file.clear()  # in a collection of records an empty list has none, which the plan says
        if not runs:
            assert after == before, f"documents changed without a run: {self.log}"
            assert path.read_bytes() == move.content
            if plan is not None and not result.plan.open_conflicts and not result.plan.problems:
                left = [key for key in file if after.get(key) != file[key]]
                assert set(left) <= set(plan.kept), self.log
            return
        self.note("migrated", " ".join(runs))
        name = path.relative_to(self.root).as_posix()
        base, old = self._base(name, move.place, file.form)
        model = self.databases[move.place[0]]
        for key in {*before, *after, *file}:
            allowed = self._allowed(key, file, base, move, model)
            if move.options["replace_form"] and key in old and old[key] == before.get(key):
                allowed.append(file.get(key))  # what the old form brought gives way, as asked
            said = key in plan.removed if plan is not None else False
            said = said or (move.options["replace_form"] and key in old and key not in after)
            assert after.get(key) in allowed or said, (
                f"key {key}: base {base.get(key)}, file {file.get(key)}, before"
                f" {before.get(key)}, after {after.get(key)}, allowed {allowed}; {self.log}"
            )
        model.known.update(runs)
        model.buried |= set(before) - set(after)
        model.buried -= set(after)
        touched = {key for key in {*before, *after} if before.get(key) != after.get(key)}
        self.bases.setdefault((*move.place, name), []).append(Base(runs[-1], dict(file), file.form))
        if len(runs) == 1:
            self.runs.append(Run(runs[0], *move.place, before, after, touched))
        assert move.options["keep_files"] == path.exists()

    def _base(self, name: str, place: tuple[int, int], form: str) -> tuple[Documents, Documents]:
        """What this very file held at its last run from this directory that the database knows, in
        this form or in another."""
        known = self.databases[place[0]].known
        for base in reversed(self.bases.get((*place, name), [])):
            if base.run in known:
                return (base.documents, {}) if base.form == form else ({}, base.documents)
        return {}, {}

    @staticmethod
    def _allowed(
        key: str, file: Documents, base: Documents, move: Move, model: Database
    ) -> list[Any]:
        """The outcomes of one document that need no policy and no report."""
        mine, theirs, common = file.get(key), move.before.get(key), base.get(key)
        policy = move.options["on_conflict"]
        if key not in file:
            return [theirs]
        if theirs is None:
            deleted = common == mine and key in model.buried and policy != "file"
            return [None] if deleted else [mine]
        if mine == theirs:
            return [mine]
        if isinstance(common, dict) and isinstance(mine, dict) and isinstance(theirs, dict):
            sides = {"file": [True], "database": [False], "newest": [True, False], "fail": []}
            merged = [_three_way(common, mine, theirs, prefer_file=side) for side in sides[policy]]
            one = _three_way(common, mine, theirs, prefer_file=None)
            return [*merged, one] if one is not None else merged
        if common is not None:
            if common == mine:
                return [theirs]
            if common == theirs:
                return [mine]
        return {"file": [mine], "database": [theirs], "newest": [mine, theirs]}.get(policy, [])


class File(dict[str, Any]):
    """The documents of a file, and how they are named."""

    form = "members"


def documents_in(content: bytes, suffix: str, *, whole: bool) -> File:
    """What a file holds, read by the rules of the guide, with nothing of ours."""
    text = content.decode()
    if suffix == ".jsonl":
        records = [json.loads(line) for line in text.splitlines()]
        found = File(default=records) if whole else File({each["id"]: each for each in records})
    else:
        value = json.loads(text)
        if whole or value == []:
            found = File(default=value)
        elif isinstance(value, list):
            found = File({each["id"]: each for each in value})
        else:
            found = File(value)
    found.form = "whole" if "default" in found else ("id" if text[:1] == "[" else "members")
    if suffix == ".jsonl" and found.form == "members":
        found.form = "id"
    return found


def _three_way(
    common: Documents, mine: Documents, theirs: Documents, *, prefer_file: bool | None
) -> Documents | None:
    """The merge of two objects, member by member; without a side, None for a true conflict."""
    merged: Documents = {}
    for name in {**theirs, **mine}:
        base, a, b = common.get(name), mine.get(name), theirs.get(name)
        value = a if b in (base, a) else b
        if a != base and b not in (base, a):
            if prefer_file is None:
                return None
            value = a if prefer_file else b
        if value is not None:
            merged[name] = value
    return merged
