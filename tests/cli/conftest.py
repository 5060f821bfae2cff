from __future__ import annotations

from pathlib import Path

import pytest

from support.moving import Place
from support.outage import Outage
from support.place_fixtures import embedded, place

__all__ = ["embedded", "place"]


@pytest.fixture
def filled(embedded: Place) -> Place:
    """A database with a run, and a file that is still to be migrated."""
    embedded.moved(embedded.write("views.json", {"a": {"x": 1}, "b": 2}))
    embedded.moved(embedded.write("log.jsonl", "1\n2\n"))
    embedded.write("more.json", {"c": 3})
    return embedded


@pytest.fixture
def outage(pg_prepared: str, pg_admin_url: str, tmp_path: Path) -> Outage:
    """A fresh PostgreSQL database that the test can take away, with its data directories."""
    # It refuses at once: no call has to wait for a deadline, however slow the machine is.
    return Outage(pg_prepared, tmp_path, admin_url=pg_admin_url, deadline_s=10.0)
