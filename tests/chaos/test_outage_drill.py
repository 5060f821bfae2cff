"""Three writers, two data directories, one server that everything happens to.

`CHAOS_SEED=7 make chaos ARGS="-k drill"` runs one seed; what a failed run left is in its folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.checkers import check
from chaos.history import Run
from chaos.nemesis import FAULTS, Nemesis, chosen_seeds, schedule
from chaos.world import World
from support.cluster import Cluster

LOAD_S = 6.0


def drill(
    cluster: Cluster,
    url: str,
    folder: Path,
    *,
    seed: int,
    rtt_ms: float = 0.0,
    deadline_s: float = 0.5,
) -> Run:
    """Load with faults, heal, drain, check; the run, whose checks have passed."""
    steps = schedule(seed, duration_s=LOAD_S)
    plan = "\n".join(map(str, steps))
    print(f"seed {seed}, histories in {folder}\n{plan}")  # noqa: T201
    with World(cluster, url, folder, seed=str(seed), rtt_ms=rtt_ms, deadline_s=deadline_s) as world:
        with Nemesis(world, steps) as nemesis:
            nemesis.run(duration_s=LOAD_S)
        problems = world.drain()
        run, final = world.run(), world.final()
    problems += map(str, check(run, final))
    shown = "\n".join(problems[:20])
    assert not problems, f"seed {seed}: {len(problems)} violations\n{shown}\n{plan}"
    return run


def assert_worked(run: Run) -> None:
    """A drill proves something only if much was acknowledged."""
    done = [op for op in run.operations if op.type == "ok"]
    for f in ("append", "increment", "put", "read"):
        assert sum(op.f == f for op in done) > 10, f


@pytest.mark.parametrize("seed", chosen_seeds(24))
def test_outage_drill(mortal_cluster: Cluster, mortal_url: str, tmp_path: Path, seed: int) -> None:
    """I1-I3, I5, I12: whatever happens to server, network and writers, no acknowledged write is
    lost, none is applied twice or out of order, and each process reads its own."""
    assert_worked(drill(mortal_cluster, mortal_url, tmp_path, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", chosen_seeds(59, *range(100, 132)))
def test_outage_drill_at_length(
    mortal_cluster: Cluster, mortal_url: str, tmp_path: Path, seed: int
) -> None:
    """I1-I3, I5, I12: the same with more seeds; each is a schedule of its own."""
    assert_worked(drill(mortal_cluster, mortal_url, tmp_path, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", chosen_seeds(*range(200, 208)))
def test_outage_drill_from_afar(
    mortal_cluster: Cluster, mortal_url: str, tmp_path: Path, seed: int
) -> None:
    """I1-I3, I5, I12, R20: the same with the server a round trip of 80 ms away, and the default
    deadline."""
    assert_worked(drill(mortal_cluster, mortal_url, tmp_path, seed=seed, rtt_ms=80, deadline_s=1.0))


def test_a_seed_is_a_schedule() -> None:
    """The same seed gives the same faults, another one others; every fault occurs."""
    many = [schedule(seed, duration_s=LOAD_S) for seed in range(50)]
    assert many == [schedule(seed, duration_s=LOAD_S) for seed in range(50)]
    assert len({tuple(steps) for steps in many}) == 50
    assert {step.fault for steps in many for step in steps} == set(FAULTS)
