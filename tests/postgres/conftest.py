"""What the tests against PostgreSQL share: plain SQL beside a store, and roles without rights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.pg import Sql, new_role


@pytest.fixture
def db(pg_database: str) -> Iterator[Sql]:
    """A connection of another program to the test's own database."""
    with Sql(pg_database) as connection:
        yield connection


@pytest.fixture
def role(pg_admin_url: str) -> Iterator[str]:
    """A role without rights; ask for it before `pg_database`, which must be gone first."""
    with new_role(pg_admin_url) as name:
        yield name
