from __future__ import annotations

import pytest

from support.moving import Place
from support.place_fixtures import embedded, place

__all__ = ["embedded", "place"]


@pytest.fixture
def filled(embedded: Place) -> Place:
    """A database with a run, and a file that is still to be migrated."""
    embedded.moved(embedded.write("views.json", {"a": {"x": 1}, "b": 2}))
    embedded.moved(embedded.write("log.jsonl", "1\n2\n"))
    embedded.write("more.json", {"c": 3})
    return embedded
