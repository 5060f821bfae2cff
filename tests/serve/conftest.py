from __future__ import annotations

from pathlib import Path

import pytest

from support.outage import Outage


@pytest.fixture
def outage(pg_prepared: str, pg_admin_url: str, tmp_path: Path) -> Outage:
    """A fresh PostgreSQL database that the test can take away, with its data directories."""
    # It refuses at once: no call has to wait for a deadline, however slow the machine is.
    return Outage(pg_prepared, tmp_path, admin_url=pg_admin_url, deadline_s=10.0)
