"""What must hold of every run: pure functions from a history and the final state to violations.

The workload that they understand: unique tokens appended to lists (`append`; `cas` adds one by
compare-and-set), positive numbers added to counters (`increment`), unique values put into registers
(`put`), and reads of any of them (`read`).  No document is ever deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from chaos.history import Life, Operation, Run

Place = tuple[str, str]

#: Reasons of conflict records whose op took effect, or gave way by a documented rule.
SETTLED = frozenset({"conflict", "merged", "update_beats_delete"})


@dataclass(frozen=True)
class Violation:
    """One broken guarantee, in words for whoever has to find the cause."""

    checker: str
    guarantee: str
    text: str

    def __str__(self) -> str:
        return f"{self.checker} ({self.guarantee}): {self.text}"


@dataclass(frozen=True)
class LedgerLine:
    """A row of `standfast.conflicts`, `mine` decoded."""

    collection: str
    key: str
    kind: str
    reason: str
    mine: Any = None

    @property
    def rejected(self) -> bool:
        return self.reason not in SETTLED


@dataclass(frozen=True)
class Final:
    """What the primary holds in the end: every document, and the conflicts."""

    documents: dict[Place, Any] = field(default_factory=dict[Place, Any])
    conflicts: list[LedgerLine] = field(default_factory=list[LedgerLine])


def check(run: Run, final: Final) -> list[Violation]:
    """Every checker over one run."""
    checkers: list[Callable[[Run, Final], Iterator[Violation]]] = [
        lost,
        doubled,
        ghosts,
        out_of_order,
        stale_overwrites,
        read_your_writes,
        versions_go_back,
        rejected_without_cause,
        foreign_errors,
    ]
    return [violation for checker in checkers for violation in checker(run, final)]


# ---- what was written and what is there


def lost(run: Run, final: Final) -> Iterator[Violation]:
    """I2: an acknowledged write is on the primary or is recorded as a conflict."""
    conflicts = _Ledger(final)
    for place, ops in _by_place(run, "append", "cas").items():
        there = set(map(str, final.documents.get(place) or []))
        for op in ops:
            if (
                op.type == "ok"
                and str(op.value) not in there
                and not conflicts.has(op, rejected=True)
            ):
                yield Violation("lost", "I2", f"acknowledged, but nowhere: {op}")
    for place, ops in _by_place(run, "increment").items():
        least = _total(ops, "ok") - conflicts.rejected_sum(place)
        found = final.documents.get(place, 0)
        if found < least:
            text = f"{_name(place)} is {found}, but at least {least} was acknowledged"
            yield Violation("lost", "I2", text)
    for place, ops in _by_place(run, "put").items():
        oks = [op for op in ops if op.type == "ok"]
        if oks and place not in final.documents and not any(map(conflicts.has, oks)):
            text = f"{_name(place)} is not there, although it was put: {oks[-1]}"
            yield Violation("lost", "I2", text)


def doubled(run: Run, final: Final) -> Iterator[Violation]:
    """I2: no write takes effect twice."""
    for place in _by_place(run, "append", "cas"):
        counts = Counter(map(str, final.documents.get(place) or []))
        for token, count in counts.items():
            if count > 1:
                yield Violation("doubled", "I2", f"{token} is {count} times in {_name(place)}")
    for place, ops in _by_place(run, "increment").items():
        most = _total(ops, "ok", "info")
        found = final.documents.get(place, 0)
        if found > most:
            text = f"{_name(place)} is {found}, but all that may have been added is {most}"
            yield Violation("doubled", "I2", text)


def ghosts(run: Run, final: Final) -> Iterator[Violation]:
    """I2: what surely failed, or was never asked for, has no effect."""
    for place, ops in _by_place(run, "append", "cas", "put").items():
        known = {str(op.value): op for op in ops}
        document = final.documents.get(place)
        is_list = ops[0].f != "put"
        found = (document or []) if is_list else ([document] if place in final.documents else [])
        for token in map(str, found):
            op = known.get(token)
            if op is None:
                yield Violation("ghost", "I2", f"{token} in {_name(place)} was never written")
            elif op.type == "fail":
                yield Violation("ghost", "I2", f"said to have failed, but it is there: {op}")


def out_of_order(run: Run, final: Final) -> Iterator[Violation]:
    """I3: what one writer appends stands in the order in which it was acknowledged."""
    for place, ops in _by_place(run, "append").items():
        where: dict[str, int] = {}
        for index, token in enumerate(final.documents.get(place) or []):
            where.setdefault(str(token), index)
        last: dict[str, tuple[int, Operation]] = {}
        for op in ops:
            index = where.get(str(op.value))
            if index is None:
                continue
            before = last.get(op.worker)
            if before is not None and index < before[0] and before[1].ended <= op.invoked:
                text = f"in {_name(place)}: {op} stands before {before[1]}"
                yield Violation("out of order", "I3", text)
            if op.type == "ok" and (before is None or index > before[0]):
                last[op.worker] = (index, op)


def stale_overwrites(run: Run, final: Final) -> Iterator[Violation]:
    """I3: nothing overwrites a value that was acknowledged after it.

    If several processes of one directory write one document, a replay may, if a conflict says so.
    """
    conflicts = _Ledger(final)
    for place, ops in _by_place(run, "put").items():
        if place not in final.documents:
            continue
        winner = _writer_of(final.documents[place], ops)
        if winner is None:
            continue  # a ghost
        newer = _newest(ops, winner)
        if newer is None:
            continue
        if len({op.worker for op in ops}) > 1 and (conflicts.has(winner) or conflicts.has(newer)):
            continue
        text = f"{_name(place)} holds {winner}, although later there was {newer}"
        yield Violation("stale overwrite", "I3", text)


def versions_go_back(run: Run, final: Final) -> Iterator[Violation]:
    """I3: the versions that one writer is told for a document grow."""
    for place, ops in _by_place(run, "put", "cas").items():
        last: dict[str, Operation] = {}
        for op in ops:
            if op.type != "ok" or op.version is None:
                continue
            before = last.get(op.worker)
            if before is not None and (before.version or 0) >= op.version:
                text = f"{_name(place)}: version {op.version} of {op} after {before.version}"
                yield Violation("version", "I3", f"{text} of {before}")
            last[op.worker] = op


def rejected_without_cause(run: Run, final: Final) -> Iterator[Violation]:
    """I5: only what truly conflicts is set aside: here, compare-and-sets and nothing else."""
    conditional = set(_by_place(run, "cas"))
    for line in final.conflicts:
        if line.rejected and (line.collection, line.key) not in conditional:
            what = f"{line.kind} of {line.mine!r} in {line.collection}/{line.key}"
            yield Violation("rejected", "I5", f"{what} was set aside: {line.reason}")


def foreign_errors(run: Run, final: Final) -> Iterator[Violation]:
    """Errors are those of the tree, and none of them says that data is corrupt."""
    for op in run.operations:
        if op.foreign:
            yield Violation("error", "errors", f"{op}")


# ---- what was read


def read_your_writes(run: Run, final: Final) -> Iterator[Violation]:
    """I12: a process sees what it was told is written, and what dead ones of its directory were."""
    conflicts = _Ledger(final)
    writes = _by_place(run, "append", "cas", "increment", "put")
    for read in run.operations:
        if read.f != "read" or read.type != "ok":
            continue
        ops = writes.get((read.collection, read.key), [])
        owed = [op for op in ops if op.type == "ok" and _must_see(read, op, run.lives)]
        if owed:
            yield from _read_violations(read, ops, owed, conflicts)


def _read_violations(
    read: Operation, ops: list[Operation], owed: list[Operation], conflicts: _Ledger
) -> Iterator[Violation]:
    found = read.result
    if owed[0].f == "increment":
        least = _total(owed, "ok") - conflicts.rejected_sum((read.collection, read.key))
        if not isinstance(found, int) or found < least:
            text = f"{read} saw {found!r}; its own acknowledged additions are {least}"
            yield Violation("read your writes", "I12", text)
    elif owed[0].f == "put":
        winner = _writer_of(found, ops)
        missed = owed[-1] if winner is None else _newest(owed, winner)
        if missed is not None:
            yield Violation("read your writes", "I12", f"{read} saw {found!r}, not {missed}")
    else:
        seen = set(map(str, found)) if isinstance(found, list) else set[str]()
        for op in owed:
            if str(op.value) not in seen and not conflicts.has(op, rejected=True):
                yield Violation("read your writes", "I12", f"{read} did not see {op}")


def _must_see(read: Operation, op: Operation, lives: dict[str, Life]) -> bool:
    if op.ended > read.invoked:
        return False
    if op.process == read.process:
        return True
    mine, theirs = lives[read.process], lives[op.process]
    return mine.directory == theirs.directory and theirs.ended < mine.started


# ---- helpers


class _Ledger:
    """Whether a conflict records an op: by its place and the unique value that it carries."""

    def __init__(self, final: Final) -> None:
        self._lines: dict[tuple[str, str, str], list[LedgerLine]] = {}
        self._sums: Counter[Place] = Counter()
        for line in final.conflicts:
            name = (line.collection, line.key, str(line.mine))
            self._lines.setdefault(name, []).append(line)
            if line.kind == "increment" and line.rejected:
                self._sums[line.collection, line.key] += line.mine

    def has(self, op: Operation, *, rejected: bool = False) -> bool:
        """A line for the op; with `rejected`, one that says it was not applied."""
        value = op.result if op.f == "cas" and op.result is not None else op.value
        lines = self._lines.get((op.collection, op.key, str(value)), [])
        return any(line.rejected or not rejected for line in lines)

    def rejected_sum(self, place: Place) -> int:
        return self._sums[place]


def _by_place(run: Run, *kinds: str) -> dict[Place, list[Operation]]:
    found: dict[Place, list[Operation]] = {}
    for op in run.operations:
        if op.f in kinds:
            found.setdefault((op.collection, op.key), []).append(op)
    return found


def _total(ops: Iterable[Operation], *types: str) -> int:
    return sum(op.value for op in ops if op.type in types)


def _name(place: Place) -> str:
    return "/".join(place)


def _writer_of(value: Any, ops: Iterable[Operation]) -> Operation | None:
    """The op that put this value; the values of one run are unique."""
    return next((op for op in ops if op.f == "put" and op.value == value), None)


def _newest(ops: Iterable[Operation], winner: Operation) -> Operation | None:
    """The last acknowledged op that began after `winner` was over, or that its writer made later.

    A writer makes one call after the other, and the process that follows a killed one is the same
    writer: whatever it is told after a call of its own, even an unfinished one, is newer than that.
    """
    newer: Operation | None = None
    for op in ops:
        if op.type != "ok" or op is winner:
            continue
        later = op.worker == winner.worker and op.invoked > winner.invoked
        if later or winner.ended < op.invoked:
            newer = op
    return newer
