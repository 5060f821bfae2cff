"""Every rule of the write path is needed: with a bug planted in its place, its scenario fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.plant_scenarios import SCENARIOS, run_in_memory
from chaos.plants import PLANTS


@pytest.mark.parametrize("name", SCENARIOS)
def test_planted_bug(tmp_path: Path, name: str) -> None:
    """The scenario is clean on the real code, and finds what it is for with the bug."""
    assert run_in_memory(name, tmp_path / "real") == set()
    plant = PLANTS[name]
    with plant.planted():
        found = run_in_memory(name, tmp_path / "planted")
    assert plant.finds in found
