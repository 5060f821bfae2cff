"""Documents brought into a database: compared side by side, written in one transaction, read back.

The order makes it safe to be killed anywhere: nothing is changed before the one transaction, which
compares what it has written before it commits.  So whoever was killed has changed nothing, or has
done everything, and the same command again comes to the same end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple

from standfast.admin.backup.databases import filling, snapshot
from standfast.backends.base import Backend, Form
from standfast.backends.copying import (
    PAGE_CHARS,
    PAGE_ROWS,
    Described,
    Filling,
    Snapshot,
    Stored,
    Writing,
)
from standfast.errors import ConfigError, MigrationError
from standfast.limits import MAX_NAMED_ROWS, MAX_SNAPSHOT_S
from standfast.system.failpoints import failpoint

OnConflict = Literal["file", "database", "newest", "fail"]
"""Which side wins where a document differs: the one that is brought, the one that is there, the one
that was changed last, or none."""

Action = Literal["new", "equal", "replace", "keep", "conflict", "only there", "remove", "expired"]
#: What changes the database, and what takes something away there.
WRITES: frozenset[Action] = frozenset(("new", "replace", "remove"))
LOSES: frozenset[Action] = frozenset(("replace", "remove"))


class Choice(NamedTuple):
    """What is brought, and how.

    `only`: these collections; `key`: this document alone; `exact`: documents that are only in the
    database go, so that the collections are afterwards as they were.
    """

    on_conflict: OnConflict = "fail"
    only: tuple[str, ...] = ()
    key: str | None = None
    exact: bool = False


class Part(NamedTuple):
    """One collection that is brought: its documents in the bytewise order of their keys, in pages
    that fit into memory."""

    name: str
    form: Form
    pages: Iterable[Sequence[Stored]]


#: Characters of documents that are handed to the digest at a time.
_MARKED_CHARS = 256 * 1024

_NOTHING_LOST = hashlib.sha256().hexdigest()

#: Called for a fresh look at all that is brought; each part is read to its end, in order.
Parts = Callable[[], Iterator[Part]]


@dataclass(slots=True)
class PartPlan:
    """What becomes of one collection: how many documents of each kind, and some of their keys."""

    name: str
    form: Form
    counts: dict[Action, int] = field(default_factory=dict[Action, int])
    conflicts: list[str] = field(default_factory=list[str])
    there_before: int = 0

    def count(self, action: Action) -> int:
        """How many documents this is done to."""
        return self.counts.get(action, 0)

    @property
    def writes(self) -> int:
        """How many rows are written or removed."""
        return sum(map(self.count, WRITES))


@dataclass(slots=True)
class Plan:
    """What a transfer would do; `digest` names the versions of all that it would overwrite."""

    parts: list[PartPlan] = field(default_factory=list[PartPlan])
    digest: str = ""

    def count(self, *actions: Action) -> int:
        """How many documents these are done to."""
        return sum(part.count(action) for part in self.parts for action in actions)

    @property
    def writes(self) -> int:
        """How many rows are written or removed."""
        return sum(part.writes for part in self.parts)

    @property
    def overwritten(self) -> list[str]:
        """The collections in which something is replaced or removed."""
        return [part.name for part in self.parts if any(map(part.count, LOSES))]


def plan(backend: Backend, parts: Parts, choice: Choice) -> Plan:
    """Compare what is brought with the database; nothing is written."""
    # Nothing is asked of it while a collection is read that is not there.
    with snapshot(backend, idle_s=MAX_SNAPSHOT_S) as there:
        work = _Comparison(choice, there.taken_us)
        names = {each.name for each in there.collections()}
        for part in parts():
            known = part.name in names
            rows = there.rows(part.name, key=choice.key) if known else iter(())
            doomed: list[str] = []
            for action, _, theirs in work.compare(part, rows):
                if action == "remove" and theirs is not None:
                    doomed.append(theirs.key)
                if len(doomed) == PAGE_ROWS:
                    _refuse_references(backend, part.name, doomed)
                    doomed = []
            _refuse_references(backend, part.name, doomed)
    return work.plan


def _refuse_references(backend: Backend, collection: str, keys: Sequence[str]) -> None:
    """Raise when rows of other tables refer to rows that would be removed: no backup of ours holds
    those, and a foreign key may remove them too."""
    found = backend.references(collection, keys) if keys else []
    if found:
        raise MigrationError(
            f"collection `{collection}`: table `{found[0].table}` refers to rows that would be"
            " removed; nothing was changed",
            code="referenced",
            hint="leave --exact out, or remove what refers to them first",
        )


def is_empty(backend: Backend, only: Sequence[str]) -> bool:
    """Whether a database has no live document in any collection, or in these."""
    with snapshot(backend) as there:
        chosen = [one for one in there.collections() if not only or one.name in only]
        return all(next(there.rows(one.name), None) is None for one in chosen)


def plan_of_all(parts: Iterable[tuple[str, Form, int]]) -> Plan:
    """The plan for a database without documents: so many new ones in each collection."""
    made = [PartPlan(name, form, {"new": count} if count else {}) for name, form, count in parts]
    return Plan(made, _NOTHING_LOST)


def execute(backend: Backend, parts: Parts, choice: Choice, planned: Plan, *, run: str) -> Plan:
    """Do what was planned, in one transaction, and read it back before it is committed.

    Returns what was done; what has expired since the plan was made is another.

    Raises MigrationError("plan_stale") when something that would be overwritten has changed since
    the plan, and MigrationError("not_equal") when what is read back is not what was written;
    nothing was changed then.
    """
    names = [part.name for part in planned.parts]
    with filling(backend, run, "filled", names) as work:
        comparison = _Comparison(choice, work.now_us)
        for part in parts():
            wanted = _fill(work, comparison, part)
            failpoint("filling-collection")
            _require_same(work, part.name, wanted, choice.key)
        if comparison.plan.digest != planned.digest or comparison.plan.count("conflict"):
            raise MigrationError(
                f"{backend.display} changed since the plan was made; nothing was written",
                code="plan_stale",
                hint="run the same command again: it makes a new plan",
            )
    failpoint("filling-committed")
    return comparison.plan


def _fill(work: Filling, comparison: _Comparison, part: Part) -> str:
    """Write one collection; returns the digest of what must stand in it afterwards."""
    wanted = _Marks()
    there = work.before(part.name, key=comparison.choice.key)
    first = next(there, None)
    if first is None:
        for page in comparison.all_new(part):
            work.write(part.name, [Writing(row.key, row) for row in page])
            wanted.add(page)
    else:
        _merge(work, comparison, part, chain([first], there), wanted)
    if not comparison.plan.parts[-1].there_before and comparison.choice.key is None:
        work.set_form(part.name, part.form)
    return wanted.hexdigest()


def _merge(
    work: Filling, comparison: _Comparison, part: Part, there: Iterable[Stored], wanted: _Marks
) -> None:
    waiting: list[Writing] = []
    chars = 0
    for action, mine, theirs in comparison.compare(part, there):
        stays = mine if action in ("new", "replace") else theirs
        if action in WRITES:
            key, version = (mine or theirs or _missing()).key, theirs.version if theirs else 0
            waiting.append(Writing(key, stays if action != "remove" else None, version))
            chars += len(stays.text) if stays is not None else 0
            if len(waiting) >= PAGE_ROWS or chars >= PAGE_CHARS:
                work.write(part.name, waiting)
                waiting, chars = [], 0
        if stays is not None and action not in ("remove", "expired"):
            wanted.add([stays])
    if waiting:
        work.write(part.name, waiting)


def _require_same(work: Filling, name: str, wanted: str, key: str | None) -> None:
    found = _Marks()
    for row in work.after(name, key=key):
        found.add([row])
    if found.hexdigest() != wanted:
        raise MigrationError(
            f"collection `{name}`: what was written is not what is read back; nothing was changed",
            code="not_equal",
            hint="does a trigger of another program change the rows?  `standfast doctor` looks",
        )


class _Marks:
    """The digest of rows in their order: of what a document is, and when it ends."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._texts: list[str] = []
        self._chars = 0

    def add(self, rows: Iterable[Stored]) -> None:
        """The next rows."""
        for row in rows:
            self._texts += row.key, str(row.expires_us), row.text
            self._chars += len(row.text)
        if self._chars > _MARKED_CHARS:
            self._flush()

    def hexdigest(self) -> str:
        """The digest of all rows."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        if self._texts:
            self._hash.update(("\0".join(self._texts) + "\0").encode())
            self._texts.clear()
        self._chars = 0


def _missing() -> Any:
    raise AssertionError("one side is there")


class _Comparison:
    """Goes through both sides of each collection, and keeps count."""

    def __init__(self, choice: Choice, now_us: int) -> None:
        self.choice = choice
        self.plan = Plan()
        self._now_us = now_us
        self._lost = hashlib.sha256()

    def all_new(self, part: Part) -> Iterator[list[Stored]]:
        """What is written, page by page, where nothing is there."""
        counted = PartPlan(part.name, part.form)
        self.plan.parts.append(counted)
        for page in part.pages:
            live = [row for row in page if not _has_expired(row, self._now_us)]
            if len(live) < len(page):
                counted.counts["expired"] = counted.count("expired") + len(page) - len(live)
            if live:
                counted.counts["new"] = counted.count("new") + len(live)
                yield live
        self.plan.digest = self._lost.hexdigest()

    def compare(
        self, part: Part, there: Iterable[Stored]
    ) -> Iterator[tuple[Action, Stored | None, Stored | None]]:
        """Every key of either side with what is done to it."""
        counted = PartPlan(part.name, part.form)
        self.plan.parts.append(counted)
        counts = counted.counts
        for mine, theirs in side_by_side(chain.from_iterable(part.pages), there):
            action = decide(mine, theirs, self.choice, self._now_us)
            counts[action] = counts.get(action, 0) + 1
            counted.there_before += theirs is not None
            if theirs is not None and action in LOSES:
                self._lost.update(f"{part.name}\0{theirs.key}\0{theirs.version}\0".encode())
            if theirs is not None and action == "conflict":
                counted.conflicts += [theirs.key][: MAX_NAMED_ROWS - len(counted.conflicts)]
            yield action, mine, theirs
        self.plan.digest = self._lost.hexdigest()


def side_by_side(
    mine: Iterable[Stored], theirs: Iterable[Stored]
) -> Iterator[tuple[Stored | None, Stored | None]]:
    """Rows of two sides by key: both are in the bytewise order of keys, which is that of their
    characters."""
    one, other = iter(mine), iter(theirs)
    a, b = next(one, None), next(other, None)
    while a is not None and b is not None:
        if a.key == b.key:
            yield a, b
            a, b = next(one, None), next(other, None)
        elif a.key < b.key:
            yield a, None
            a = next(one, None)
        else:
            yield None, b
            b = next(other, None)
    while a is not None:
        yield a, None
        a = next(one, None)
    while b is not None:
        yield None, b
        b = next(other, None)


def decide(mine: Stored | None, theirs: Stored | None, choice: Choice, now_us: int) -> Action:
    """What is done to one key; a document that has expired by now is not brought."""
    expired = mine is not None and _has_expired(mine, now_us)
    if theirs is None:
        return "expired" if expired else "new"
    if mine is None or expired:
        return "remove" if choice.exact else "only there"
    if mine.text == theirs.text and mine.expires_us == theirs.expires_us:
        return "equal"
    if choice.on_conflict == "newest":
        return "replace" if (mine.updated_us or 0) > (theirs.updated_us or 0) else "keep"
    policies: dict[str, Action] = {"file": "replace", "database": "keep", "fail": "conflict"}
    return policies[choice.on_conflict]


def _has_expired(row: Stored, now_us: int) -> bool:
    return row.expires_us is not None and row.expires_us <= now_us


def limited_to(found: Sequence[Described], only: Sequence[str]) -> list[Described]:
    """These collections, or those of them that are named; ConfigError for a name without one."""
    require_collections([each.name for each in found], only)
    return [each for each in found if not only or each.name in only]


def require_collections(there: Iterable[str], only: Iterable[str]) -> None:
    """ConfigError unless every collection that is named is there."""
    missing = sorted(set(only) - set(there))
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        raise ConfigError(
            f"there is no collection {names}",
            code="no_such_collection",
            hint="`standfast list` and `standfast backup verify FILE` show the collections",
        )


def parts_of(source: Snapshot, choice: Choice) -> Iterator[Part]:
    """A database's snapshot as what is brought."""
    for each in limited_to(source.collections(), choice.only):
        yield Part(each.name, each.form, source.pages(each.name, key=choice.key))
