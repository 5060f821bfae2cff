"""What happened in a run: one file of JSON lines for each process, written as it happens.

A line is written before a call (`invoke`) and after it: `ok` (acknowledged), `fail` (surely not
done) or `info` (nobody knows).  Each is one `write` to a file opened for appending, so a history
holds up to a `kill -9` everything that its process knew.  A call that has no second line was open
when its process died: `info`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["ok", "fail", "info"]


class History:
    """Writes the history of one process."""

    def __init__(self, path: Path, process: str, *, worker: str = "", directory: str = "") -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._process = process
        self._next = 0
        self.note("start", worker=worker or process, directory=directory, pid=os.getpid())

    def note(self, kind: str, **fields: Any) -> None:
        """One line of any type."""
        line = {"process": self._process, "type": kind, **fields, "t_mono": time.monotonic()}
        data = json.dumps(line).encode() + b"\n"
        if os.write(self._fd, data) != len(data):
            raise OSError("the history could not be written")

    def invoke(self, f: str, collection: str, key: str, value: Any) -> int:
        """A call is about to be made; returns its number."""
        self._next += 1
        self.note("invoke", i=self._next, f=f, collection=collection, key=key, value=value)
        return self._next

    def done(self, i: int, kind: Kind, **fields: Any) -> None:
        """The call has ended."""
        self.note(kind, i=i, **fields)

    def close(self) -> None:
        self.note("end")
        os.close(self._fd)


@dataclass(frozen=True)
class Operation:
    """One call: who made it, on what, how it ended, and what it returned.

    A worker goes on under the name of another process after each kill; `ended` is infinite for a
    call whose end nobody saw.
    """

    process: str
    worker: str
    directory: str
    i: int
    f: str
    collection: str
    key: str
    value: Any
    type: Kind
    invoked: float
    ended: float = math.inf
    result: Any = None
    version: int | None = None
    durable_on: str = ""
    lane: str = ""
    seq: int = 0
    error: str = ""
    foreign: bool = False

    def __str__(self) -> str:
        where = f"{self.collection}/{self.key}"
        until = "?" if math.isinf(self.ended) else f"{self.ended:.3f}"
        error = f" {self.error}" if self.error else ""
        durable = f" on {self.durable_on}" if self.durable_on else ""
        return (
            f"{self.process}#{self.i} {self.f} {where} {self.value!r} {self.type}{durable}{error}"
            f" [{self.invoked:.3f}, {until}]"
        )


@dataclass(frozen=True)
class Life:
    """One process from its start to its death (infinite: it was not seen to die)."""

    process: str
    worker: str
    directory: str
    started: float
    ended: float = math.inf


@dataclass(frozen=True)
class Run:
    """The histories of all processes, put together; operations in the order of invocation."""

    operations: list[Operation] = field(default_factory=list[Operation])
    lives: dict[str, Life] = field(default_factory=dict[str, Life])


def read_lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The lines of several files; a last one that a kill has torn is left out."""
    lines: list[dict[str, Any]] = []
    for path in paths:
        *whole, _ = path.read_bytes().split(b"\n")
        lines += map(json.loads, whole)
    return lines


def run_of(lines: Iterable[dict[str, Any]]) -> Run:
    """Put the lines of all processes together.

    A `killed` line names a process whose death the one who killed it has seen (`victim`).
    """
    starts: dict[str, dict[str, Any]] = {}
    ends: dict[str, float] = {}
    invoked: dict[tuple[str, int], dict[str, Any]] = {}
    done: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        process = line["process"]
        match line["type"]:
            case "start":
                starts[process] = line
            case "end":
                ends[process] = line["t_mono"]
            case "killed":
                ends[line["victim"]] = line["t_mono"]
            case "invoke":
                invoked[process, line["i"]] = line
            case "ok" | "fail" | "info":
                done[process, line["i"]] = line
            case _:
                pass
    lives = {
        name: Life(
            name, line["worker"], line["directory"], line["t_mono"], ends.get(name, math.inf)
        )
        for name, line in starts.items()
    }
    operations = [
        _operation(line, done.get(name), lives[name[0]]) for name, line in invoked.items()
    ]
    return Run(sorted(operations, key=lambda op: (op.invoked, op.process, op.i)), lives)


_RESULTS = ("result", "version", "durable_on", "lane", "seq", "error", "foreign")


def _operation(line: dict[str, Any], done: dict[str, Any] | None, life: Life) -> Operation:
    found = done or {"type": "info", "t_mono": life.ended, "error": "killed"}
    return Operation(
        process=life.process,
        worker=life.worker,
        directory=life.directory,
        **{name: line[name] for name in ("i", "f", "collection", "key", "value")},
        type=found["type"],
        invoked=line["t_mono"],
        ended=found["t_mono"],
        **{name: found[name] for name in _RESULTS if name in found},
    )
