"""The app is killed at every failpoint of the engine; others open what it leaves."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from chaos.nemesis import chosen_seeds
from support.cluster import Cluster
from support.leash import Leash
from support.outage_points import (
    DROP,
    FAILOVER,
    FRESH,
    HOLD,
    LAST_RESORT,
    LEFT_BEHIND,
    in_engine,
)
from support.outage_stage import Apps, Scene, Server

#: Points that are tried at the same time: most of the time they wait.
_AT_ONCE = 3
#: Cases that are begun before their tests: enough for the threads. Those far ahead may be another
#: worker's.
_AHEAD = 6
_SCENARIOS = {"left": LEFT_BEHIND, "fresh": FRESH}
_EACH = [(name, point) for name, points in _SCENARIOS.items() for point in points]
#: Each step once; those that both scenarios come to are killed at in the second, too, in long runs.
_ONCE = [
    pytest.param(*each, marks=pytest.mark.slow)
    if each[0] == "fresh" and each[1] in LEFT_BEHIND
    else each
    for each in _EACH
]
_SLOW_SEEDS = chosen_seeds(1, 2, 3, 4, 5)


class Case(NamedTuple):
    """Where the first process of a scenario is killed, and by which seed the rest is chosen."""

    scenario: str
    point: str
    seed: int

    @property
    def failpoint(self) -> str:
        """The first time, or with a seed any time that the scenario comes there."""
        most = _SCENARIOS[self.scenario][self.point]
        number = random.Random(str(self)).randint(1, most) if self.seed else 1
        return f"{self.point}@{number}"

    @property
    def next_failpoint(self) -> str:
        """Where the second process is killed, if it comes there; mostly it is."""
        choose = random.Random(f"next {self}")
        return choose.choice([f"{choose.choice(list(LEFT_BEHIND))}@{choose.choice([1, 1, 2])}", ""])


class Trials:
    """Carries the cases out, some at a time, before a test asks for their results."""

    def __init__(self, server: Server, folder: Path, cases: list[Case]) -> None:
        self._cases = cases
        self._server = server
        self._folder = folder
        self._leash = Leash()
        self._idle: SimpleQueue[Apps] = SimpleQueue()
        self._apps = [Apps(self._leash) for _ in range(_AT_ONCE)]
        for apps in self._apps:
            self._idle.put(apps)
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._left = Scene.fresh(server, self._apps[0], folder / "left-behind")
        for role in ("doubter", "outsider"):
            assert self._left.play(role) == -signal.SIGKILL, self._left.log()
        server.quiet(self._left.name)
        self._results: dict[Case, Future[list[str]]] = {}

    def result(self, case: Case) -> list[str]:
        at = self._cases.index(case)
        for each in self._cases[at : at + _AHEAD]:
            if each not in self._results:
                self._results[each] = self._pool.submit(self._run, each)
        return self._results[case].result()

    def _run(self, case: Case) -> list[str]:
        apps = self._idle.get()
        try:
            folder = self._folder / "-".join(map(str, case))
            if case.scenario == "left":
                scene = self._left.copy(folder, apps, seed=case.seed)
            else:
                scene = Scene.fresh(self._server, apps, folder, seed=case.seed)
            return kill_at(scene, case)
        finally:
            self._idle.put(apps)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for apps in self._apps:
            apps.close()
        self._leash.close()


def kill_at(scene: Scene, case: Case) -> list[str]:
    """The life that ends there, the second that mostly ends somewhere, and the last; what is
    wrong then."""
    code = scene.play("life", case.failpoint)
    # A number that a seed has chosen may be more than the scenario's timing gives.
    if code != -signal.SIGKILL and not (case.seed and code in (0, 3)):
        return [f"not killed at {case.failpoint} but ended with {code}: {scene.log()}"]
    code = scene.play("heir", case.next_failpoint)
    if code not in (0, -signal.SIGKILL):
        return [f"the second ended with {code}: {scene.log()}"]
    scene.age()
    code = scene.play("last")
    if code:
        return [f"the last ended with {code}: {scene.log()}"]
    return [f"{case} (then {case.next_failpoint}): {found}" for found in scene.violations()]


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trials]:
    cases: list[Case] = []
    for item in request.session.items:
        if item.path == request.path and isinstance(item, pytest.Function):
            found = getattr(item, "callspec", None)
            if found is not None:
                cases.append(Case(**{"seed": 0, **found.params}))
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        trials = Trials(Server(cluster), tmp_path_factory.mktemp("points"), cases)
        stack.callback(trials.close)
        yield trials


@pytest.mark.parametrize(("scenario", "point"), _ONCE)
def test_killed_at_every_failpoint(trials: Trials, scenario: str, point: str) -> None:
    """I1, I2, I3, I12, R1: whatever step kill -9 meets, every acknowledged write is on the primary
    exactly once or among the conflicts, one in doubt at most once, batches are whole, the next
    process sees all of it before it reaches the primary, and in the end nothing is pending and no
    lane is open."""
    assert trials.result(Case(scenario, point, 0)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", _SLOW_SEEDS)
@pytest.mark.parametrize(("scenario", "point"), _EACH)
def test_killed_at_any_time(trials: Trials, scenario: str, point: str, seed: int) -> None:
    """I1, I2, I3, I12, R1: the same at any of the times that a step is made, with writes in another
    order, and with the app ending in an outage every other time."""
    assert trials.result(Case(scenario, point, seed)) == []


def test_every_failpoint_of_the_engine_has_a_crash_test() -> None:
    """A step that is marked in the code is one that a test kills at, and the other way round."""
    found = list(in_engine())
    assert [where for where, name in found if not name] == []
    names = [name for _, name in found]
    assert set(names) == HOLD.keys() | LAST_RESORT | FAILOVER | DROP
    assert len(set(names)) == len(names), "a name means one step"


def test_there_are_enough_of_them() -> None:
    """At least thirty steps of the engine itself are killed at."""
    assert sum("/engine/" in where for where, _ in in_engine()) >= 30
