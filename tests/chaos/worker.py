"""A writer process: a seeded mix of calls against one store, everything written to its history.

    CHAOS_URL=postgresql://... python -m chaos.worker --seed 1 --data-dir D --directory A \
        --worker w0 --incarnation 0 --history FILE

It goes on until it has made `--ops` calls or reads `stop` on stdin; then it flushes, closes and
ends with 0 when everything is drained, with 3 when not.  At the end of its input, which means that
the test is gone, it ends at once.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import sys
from collections.abc import Callable
from pathlib import Path

from chaos.api import flush, open_patiently
from chaos.calls import COUNTERS, LISTS, REGISTERS, Calls
from chaos.history import History

NOT_DRAINED = 3
_FLUSH_S = 30.0


class Worker:
    """Makes the calls of one process, one after the other."""

    def __init__(self, calls: Calls, *, seed: str, names: argparse.Namespace) -> None:
        self.calls = calls
        self.process = f"{names.worker}.{names.incarnation}"
        self.own = f"own-{names.worker}"
        self.directory = f"dir-{names.directory}"
        self._choose = random.Random(f"{seed}:{self.process}")
        self._count = 0
        self._steps: list[tuple[int, Callable[[], object]]] = [
            (30, self.append),
            (20, self.increment),
            (20, self.put),
            (8, self.claim),
            (22, self.look),
        ]

    def step(self) -> None:
        """One call, chosen by the seed."""
        steps = [step for _, step in self._steps]
        (step,) = self._choose.choices(steps, [weight for weight, _ in self._steps])
        step()

    def append(self) -> None:
        self.calls.append(self._choose.choice([self.own, "shared-0", "shared-1"]), self._token())

    def increment(self) -> None:
        self.calls.increment(
            self._choose.choice([self.own, "shared-0"]), self._choose.randrange(1, 100)
        )

    def put(self) -> None:
        keys = [f"{self.own}-0", f"{self.own}-1", self.directory]
        self.calls.put(self._choose.choice(keys), self._token())

    def claim(self) -> None:
        self.calls.claim("shared-0", self._token())

    def look(self) -> None:
        places = [
            (LISTS, self.own),
            (LISTS, "shared-0"),
            (COUNTERS, self.own),
            (COUNTERS, "shared-0"),
            (REGISTERS, f"{self.own}-0"),
            (REGISTERS, self.directory),
        ]
        collection, key = self._choose.choice(places)
        self.calls.read(collection, key, local=self._choose.random() < 0.5)

    def _token(self) -> str:
        self._count += 1
        return f"{self.process}:{self._count}"


def control(pause_s: float) -> str:
    """The next line of the test within that time: "" for none, "gone" at the end of the input."""
    if not select.select([0], [], [], pause_s)[0]:
        return ""
    return os.read(0, 100).decode().strip() or "gone"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--incarnation", type=int, default=0)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--ops", type=int, default=20_000)
    parser.add_argument("--deadline-s", type=float, default=0.5)
    parser.add_argument("--pause-s", type=float, default=0.01)
    return parser.parse_args()


def main() -> int:
    names = arguments()
    process = f"{names.worker}.{names.incarnation}"
    history = History(names.history, process, worker=names.worker, directory=names.directory)
    url = os.environ["CHAOS_URL"]
    store = open_patiently(url, names.data_dir, deadline_s=names.deadline_s)
    history.note("open")
    worker = Worker(Calls(store, history), seed=names.seed, names=names)
    for _ in range(names.ops):
        worker.step()
        said = control(names.pause_s)
        if said == "gone":
            return 1
        if said == "stop":
            break
    drained = flush(store, timeout_s=_FLUSH_S)
    store.close()
    history.note("drained" if drained else "not drained")
    history.close()
    return 0 if drained else NOT_DRAINED


if __name__ == "__main__":
    sys.exit(main())
