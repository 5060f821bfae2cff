"""The checkers catch what they are for, and accept what may happen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos import checkers
from chaos.checkers import Final, LedgerLine, Violation, check
from chaos.history import History, Life, Operation, Run, read_lines, run_of

Checker = Callable[[Run, Final], Iterator[Violation]]


class Story:
    """A history made by hand: each call begins and ends one second after the one before it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.operations: list[Operation] = []
        self.lives: dict[str, Life] = {}

    def life(self, process: str, directory: str = "A", ended: float = math.inf) -> None:
        worker = process.partition(".")[0]
        self.lives[process] = Life(process, worker, directory, self.now, ended)

    def __call__(
        self, process: str, f: str, key: str, value: Any, kind: Any = "ok", **fields: Any
    ) -> Operation:
        if process not in self.lives:
            self.life(process)
        begun, self.now = self.now, self.now + 1
        times: dict[str, Any] = {"invoked": begun, "ended": self.now, **fields}
        life = self.lives[process]
        op = Operation(
            *(process, life.worker, life.directory, len(self.operations), f, "c", key, value, kind),
            **times,
        )
        self.operations.append(op)
        return op

    def run(self) -> Run:
        return Run(sorted(self.operations, key=lambda op: op.invoked), self.lives)

    def caught(self, checker: Checker, conflicts: list[LedgerLine] | None = None, **documents: Any):
        final = Final({("c", key): value for key, value in documents.items()}, conflicts or [])
        return list(checker(self.run(), final))


@pytest.fixture
def story() -> Story:
    return Story()


def line(kind: str, key: str, mine: Any, reason: str = "deleted_meanwhile") -> LedgerLine:
    return LedgerLine("c", key, kind, reason, mine)


def test_a_clean_run_with_unknown_outcomes_is_accepted(story: Story) -> None:
    """Nothing is reported where all is well, whichever way the calls in doubt went."""
    story("w0.0", "append", "l", "w0.0:1")
    story("w0.0", "append", "l", "w0.0:2", "info")
    story("w0.0", "append", "l", "w0.0:3", "fail")
    story("w1.0", "append", "l", "w1.0:1")
    story("w0.0", "append", "l", "w0.0:4")
    story("w0.0", "increment", "n", 5)
    story("w0.0", "increment", "n", 3, "info")
    story("w0.0", "increment", "n", 100, "fail")
    story("w0.0", "put", "r", "r1", version=1)
    story("w0.0", "put", "r", "r2", version=2)
    story("w0.0", "put", "r", "r3", "info")
    story("w0.0", "cas", "s", "w0.0:9", version=1)
    story("w0.0", "read", "l", None, result=["w0.0:1", "w1.0:1", "w0.0:4"])
    story("w0.0", "read", "n", None, result=5)
    story("w0.0", "read", "r", None, result="r3")
    story("w0.0", "read", "unknown", None, "fail", error="Unavailable")
    for tokens in (["w0.0:1", "w1.0:1", "w0.0:4"], ["w0.0:1", "w1.0:1", "w0.0:4", "w0.0:2"]):
        for number in (5, 8):
            for register in ("r2", "r3"):
                documents = {"l": tokens, "n": number, "r": register, "s": ["w0.0:9"]}
                final = Final({("c", key): value for key, value in documents.items()})
                assert check(story.run(), final) == []


def test_lost_writes_are_found(story: Story) -> None:
    """I2: an acknowledged append, addition or put found nowhere is reported; a rejected one not."""
    story("w0.0", "append", "l", "w0.0:1")
    story("w0.0", "append", "l", "w0.0:2", "info")
    (found,) = story.caught(checkers.lost, l=[])
    assert "w0.0:1" in found.text
    assert story.caught(checkers.lost) != []
    assert story.caught(checkers.lost, l=["w0.0:1"]) == []
    assert story.caught(checkers.lost, [line("append", "l", "w0.0:1")], l=[]) == []
    other = [line("append", "other", "w0.0:1"), line("append", "l", "w0.0:1", "merged")]
    assert story.caught(checkers.lost, other, l=[]) != []


def test_lost_additions_are_found(story: Story) -> None:
    """I2: a counter below what was acknowledged is reported, unless the rest was rejected."""
    story("w0.0", "increment", "n", 2)
    story("w0.0", "increment", "n", 3)
    assert story.caught(checkers.lost, n=4) != []
    assert story.caught(checkers.lost) != []
    assert story.caught(checkers.lost, n=5) == []
    assert story.caught(checkers.lost, [line("increment", "n", 3)], n=2) == []
    assert story.caught(checkers.lost, [line("increment", "n", 3)], n=1) != []


def test_lost_puts_are_found(story: Story) -> None:
    """I2: a document that was put and is not there is reported; one whose put is in doubt not."""
    story("w0.0", "put", "r", "a", "info")
    assert story.caught(checkers.lost) == []
    story("w0.0", "put", "r", "b")
    assert story.caught(checkers.lost) != []
    assert story.caught(checkers.lost, r="b") == []


def test_a_lost_compare_and_set_is_found(story: Story) -> None:
    """I2: a compare-and-set whose token another one has overwritten is reported."""
    story("w0.0", "cas", "s", "a")
    story("w1.0", "cas", "s", "b")
    assert story.caught(checkers.lost, s=["b"]) != []
    assert story.caught(checkers.lost, s=["a", "b"]) == []


def test_doubled_writes_are_found(story: Story) -> None:
    """I2: an element that is there twice is reported, and a counter above all that was added."""
    story("w0.0", "append", "l", "a")
    story("w0.0", "append", "l", "b", "info")
    story("w0.0", "increment", "n", 2)
    story("w0.0", "increment", "n", 3, "info")
    story("w0.0", "increment", "n", 4, "fail")
    assert len(story.caught(checkers.doubled, l=["a", "a"], n=5)) == 1
    assert len(story.caught(checkers.doubled, l=["a", "b", "b"], n=2)) == 1
    assert len(story.caught(checkers.doubled, l=["a", "b"], n=6)) == 1
    for number in (2, 5):
        assert story.caught(checkers.doubled, l=["a", "b"], n=number) == []


def test_ghosts_are_found(story: Story) -> None:
    """I2: what failed for sure, or was never written, must not be there."""
    story("w0.0", "append", "l", "a", "fail")
    story("w0.0", "append", "l", "b", "info")
    story("w0.0", "put", "r", "x", "fail")
    story("w0.0", "put", "r", "y")
    assert story.caught(checkers.ghosts, l=["b"], r="y") == []
    assert "a" in story.caught(checkers.ghosts, l=["a"], r="y")[0].text
    assert "zz" in story.caught(checkers.ghosts, l=["zz"], r="y")[0].text
    assert story.caught(checkers.ghosts, l=[], r="x") != []
    assert story.caught(checkers.ghosts, l=[], r=None) != []


def test_a_wrong_order_is_found(story: Story) -> None:
    """I3: a writer's elements stand in order; what overlaps or is in doubt may stand anywhere."""
    story("w0.0", "append", "l", "a")
    story("w0.0", "append", "l", "b")
    story("w1.0", "append", "l", "x")
    assert story.caught(checkers.out_of_order, l=["x", "a", "b"]) == []
    assert story.caught(checkers.out_of_order, l=["b", "x", "a"]) != []
    story("w0.1", "append", "l", "c", "info")
    assert story.caught(checkers.out_of_order, l=["a", "c", "b", "x"]) != []
    story("w0.1", "append", "l", "d")
    assert story.caught(checkers.out_of_order, l=["a", "b", "d", "c", "x"]) == []
    assert story.caught(checkers.out_of_order, l=["a", "d", "b", "c", "x"]) != []


def test_a_stale_overwrite_is_found(story: Story) -> None:
    """I3: the last value of a sole writer is its last acknowledged put, or one in doubt after."""
    story("w0.0", "put", "r", "a", "info")
    story("w0.0", "put", "r", "b")
    story("w0.0", "put", "r", "c", "fail")
    story("w0.0", "put", "r", "d", "info")
    assert story.caught(checkers.stale_overwrites, r="b") == []
    assert story.caught(checkers.stale_overwrites, r="d") == []
    zombie = story.caught(checkers.stale_overwrites, r="a")
    assert "although later there was" in zombie[0].text
    # A conflict record is not an excuse where nobody else writes.
    conflicts = [line("put", "r", "a", "conflict")]
    assert story.caught(checkers.stale_overwrites, conflicts, r="a") != []


def test_a_dead_process_does_not_overwrite_its_successor(story: Story) -> None:
    """I3: what a killed process left open is older than what the next one was told."""
    story("w0.0", "put", "r", "open", "info", ended=math.inf)
    story("w0.1", "put", "r", "next")
    assert story.caught(checkers.stale_overwrites, r="next") == []
    assert story.caught(checkers.stale_overwrites, r="open") != []


def test_two_writers_of_a_document_may_overlap(story: Story) -> None:
    """I3: of two writers the one that ended first must not win, unless a conflict records it."""
    story("w0.0", "put", "r", "a", invoked=0.0, ended=10.0)
    story("w1.0", "put", "r", "b", invoked=5.0, ended=7.0)
    for winner in "ab":
        assert story.caught(checkers.stale_overwrites, r=winner) == []
    story("w1.0", "put", "r", "c", invoked=11.0, ended=12.0)
    assert story.caught(checkers.stale_overwrites, r="c") == []
    assert story.caught(checkers.stale_overwrites, r="a") != []
    conflicts = [line("put", "r", "a", "conflict")]
    assert story.caught(checkers.stale_overwrites, conflicts, r="a") == []


def test_versions_that_go_back_are_found(story: Story) -> None:
    """I3: a writer that is told a lower or the same version again is reported."""
    story("w0.0", "put", "r", "a", version=3)
    story("w0.0", "put", "r", "b", version=None)
    story("w0.1", "put", "r", "c", version=4)
    assert story.caught(checkers.versions_go_back, r="c") == []
    story("w0.1", "put", "r", "d", version=4)
    assert story.caught(checkers.versions_go_back, r="d") != []


@pytest.mark.parametrize(
    ("f", "values", "good", "bad"),
    [
        ("append", ("a", "b"), [["a", "x", "b"], ["a", "b", "x"]], [["a"], [], None]),
        ("put", ("a", "b"), ["b"], ["a", "x", None]),
        ("increment", (1, 2), [3, 10], [2, 0, None]),
    ],
)
def test_a_read_that_misses_own_writes_is_found(
    story: Story, f: str, values: tuple[Any, Any], good: list[Any], bad: list[Any]
) -> None:
    """I12: a process sees what it was told, and so does one that follows it in its directory."""
    for value in values:
        story("w0.0", f, "k", value)
    writes, now = list(story.operations), story.now
    story.life("w0.0", ended=now)
    story.now += 1
    story.life("w9.0")
    for reader in ("w0.0", "w9.0"):
        for result, fine in [(one, True) for one in good] + [(one, False) for one in bad]:
            story.operations = list(writes)
            story(reader, "read", "k", "local", result=result)
            assert (story.caught(checkers.read_your_writes) == []) is fine, (reader, result)


def test_a_read_owes_nothing_to_others(story: Story) -> None:
    """I12: calls in doubt, living processes and other directories need not show."""
    story("w0.0", "append", "l", "a", "info")
    story("w0.0", "append", "l", "b", "fail")
    story("w0.0", "read", "l", None, result=[])
    story("w0.0", "append", "l", "c")
    story.life("w1.0", "A")
    story.life("w2.0", "B")
    story("w1.0", "read", "l", None, result=None)
    story.life("w0.0", ended=story.now)
    story.now += 1
    story.life("w2.1", "B")
    story("w2.1", "read", "l", None, result=[])
    assert story.caught(checkers.read_your_writes) == []
    story.life("w1.1", "A")
    story("w1.1", "read", "l", None, result=[])
    assert story.caught(checkers.read_your_writes) != []


def test_a_register_that_another_process_wrote_since_may_be_read(story: Story) -> None:
    """I12: a newer value of a process of the same directory is no missed write."""
    story("w0.0", "put", "r", "a")
    story("w1.0", "put", "r", "b")
    story("w0.0", "read", "r", None, result="b")
    assert story.caught(checkers.read_your_writes) == []
    story("w0.0", "put", "r", "c")
    story("w0.0", "read", "r", None, result="b")
    assert story.caught(checkers.read_your_writes) != []


def test_what_is_set_aside_needs_a_cause(story: Story) -> None:
    """I5: an op that nothing conflicts with must not become a conflict."""
    story("w0.0", "append", "l", "a")
    story("w0.0", "cas", "s", "b")
    assert story.caught(checkers.rejected_without_cause, [line("append", "l", "a")]) != []
    fine = [line("put", "s", ["b"], "condition"), line("put", "r", "x", "conflict")]
    assert story.caught(checkers.rejected_without_cause, fine) == []


def test_foreign_errors_are_found(story: Story) -> None:
    """An error from outside of the tree is a bug, whatever became of the data."""
    story("w0.0", "append", "l", "a", "info", error="KeyError", foreign=True)
    assert story.caught(checkers.foreign_errors, l=["a"]) != []


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What a process wrote before it was killed is all there: open calls are in doubt."""
    path = tmp_path / "w0.jsonl"
    history = History(path, "w0.0", worker="w0", directory="A")
    first = history.invoke("append", "c", "l", "a")
    history.done(first, "ok", result=["a"])
    second = history.invoke("put", "c", "r", "x")
    history.done(second, "fail", error="ConflictError(conflict)")
    history.invoke("increment", "c", "n", 1)
    with path.open("ab") as torn:
        torn.write(b'{"process": "w0.0", "type": "ok", "i"')
    nemesis = History(tmp_path / "nemesis.jsonl", "nemesis")
    nemesis.note("killed", victim="w0.0")
    nemesis.close()
    run = run_of(read_lines([path, tmp_path / "nemesis.jsonl"]))
    assert [(op.f, op.type) for op in run.operations] == [
        ("append", "ok"),
        ("put", "fail"),
        ("increment", "info"),
    ]
    assert run.operations[0].result == ["a"]
    assert run.operations[2].ended == run.lives["w0.0"].ended < math.inf
    assert run.lives["w0.0"].directory == "A"
    assert all(json.loads(text) for text in path.read_text().splitlines()[:-1])
