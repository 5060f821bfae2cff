"""What goes wrong in a drill, and when: a schedule made from a seed, and who carries it out.

The same seed gives the same schedule.  One fault follows the other; in an outage, writers may be
killed as well.  Every fault is ended and looked after (`healed`) before the next begins, and all of
them at the end, however it comes.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from chaos.world import World, Writer
from support import backends

#: The environment variable that replays one seed instead of those of the tests.
SEED_VARIABLE = "CHAOS_SEED"
_HEAL_LIMIT_S = 30.0


@dataclass(frozen=True)
class Step:
    """One fault: when it begins, how long it lasts, and a number that picks what it hits.

    `inner` is a fault of the writers in the middle of it.
    """

    at_s: float
    fault: str
    for_s: float = 0.0
    pick: int = 0
    inner: str = ""

    def __str__(self) -> str:
        inner = f" with {self.inner}" if self.inner else ""
        return f"{self.at_s:5.2f} s  {self.fault}({self.pick}) for {self.for_s:.2f} s{inner}"


#: Faults with their weights, their shortest and longest duration in seconds.
FAULTS: dict[str, tuple[int, float, float]] = {
    "kill_server": (3, 0.1, 1.5),
    "freeze_server": (3, 0.5, 3.0),
    "restart_server": (2, 0.0, 0.5),
    "freeze_backend": (3, 0.5, 2.0),
    "kill_backend": (1, 0.0, 0.0),
    "terminate_backends": (2, 0.0, 0.0),
    "drop_commit_replies": (4, 0.2, 0.8),
    "reset_before_commits": (1, 0.2, 0.5),
    "hold_commits": (3, 0.5, 1.5),
    "blackhole": (3, 0.5, 1.5),
    "refuse": (2, 0.3, 1.5),
    "kill_writer": (2, 0.0, 0.3),
    "kill_writers": (1, 0.0, 0.3),
}
_OUTAGES = ("kill_server", "freeze_server", "blackhole", "refuse")
_INNER = ("", "", "", "kill_writer", "kill_writers")


def schedule(seed: int, *, duration_s: float) -> list[Step]:
    """The faults of one drill, with pauses between them, all begun before `duration_s`."""
    choose = random.Random(f"nemesis:{seed}")
    steps: list[Step] = []
    at_s = choose.uniform(0.2, 0.6)
    while at_s < duration_s:
        names, weights = list(FAULTS), [weight for weight, _, _ in FAULTS.values()]
        (fault,) = choose.choices(names, weights)
        _, shortest, longest = FAULTS[fault]
        for_s = round(choose.uniform(shortest, longest), 2)
        inner = choose.choice(_INNER)
        pick = choose.randrange(1000)
        steps.append(Step(round(at_s, 2), fault, for_s, pick, inner if fault in _OUTAGES else ""))
        at_s += for_s + choose.uniform(0.2, 0.9)
    return steps


def chosen_seeds(*seeds: int) -> list[int]:
    """The seeds to run: these, or the one that the environment names."""
    named = os.environ.get(SEED_VARIABLE)
    return [int(named)] if named else list(seeds)


class Nemesis:
    """Carries a schedule out on a world: `with Nemesis(world, steps) as nemesis: nemesis.run()`."""

    def __init__(self, world: World, steps: list[Step]) -> None:
        self.world = world
        self.steps = steps
        self._never = threading.Event()
        self._faults: dict[str, Callable[[Step], AbstractContextManager[None]]] = {
            name: getattr(self, f"_{name}") for name in FAULTS
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.heal()

    def run(self, *, duration_s: float = 0.0) -> None:
        """The whole schedule from now on; returns when its last fault is healed and time is up."""
        begun = time.monotonic()
        for step in self.steps:
            self._pace(begun + step.at_s)
            self.strike(step)
        self._pace(begun + duration_s)

    def strike(self, step: Step) -> None:
        """One fault from its beginning until it is healed."""
        self.world.history.note("fault", fault=str(step))
        with self._faults[step.fault](step):
            end = time.monotonic() + step.for_s
            if step.inner:
                self._pace(end - step.for_s / 2)
                with self._faults[step.inner](step):
                    pass
            self._pace(end)
        self.healed()
        self.world.history.note("healed", fault=step.fault)

    def heal(self) -> None:
        """End every fault, in whatever state things are."""
        with ExitStack() as stack:
            stack.callback(self.world.proxy.heal)
            stack.callback(self.world.cluster.start)
            stack.callback(self.world.cluster.thaw)

    def healed(self) -> None:
        """Return when the server answers through the proxy and every writer lives."""
        world = self.world
        backends.wait_answering(world.url, timeout_s=_HEAL_LIMIT_S)
        backends.wait_answering(world.proxied, timeout_s=_HEAL_LIMIT_S)
        if dead := [writer.name for writer in world.writers if not writer.alive]:
            logs = "\n".join(writer.log() for writer in world.writers)
            raise RuntimeError(f"writers ended by themselves: {dead}\n{logs}")

    def _pace(self, at: float) -> None:
        self._never.wait(max(0.0, at - time.monotonic()))

    # ---- the server

    @contextmanager
    def _kill_server(self, step: Step) -> Generator[None]:
        self.world.cluster.kill()
        try:
            yield
        finally:
            self.world.cluster.start()

    @contextmanager
    def _freeze_server(self, step: Step) -> Generator[None]:
        try:
            self.world.cluster.freeze()
            yield
        finally:
            self.world.cluster.thaw()

    @contextmanager
    def _restart_server(self, step: Step) -> Generator[None]:
        self.world.cluster.stop("fast")
        try:
            yield
        finally:
            self.world.cluster.start()

    @contextmanager
    def _freeze_backend(self, step: Step) -> Generator[None]:
        with ExitStack() as stack:
            if found := backends.backends(self.world.url):
                pid = found[step.pick % len(found)].pid
                # One that ends by itself in this moment needs no freezing.
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    cluster, leash = self.world.cluster, self.world.leash
                    stack.enter_context(backends.frozen(cluster, pid, leash=leash))
            yield

    @contextmanager
    def _kill_backend(self, step: Step) -> Generator[None]:
        if found := backends.backends(self.world.url):
            with contextlib.suppress(ProcessLookupError):
                backends.kill(self.world.cluster, found[step.pick % len(found)].pid)
        yield

    @contextmanager
    def _terminate_backends(self, step: Step) -> Generator[None]:
        backends.terminate(self.world.url)
        yield

    # ---- the network

    @contextmanager
    def _drop_commit_replies(self, step: Step) -> Generator[None]:
        self.world.proxy.drop_commit_replies(1 + step.pick % 5)
        try:
            yield
        finally:
            self.world.proxy.disarm()

    @contextmanager
    def _reset_before_commits(self, step: Step) -> Generator[None]:
        self.world.proxy.reset_before_commits(1 + step.pick % 5)
        try:
            yield
        finally:
            self.world.proxy.disarm()

    @contextmanager
    def _hold_commits(self, step: Step) -> Generator[None]:
        self.world.proxy.hold_commits(1 + step.pick % 3)
        try:
            yield
        finally:
            self.world.proxy.heal(held="thaw")

    @contextmanager
    def _blackhole(self, step: Step) -> Generator[None]:
        self.world.proxy.blackhole()
        try:
            yield
        finally:
            self.world.proxy.heal(held="thaw" if step.pick % 2 else "cut")

    @contextmanager
    def _refuse(self, step: Step) -> Generator[None]:
        self.world.proxy.refuse()
        try:
            yield
        finally:
            self.world.proxy.heal()

    # ---- the writers

    @contextmanager
    def _kill_writer(self, step: Step) -> Generator[None]:
        writers = self.world.writers
        with self._killed([writers[step.pick % len(writers)]]):
            yield

    @contextmanager
    def _kill_writers(self, step: Step) -> Generator[None]:
        with self._killed(self.world.writers):
            yield

    @contextmanager
    def _killed(self, victims: list[Writer]) -> Generator[None]:
        for writer in victims:
            writer.kill()
        try:
            yield
        finally:
            for writer in victims:
                writer.start()
