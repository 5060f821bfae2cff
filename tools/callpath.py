"""Counts what one operation costs in our own code, over all threads, on a real PostgreSQL.

    .venv/bin/python tools/callpath.py [--calls] [--url URL]

For each operation, between the caller and the SQL statement and back: calls of functions in
`src/standfast`, the files that they are in, and the types whose methods they are.  What threads do
at times of their own (connections, files, old rows) is no part of it.  A generator or
coroutine counts once, however often it is resumed; comprehensions, which newer versions of Python
inline, do not count.  Each operation is done several times; the median is printed, as a Markdown
table.  `--calls` lists the calls of each operation as well; without `--url`, of an empty database,
a server is started for it.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import standfast  # noqa: E402
from standfast.engine.replicated import ReplicatedEngine  # noqa: E402
from standfast.engine.state_machine import Lost, Mode  # noqa: E402
from support.cluster import Cluster  # noqa: E402

_OURS = str(ROOT / "src" / "standfast") + "/"
_ROUNDS = 9
#: Threads whose work no operation asks for, or that do it at a time of their own.
_BESIDE = frozenset(
    f"standfast-{name}"
    for name in ("connector", "connect", "housekeeper", "trimmer", "checkpointer", "watchdog")
)
#: Nothing of ours runs any more when no call was made for this long.
_QUIET_S = 0.05
_PATIENCE_S = 20.0


class Trace:
    """The calls of our functions since it was last cleared, in the order in which they began."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str | None]] = []
        # Kept, so that no other frame gets the address of one that was counted.
        self._frames: dict[int, FrameType] = {}

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        """What `sys.setprofile` calls."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(_OURS) or code.co_name[0] == "<":
            return
        if id(frame) in self._frames or threading.current_thread().name in _BESIDE:
            return
        self._frames[id(frame)] = frame
        owner = frame.f_locals.get("self")
        self.calls.append(
            (
                code.co_filename.removeprefix(_OURS),
                code.co_qualname,
                None if owner is None else type(owner).__qualname__,
            )
        )

    def of(self, operation: Callable[[], object]) -> list[tuple[str, str, str | None]]:
        """The calls of one operation, and of what the threads do until all is quiet again."""
        self.calls = []
        operation()
        seen = -1
        while len(self.calls) != seen:
            seen = len(self.calls)
            time.sleep(_QUIET_S)
        calls, self.calls = self.calls, []
        self._frames.clear()
        return calls


def _figures(traces: list[list[tuple[str, str, str | None]]]) -> tuple[int, int, int]:
    def median(counts: list[int]) -> int:
        return int(statistics.median_high(counts))

    return (
        median([len(calls) for calls in traces]),
        median([len({file for file, _, _ in calls}) for calls in traces]),
        median([len({owner for _, _, owner in calls if owner}) for calls in traces]),
    )


def _engine_of(store: standfast.Store) -> ReplicatedEngine:
    engine = store.calls.engine
    assert isinstance(engine, ReplicatedEngine), "a PostgreSQL store has a replicated engine"
    return engine


def _wait_for(mode: Mode, engine: ReplicatedEngine) -> None:
    until = time.monotonic() + _PATIENCE_S
    while engine.mode is not mode:
        assert time.monotonic() < until, f"the store did not become {mode}"
        time.sleep(0.005)


def _measure(url: str, data_dir: Path) -> dict[str, list[list[Any]]]:
    trace = Trace()
    threading.setprofile(trace.note)
    sys.setprofile(trace.note)
    found: dict[str, list[list[Any]]] = {}
    with standfast.open(url, data_dir=data_dir) as store:
        engine = _engine_of(store)
        _wait_for(Mode.DIRECT, engine)
        things = store["things"]
        things.put("1", {"n": 0})
        time.sleep(_QUIET_S)
        operations: dict[str, Callable[[int], object]] = {
            "put": lambda n: things.put("1", {"n": n}),
            "get": lambda n: things.get("1"),
            "patch": lambda n: things.patch("1", {"n": n}),
        }
        for name, operation in operations.items():
            trace.of(lambda op=operation: op(0))
            found[name] = [trace.of(lambda op=operation, n=n: op(n)) for n in range(_ROUNDS)]
        # As in an outage that lasts until the replay is called for.
        engine._connector.timer.close()  # pyright: ignore[reportPrivateUsage]
        engine.post(Lost("stopped"))
        _wait_for(Mode.JOURNALING, engine)
        things.put("0", {"n": 0})
        time.sleep(_QUIET_S)
        found["journaled put"] = [
            trace.of(lambda n=n: things.put(str(n), {"n": n})) for n in range(1, _ROUNDS + 1)
        ]
        engine.replayer.backend.connect(time.monotonic() + _PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        replay = trace.of(lambda: engine.replayer.drain(until="empty", deadline=deadline))
        found[f"replay of {_ROUNDS + 1} puts"] = [replay]
    sys.setprofile(None)
    threading.setprofile(None)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", action="store_true", help="list the calls of each operation")
    parser.add_argument("--url", help="an empty database to do it on")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = asked.url or stack.enter_context(Cluster()).url()
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        found = _measure(url, Path(folder) / "storage")
    print("| operation | calls | files | types |\n|---|---|---|---|")
    for name, traces in found.items():
        calls, files, types = _figures(traces)
        print(f"| {name} | {calls} | {files} | {types} |")
    if asked.calls:
        for name, traces in found.items():
            print(f"\n{name}")
            for (file, function, _), count in Counter(traces[-1]).items():
                print(f"  {count:3} {file}:{function}")


if __name__ == "__main__":
    main()
