"""Every rule of the write path is needed: with a bug planted in its place, its scenario fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos import plant_scenarios, plant_scenarios_pg
from chaos.plants import PLANTS
from support.cluster import Cluster

_RULES = Path(__file__).parents[2] / "docs" / "rules.md"
_IN_MEMORY = list(plant_scenarios.SCENARIOS)
_ON_A_SERVER = list(plant_scenarios_pg.SCENARIOS)


@pytest.mark.parametrize("name", _IN_MEMORY)
def test_planted_bug(tmp_path: Path, name: str) -> None:
    """The scenario of a rule is clean on the real code, and finds what it is for with the bug."""
    plant = PLANTS[name]
    assert plant_scenarios.run_in_memory(name, tmp_path / "real") == set()
    with plant.planted():
        found = plant_scenarios.run_in_memory(name, tmp_path / "planted")
    assert found == {plant.finds}


@pytest.mark.parametrize("name", _ON_A_SERVER)
def test_planted_bug_in_sql(
    mortal_cluster: Cluster, mortal_url: str, tmp_path: Path, name: str
) -> None:
    """The same for rules that PostgreSQL carries out."""
    plant, run = PLANTS[name], plant_scenarios_pg.run_on_a_server
    assert run(name, mortal_cluster, mortal_url, tmp_path / "real", plant="") == set()
    with plant.planted():
        found = run(name, mortal_cluster, mortal_url, tmp_path / "planted", plant=name)
    assert found == {plant.finds}


def test_every_plant_has_a_scenario_and_a_line() -> None:
    """docs/rules.md names each planted bug with its rule and its test, and no other."""
    assert sorted(PLANTS) == sorted(_IN_MEMORY + _ON_A_SERVER)
    lines = re.findall(
        r"^\| ([^|]+?) \| [^|]+ \| ([^|]+?) \| `(\w+)\[([a-z-]+)\]` \|$", _RULES.read_text(), re.M
    )
    tests = dict.fromkeys(_IN_MEMORY, "test_planted_bug")
    tests |= dict.fromkeys(_ON_A_SERVER, "test_planted_bug_in_sql")
    told = {name: (rule, bug, test) for rule, bug, test, name in lines}
    assert len(told) == len(lines)
    assert told == {name: (plant.rule, plant.says, tests[name]) for name, plant in PLANTS.items()}
